"""Submitting by the command: files, prices, consent, and what is asked of whom."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.s3 import S3Settings
from tests.integration.gateway_app import ROWS, Gateway, running_gateway
from tests.support.command import COMMAND, Command
from tests.support.stack import Database, Nats
from tests.support.terminal import terminal

FINETUNE = ("submit", "finetune", "--model", "tiny-llama", "--dataset")


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    async with running_gateway(
        database, nats_server, s3, tmp_path_factory.mktemp("models")
    ) as running:
        yield running


@pytest.fixture
async def cli(gateway: Gateway, tmp_path: Path) -> Command:
    """Of an account of its own, so that no test sees another one's jobs."""
    _, key = await gateway.account(cents=100_000)
    return Command(tmp_path / "xdg", gateway.url, key)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(ROWS)
    return file


async def jobs(cli: Command) -> int:
    return len((await cli("ls", "--json")).json["data"])


async def test_what_was_said_is_what_the_job_has(cli: Command, rows: Path) -> None:
    options = ("--steps", "7", "--lr", "0.002", "--use-rslora", "--target-modules", "q_proj,v_proj")
    more = ("--output-name", "mine", "--label", "a label", "--patience", "2", "--seed", "3")
    job = (await cli(*FINETUNE, rows, *options, *more, "--eval-every", "2", "--json")).json

    set_ones = {
        "method": "lora",
        "steps": 7,
        "lr": 0.002,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj"],
        "patience": 2,
        "seed": 3,
        "eval_every": 2,
    }
    assert set_ones.items() <= job["hyperparams"].items()
    assert (job["output_name"], job["label"]) == ("mine", "a label")
    assert "seq_len" in job["recommended"]


async def test_every_type_can_be_submitted(cli: Command, rows: Path) -> None:
    train = ("submit", "train", "--model", "tiny-llama", "--dataset", rows, "--turns", "2")
    contract = ("submit", "contract", "--model", "tiny-llama", "--contraction-ratio", "0.25")

    assert (await cli(*train, "--json")).json["hyperparams"]["turns"] == 2
    assert (await cli(*contract, "--json")).json["hyperparams"]["contraction_ratio"] == 0.25
    assert (await cli(*contract, "--dataset", rows, "--field", "dataset_id")).out != "null\n"
    said = (await cli(*contract)).out
    assert re.search(r"^follow it: tuneyard watch [0-9a-f-]{36}$", said, re.MULTILINE)


async def test_a_file_is_uploaded_once_and_may_be_named_by_its_id(
    cli: Command, rows: Path, tmp_path: Path
) -> None:
    same = tmp_path / "same.jsonl"
    same.write_bytes(ROWS)

    first = (await cli(*FINETUNE, rows, "--json")).json["dataset_id"]
    second = await cli(*FINETUNE, same)
    third = (await cli(*FINETUNE, first, "--json")).json["dataset_id"]

    assert f"same.jsonl is there already: data set {first}" in second.err
    assert third == first
    assert len((await cli("datasets", "ls", "--json")).json["data"]) == 1


async def test_an_estimate_costs_nothing_and_is_the_price(cli: Command, rows: Path) -> None:
    begin = ("finetune", "--model", "tiny-llama", "--dataset", rows, "--steps", "9")

    asked = (await cli("estimate", *begin, "--json")).json
    also = (await cli("submit", *begin, "--estimate", "--json")).json
    assert await jobs(cli) == 0
    job = (await cli("submit", *begin, "--json")).json

    assert asked["price_cents"] == also["price_cents"] == job["price_cents"] > 0
    assert "price" in (await cli("estimate", *begin)).out


async def test_the_same_idempotency_key_is_the_same_job(cli: Command, rows: Path) -> None:
    one, other = [
        (await cli(*FINETUNE, rows, "--idempotency-key", "mine", "--json")).json["id"]
        for _ in range(2)
    ]

    assert one == other
    assert await jobs(cli) == 1
    changed = (*FINETUNE, rows, "--steps", "3", "--idempotency-key", "mine", "--json")
    assert (await cli(*changed, code=1)).problem["code"] == "idempotency_conflict"


async def test_a_run_needs_consent_which_is_said_or_asked_for(cli: Command, rows: Path) -> None:
    run = ("submit", "run", "--model", "tiny-llama", "--dataset", rows)

    refused = await cli(*run, code=2)
    assert "add --accept-model-terms --accept-data-policy" in refused.err
    assert await jobs(cli) == 0
    before = (await cli("balance", "--json")).json["balance_cents"]
    done = (await cli(*run, "--accept-model-terms", "--accept-data-policy", "--json")).json
    assert done["balance_after_cents"] == before - done["price_cents"]

    async with terminal([*COMMAND, *map(str, run)], cli.environ()) as shown:
        await shown.until(lambda text: "Do you accept them" in text, "the question of consent")
        shown.type("n\n")
        assert await shown.end() == 1
    assert await jobs(cli) == 1


@pytest.mark.parametrize(("answer", "code", "submitted"), [("n\n", 1, 0), ("y\n", 0, 1)])
async def test_in_a_terminal_the_price_is_confirmed(
    cli: Command, rows: Path, answer: str, code: int, submitted: int
) -> None:
    async with terminal([*COMMAND, *FINETUNE, str(rows)], cli.environ()) as shown:
        text = await shown.until(lambda text: "Submit it for this price? [y/N]" in text, "it")
        assert "price" in text
        shown.type(answer)
        assert await shown.end() == code

    assert await jobs(cli) == submitted


async def test_a_pipe_gets_plain_columns_also_where_colour_is_forced(
    cli: Command, rows: Path
) -> None:
    await cli("datasets", "add", rows)

    piped = await cli("datasets", "ls", FORCE_COLOR="1")

    assert "\x1b" not in piped.out + piped.err
    assert piped.out.isascii()
    assert [line for line in piped.out.splitlines() if line.endswith(" ")] == []
    async with terminal([*COMMAND, "datasets", "ls"], cli.environ()) as shown:
        assert await shown.end() == 0
    assert b"\x1b[1m" in shown.written
