"""The models, and hyperparameters to begin with."""

from typing import Literal

from tuneyard.cli.context import Context
from tuneyard.cli.datasets import dataset_id_of
from tuneyard.cli.exits import OK
from tuneyard.cli.options import Commands, add_page, command
from tuneyard.cli.text import pairs, short, table
from tuneyard.types import FinetuneRecommendation, Model, Page, TrainRecommendation


def add(commands: Commands) -> None:
    one = command(commands, "models", models, "list the models that a job can begin with")
    one.add_argument("model", nargs="?", metavar="MODEL", help="only this one: its slug or its id")
    one.add_argument("--owner", choices=("account", "catalog"), help="only your own, or the others")
    add_page(one)
    one = command(commands, "recommend", recommend, "say which hyperparameters to begin with")
    one.add_argument("type", choices=("finetune", "train"))
    one.add_argument("--method", choices=("dpo", "full", "lora"), help="of a fine-tune")
    one.add_argument("--model", metavar="MODEL", help="its slug or its id")
    one.add_argument("--dataset", metavar="FILE|ID", help="a file is uploaded")
    sizes = one.add_argument_group("or by size")
    sizes.add_argument("--params", type=int, metavar="N", help="parameters of the model")
    sizes.add_argument("--dataset-tokens", type=int, metavar="N")
    sizes.add_argument("--dataset-bytes", type=int, metavar="N")


def models(
    context: Context,
    *,
    model: str | None,
    owner: Literal["account", "catalog"] | None,
    limit: int | None,
    cursor: str | None,
) -> int:
    with context.client() as client:
        asking = client.models.with_raw_response
        if model is not None:
            context.reply(asking.get(model_id=model), _model)
        else:
            context.page(asking.list(owner=owner, limit=limit, cursor=cursor), _models)
    return OK


def _models(page: Page[Model]) -> object:
    return table(
        ("model", "name", "by", "parameters", "available"),
        [
            (
                each.slug or each.id,
                each.name,
                each.provider or each.owned_by,
                short(each.params),
                "yes" if each.available else "no",
            )
            for each in page.data
        ],
        right="parameters",
    )


def _model(model: Model) -> object:
    return pairs(
        [
            ("id", model.id),
            ("slug", model.slug),
            ("name", model.name),
            ("by", model.provider or model.owned_by),
            ("kind", model.kind),
            ("parameters", f"{model.params:,}"),
            ("available", "yes" if model.available else "no"),
            ("terms", model.terms_url),
            ("use policy", model.use_policy_url),
            ("made by job", model.job_id),
            ("from", model.base_model.slug if model.base_model else None),
        ]
    )


def recommend(
    context: Context,
    *,
    type: Literal["finetune", "train"],
    method: Literal["dpo", "full", "lora"] | None,
    model: str | None,
    dataset: str | None,
    params: int | None,
    dataset_tokens: int | None,
    dataset_bytes: int | None,
) -> int:
    with context.client() as client:
        raw = client.training.with_raw_response.recommend(
            type=type,
            method=method,
            base_model_id=model,
            dataset_id=dataset_id_of(context, client, dataset) if dataset else None,
            params=params,
            dataset_tokens=dataset_tokens,
            dataset_bytes=dataset_bytes,
        )
    context.reply(raw, _recommendation)
    return OK


def _recommendation(of: TrainRecommendation | FinetuneRecommendation) -> object:
    from rich.console import Group
    from rich.text import Text

    rows = []
    for name in of.recommended.__struct_fields__:
        value, window = getattr(of.recommended, name), getattr(of.windows, name, None)
        around = f"{window.min:g} to {window.max:g}" if window else None
        option = f"--{name.replace('_', '-')}"
        if value is not None:
            rows.append((option, f"{value:g}", around, of.confidence.get(name)))
    return Group(
        table(("option", "value", "worth looking", "confidence"), rows, right="value"),
        *(Text(f"- {note}") for note in of.notes),
        Text(of.disclaimer),
    )
