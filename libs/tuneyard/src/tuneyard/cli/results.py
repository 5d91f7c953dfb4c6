"""What came of a job."""

from tuneyard.cli.text import lasting, money, pairs, short
from tuneyard.types import Result


def result_of(of: Result) -> object:
    """Only what this type of job has."""
    grown = of.growth
    parameters = f"{short(of.params_before)} to {short(of.params_after)}"
    early = f" (best at step {of.best_step})" if of.best_step is not None else ""
    return pairs(
        [
            (
                "perplexity",
                f"{of.ppl_baseline:.4g} to {of.ppl_final:.4g} ({of.ppl_delta_pct:+.1f} %),"
                f" on {of.split}",
            ),
            ("loss", f"{of.loss_final:.4g} (training {of.train_loss_final:.4g})"),
            ("parameters", parameters if of.params_delta else None),
            ("changed by growing", f"{grown.mean_kl:.2g} nats" if grown else None),
            ("forgotten", f"{of.forgetting.score:.3g} nats a token" if of.forgetting else None),
            (
                "prefers the chosen",
                f"{of.preference.accuracy:.0%}, by {of.preference.margin:.2g} nats"
                if of.preference
                else None,
            ),
            ("steps", f"{of.steps:,}{early}" + (", ended early" if of.stopped_early else "")),
            ("tokens", f"{of.tokens_processed:,}"),
            ("cut off", f"{of.rows_truncated:,} rows" if of.rows_truncated else None),
            ("device", f"{of.device}, for {lasting(of.gpu_seconds)}"),
            ("charged", money(of.charge_cents, of.currency)),
        ]
    )
