"""What a dashboard is made of; `just dashboards` writes the JSON that Grafana reads.

A gauge that is looked up in the database is the same in every replica, so a query takes the ``max``
of it; what each process counts for itself is summed.
"""

from typing import Literal

from msgspec import Struct

Unit = Literal["short", "reqps", "ops", "s", "bytes", "percentunit", "currency", "none"]

EVERY = "$__rate_interval"
"""Grafana's own: long enough for four scrapes."""


class Query(Struct, frozen=True):
    """PromQL, and how a line is called: with the labels in double braces."""

    expr: str
    legend: str = ""


class Panel(Struct, frozen=True, kw_only=True):
    title: str
    queries: tuple[Query, ...]
    unit: Unit = "short"
    description: str = ""


class Dashboard(Struct, frozen=True, kw_only=True):
    """``uid`` is the name in its address and of its file."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


def rate(metric: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}[{EVERY}]))"


def highest(metric: str, *by: str) -> str:
    return f"max by ({', '.join(by)}) ({metric})"


def quantiles(histogram: str, *shares: float) -> tuple[Query, ...]:
    spread = rate(f"{histogram}_bucket", "le")
    return tuple(
        Query(f"histogram_quantile({share}, {spread})", f"p{round(share * 100)}")
        for share in shares or (0.5, 0.95, 0.99)
    )


def quantile_by(histogram: str, share: float, *by: str) -> Query:
    spread = rate(f"{histogram}_bucket", "le", *by)
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return Query(f"histogram_quantile({share}, {spread})", legend)
