"""How mpslice is installed in a cluster: what the arguments of its webhook and planner say."""

from dataclasses import dataclass
from typing import Any, Final

from mpslice.kube.api import Json, Kube, Resource, list_all
from mpslice.kube.errors import KubeError
from planner.main import flags as planner_flags
from webhook.main import settings_of
from webhook.settings import Settings

DEPLOYMENTS: Final = Resource("apps/v1", "deployments", namespaced=True)

_LABELS: Final = "app.kubernetes.io/name=mpslice"
_COMPONENT: Final = "app.kubernetes.io/component"


@dataclass(frozen=True, slots=True)
class Installed:
    """How webhook and planner are set; None for a program that is not installed or not visible."""

    settings: Settings | None = None
    label: tuple[str, str] | None = None
    max_slices_per_gpu: int | None = None


async def read_installed(kube: Kube) -> Installed:
    """Reads the chart's Deployments; returns nothing where they may not be listed."""
    try:
        found = await list_all(kube, DEPLOYMENTS, query={"labelSelector": _LABELS})
    except KubeError:
        return Installed()
    arguments = {
        (each["metadata"].get("labels") or {}).get(_COMPONENT): _arguments(each) for each in found
    }
    webhook, planner = arguments.get("webhook"), arguments.get("planner")
    settings = settings_of(webhook) if webhook else None
    if not planner:
        return Installed(settings)
    parser = planner_flags()
    known = {name for action in parser._actions for name in action.option_strings}
    said: Any = parser.parse([text for text in planner if text.partition("=")[0] in known], {})
    return Installed(settings, said.node_label, said.max_slices_per_gpu)


def _arguments(deployment: Json) -> list[str]:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return [str(text) for each in containers for text in each.get("args") or ()]
