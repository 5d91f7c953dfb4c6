"""Dashboards, alerts and their runbook: every name in them is one that the code has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from libs.observability.instruments import declared
from libs.observability.metrics import ALL
from tests.support.dashboards import ALERTS, FOLDER, ROOT, written

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
BOARDS = {
    path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("grafana/dashboards/*"))
}
PROCESS = {"service_name", "service_instance_id"}
INTERVAL = ("$__rate_interval", "5m")  # what Grafana would put there
SEVERITIES = {"page", "ticket"}


def queries() -> Iterator[tuple[str, str]]:
    """Where it stands, and PromQL."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"].replace(*INTERVAL)


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """Every selector of a query's tree."""
    match node:
        case promql_parser.VectorSelector():
            yield node
        case promql_parser.MatrixSelector():
            yield node.vector_selector
        case promql_parser.BinaryExpr():
            yield from (*selectors(node.lhs), *selectors(node.rhs))
        case promql_parser.Call():
            for argument in node.args:
                yield from selectors(argument)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr():
            yield from selectors(node.expr)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            pass
        case other:
            raise AssertionError(f"what of {other}?")


def aggregated_by(node: Any) -> Iterator[str]:
    """The labels that a query's aggregations keep."""
    match node:
        case promql_parser.AggregateExpr():
            if node.modifier is not None:
                yield from node.modifier.labels
            yield from aggregated_by(node.expr)
        case promql_parser.BinaryExpr():
            yield from (*aggregated_by(node.lhs), *aggregated_by(node.rhs))
        case promql_parser.Call():
            for argument in node.args:
                yield from aggregated_by(argument)
        case promql_parser.ParenExpr():
            yield from aggregated_by(node.expr)


def mistakes(query: str) -> list[str]:
    """What is wrong with a query: it is no PromQL, or it names what nobody reports."""
    try:
        tree = promql_parser.parse(query)
    except ValueError as error:
        return [str(error)]
    known, wrong, labels = declared(), [], set(PROCESS)
    for selector in selectors(tree):
        if selector.name not in known:
            wrong.append(f"no metric is called {selector.name}")
            continue
        metric = known[selector.name]
        own = {*metric.attributes, *PROCESS}
        labels |= own | ({"le"} if selector.name.endswith("_bucket") else set())
        wrong += [
            f"{selector.name} has no label {matcher.name}"
            for matcher in selector.matchers.matchers
            if matcher.name not in own
        ]
    wrong += [f"nothing has the label {label}" for label in set(aggregated_by(tree)) - labels]
    return wrong


@pytest.mark.parametrize(("where", "query"), list(queries()), ids=lambda one: one[:60])
def test_a_query_asks_for_metrics_and_labels_that_exist(where: str, query: str) -> None:
    assert mistakes(query) == [], where


@pytest.mark.parametrize(
    "query",
    [
        "max(tuneyard_outbox_event)",
        "sum(rate(tuneyard_job_failed_total{cause='x'}[5m]))",
        "sum by (account_id) (rate(tuneyard_job_failed_total[5m]))",
        "sum by (le) (rate(tuneyard_job_failed_total[5m]))",
        "sum(rate(tuneyard_job_failed_total[5m])",
    ],
)
def test_a_query_with_a_slip_is_found(query: str) -> None:
    assert len(mistakes(query)) == 1


def test_every_metric_is_looked_at_by_somebody() -> None:
    """On a dashboard or in an alert; one that nobody asks for would be kept for nothing."""
    asked = {
        declared()[str(selector.name)].name
        for _, query in queries()
        for selector in selectors(promql_parser.parse(query))
    }
    answers = {"rpc.server.duration"}  # the other end of what is asked for
    assert ALL.keys() - asked == answers


def test_a_counter_is_only_asked_for_its_growth_and_a_gauge_never() -> None:
    for where, query in queries():
        grows = re.findall(r"(?:rate|increase)\((\w+)", query)
        for name in re.findall(r"tuneyard_\w+_total", query):
            assert name in grows, where
        for name in grows:
            assert declared()[name].kind != "gauge", where


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_where_it_is_written_what_to_do(
    rule: dict[str, Any],
) -> None:
    assert rule["labels"]["severity"] in SEVERITIES
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook"}
    path, _, anchor = notes["runbook"].partition("#")
    assert anchor == rule["alert"].lower()
    section = sections(ROOT / path)[anchor]
    assert section.startswith(f"*{rule['labels']['severity']}.*")
    assert "**First:**" in section
    assert "**Do:**" in section


def sections(path: Path) -> dict[str, str]:
    """What stands under each heading, by the heading's anchor."""
    _, *parts = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)
    return {
        heading.lower(): text.strip()
        for heading, _, text in (part.partition("\n") for part in parts)
    }


def test_the_runbook_has_no_heading_without_an_alert_and_its_links_lead_somewhere() -> None:
    runbook = ROOT / "docs/runbook.md"
    assert sections(runbook).keys() == {rule["alert"].lower() for rule in RULES}
    for target in re.findall(r"\]\(([^)]+)\)", runbook.read_text()):
        file, _, anchor = target.partition("#")
        assert (runbook.parent / file).exists() if file else anchor in sections(runbook), target


def test_what_is_written_from_something_else_is_up_to_date() -> None:
    """`just dashboards` would change nothing."""
    for path, text in written().items():
        assert path.read_text() == text, path.name
    assert {path for path in written() if path.suffix == ".json"} == set(
        FOLDER.glob("grafana/dashboards/*")
    )


def test_a_dashboard_is_what_grafana_reads() -> None:
    sources = yaml.safe_load(
        (FOLDER / "grafana/provisioning/datasources/tuneyard.yaml").read_text()
    )
    known = {(one["type"], one["uid"]) for one in sources["datasources"]}
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    for name, board in BOARDS.items():
        assert name == f"{board['uid']}.json"
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        taken = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(taken)) == len(taken)
        for panel in board["panels"]:
            for one in (panel, *panel["targets"]):
                assert (one["datasource"]["type"], one["datasource"]["uid"]) in known
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references)
            for target in panel["targets"]:
                shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                tree = promql_parser.parse(target["expr"].replace(*INTERVAL))
                assert shown <= set(aggregated_by(tree)), panel["title"]
