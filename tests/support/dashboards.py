"""Write what is made of something else: Grafana's dashboards, Kubernetes' alerts, the table of
metrics. Run as a module; a test fails while a file is not what this would write."""

import json
from pathlib import Path
from typing import Any

import yaml

from deploy.observability.panels import Dashboard, Panel
from deploy.observability.upkeep import ENGINES, MONEY, WEBHOOKS
from deploy.observability.work import JOBS, OVERVIEW, TRAINERS
from libs.observability.instruments import Metric
from libs.observability.metrics import ALL

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/observability"
ALERTS = FOLDER / "alerts.yaml"
RULE = ROOT / "deploy/k8s/components/observability/alerts.yaml"
PAGE = ROOT / "docs/observability.md"
BEGIN, END = "<!-- metrics: written by `just dashboards` -->\n", "<!-- metrics end -->\n"

DASHBOARDS = (OVERVIEW, JOBS, MONEY, WEBHOOKS, TRAINERS, ENGINES)
SOURCE = {"type": "prometheus", "uid": "prometheus"}
UNITS = {"currency": "none"}
WIDTH, HEIGHT, COLUMNS = 12, 8, 2  # of the 24 columns that Grafana has
SCHEMA = 41  # Grafana 12


def dashboard_json(dashboard: Dashboard) -> str:
    board = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["tuneyard"],
        "schemaVersion": SCHEMA,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": [_panel(panel, place) for place, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(board, indent=1) + "\n"


def _panel(panel: Panel, place: int) -> dict[str, Any]:
    row, column = divmod(place, COLUMNS)
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": UNITS.get(panel.unit, panel.unit), "min": 0},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            for number, query in enumerate(panel.queries)
        ],
    }


def rule_yaml() -> str:
    """The alerts as Prometheus' operator wants them."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tuneyard"},
        "spec": yaml.safe_load(ALERTS.read_text()),
    }
    text: str = yaml.safe_dump(rule, sort_keys=False, width=1_000)
    return f"# Written by `just dashboards` from deploy/observability/alerts.yaml.\n{text}"


def table() -> str:
    """Every metric, as docs/observability.md lists them."""
    head = "| in OTLP | in Prometheus | unit | labels | |\n|---|---|---|---|---|\n"
    return head + "".join(_row(metric) for metric in ALL.values())


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.attributes)
    return (
        f"| `{metric.name}` | `{metric.prometheus[0]}` {metric.kind} | `{metric.unit}` | {labels} |"
        f" {metric.description} |\n"
    )


def page() -> str:
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def written() -> dict[Path, str]:
    boards = {
        FOLDER / f"grafana/dashboards/{one.uid}.json": dashboard_json(one) for one in DASHBOARDS
    }
    return boards | {RULE: rule_yaml(), PAGE: page()}


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text)
