"""Local copies of the API's objects beside the objects themselves, once nothing happens any more.

A copy that missed an update may do no harm in a run, or harm that looks like something else: so the
copies are compared one by one, every field of what is kept, those too that count for no equality.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Resource
from mpslice.kube.reflector import Reflector, key_of
from mpslice.nodelayout import parse_node_layout
from nodeagent.cluster.report import project_node
from nodeagent.controller import Controller as AgentController
from planner.controller import Controller as PlannerController
from planner.state.parse import parse_pod
from tests.api.model import ApiModel


def stale_in_planner(api: ApiModel, controller: PlannerController) -> Iterator[str]:
    """What a planner sees that is not so: its copies, and what it makes of them and its writes."""
    cluster = controller.cluster
    for reflector in (*cluster._reflectors, *cluster._volumes.reflectors):
        yield from stale(api, reflector)
    pods = {key_of(pod): parse_pod(pod) for pod in api.all(PODS)}
    yield from _differences(PODS, pods, {pod.key: pod for pod in cluster.pods})
    layouts = {key_of(each): parse_node_layout(each) for each in api.all(NODE_LAYOUTS)}
    yield from _differences(NODE_LAYOUTS, layouts, cluster.layouts)


def stale_in_agent(api: ApiModel, name: str, controller: AgentController) -> Iterator[str]:
    """The same of the agent of a node."""
    view = controller._cluster
    for reflector in (view._layouts, view._nodes, view._pods):
        yield from stale(api, reflector)
    node = {name: project_node(api.read(NODES, name, None))}
    yield from _differences(NODES, node, {name: controller._publisher.node.facts})


def stale(api: ApiModel, reflector: Reflector[Any]) -> Iterator[str]:
    """Where the reflector's copy is not what a list would be."""
    page = api.list_page(reflector.resource, reflector._namespace, dict(reflector._selectors))
    projected = {key_of(obj): reflector._project(obj) for obj in page["items"]}
    there = {key: value for key, value in projected.items() if value is not None}
    yield from _differences(reflector.resource, there, reflector.objects)


def _differences(
    resource: Resource, there: Mapping[str, Any], seen: Mapping[str, Any]
) -> Iterator[str]:
    for key in sorted(there.keys() | seen.keys()):
        is_, copy = _plain(there.get(key)), _plain(seen.get(key))
        if is_ != copy:
            yield f"{resource.plural}/{key} as {copy}, and it is {is_}"


def _plain(value: Any) -> Any:
    """All of a value, as mappings and lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
