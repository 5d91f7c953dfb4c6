"""What a recommendation says in words. Pure."""

from services.gateway.recommend_rules import (
    DATA_CONSTRAINED,
    DataFacts,
    ModelFacts,
    hidden_size,
    unseen_worth,
)

FULL_VALUE_EPOCHS = 4  # so many are worth nearly as much as fresh data
SHORTFALL = 0.95  # under this share of the epochs aimed at, a note says so
UNITS = ("", "K", "M", "B", "T")


def notes_of(
    model: ModelFacts, data: DataFacts, aim: int, passes: float, *, sized_rate: bool = True
) -> list[str]:
    """``sized_rate``: the learning rate follows from the model's size."""
    said = passes_said(passes)
    epochs = "epoch" if said == "1" else "epochs"
    notes = [
        f"≈{said} {epochs} over your ~{rounded(data.tokens)}-token dataset",
        f"Learning rate tuned for a ~{rounded(model.params)} model"
        if sized_rate
        else f"Learning rate for preferences, on a ~{rounded(model.params)} model as on any",
    ]
    if sized_rate and model.shape is None and model.swept is None:
        notes.append(
            f"The model's hidden size is not known here; {hidden_size(model)} is what published"
            " Llama models of its size have, so look further around the learning rate"
        )
    if passes > FULL_VALUE_EPOCHS:
        notes.append(
            f"Past {FULL_VALUE_EPOCHS} epochs repetition pays less: these are worth"
            f" {passes_said(unseen_worth(passes))} over unseen data ({DATA_CONSTRAINED.url});"
            " more data would help more"
        )
    if passes < SHORTFALL * aim:
        notes.append(
            f"A job can't have the steps for {aim} epochs of this; a larger seq_len or"
            " batch_size covers more of it"
        )
    return notes


def passes_said(passes: float) -> str:
    """Right to 5 %, in few digits: ``3``, ``3.4``, ``25``, ``0.052``."""
    if passes >= 10:
        return f"{passes:,.0f}"
    if passes >= 1:
        return f"{passes:.1f}".removesuffix(".0")
    return f"{passes:.2g}"


def rounded(count: int) -> str:
    """Right to 5 %, as people say it: ``2.1M``, ``7B``."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return (f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")) + UNITS[unit]
