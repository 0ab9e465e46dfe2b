"""What the chart brings for Prometheus and Grafana: alerts, recording rules, queries of panels."""

import json
from dataclasses import dataclass
from typing import Any

import yaml

from tests.chart import CHART

Json = dict[str, Any]
FILES = CHART / "files"
ALERTS = FILES / "alerts.yaml"
RULES = FILES / "rules.yaml"
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
VARIABLES = {"$node": ".*", "$namespace": ".*", "$__range": "1h"}
"""What Grafana puts in their place, with "All" chosen and the last hour shown."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel, as Grafana sends it."""

    dashboard: str
    panel: str
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.expression}"


def queries() -> list[Query]:
    """Those of all panels of all dashboards."""
    found = []
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for name, value in VARIABLES.items():
                    expression = expression.replace(name, value)
                found.append(Query(path.stem, panel["title"], expression))
    return found


def groups(*, every: str | None = None) -> list[Json]:
    """The groups of both rule files; `every` takes the place of their own intervals."""
    found = [
        group for path in (ALERTS, RULES) for group in yaml.safe_load(path.read_text())["groups"]
    ]
    return [group | {"interval": every} if every else group for group in found]


def alerts() -> list[Json]:
    return [rule for group in groups() for rule in group["rules"] if "alert" in rule]


def recordings() -> list[Json]:
    return [rule for group in groups() for rule in group["rules"] if "record" in rule]
