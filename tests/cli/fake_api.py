"""The API model with RBAC: it answers what a person may not do as a real API server does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, Resource
from mpslice.kube.errors import Forbidden, NotFound
from tests.api.kube import Call, ModelKube

USER = "jane"


@dataclass(frozen=True, slots=True)
class Grant:
    """A right: on a resource's plural, of all namespaces where `namespace` is ""."""

    plural: str
    namespace: str = ""


ALL = (Grant("*"),)


def view(namespace: str) -> tuple[Grant, ...]:
    """What Kubernetes' role `view` grants, bound in one namespace."""
    kinds = ("pods", "events", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs")
    more = ("cronjobs", "persistentvolumeclaims")
    return tuple(Grant(kind, namespace) for kind in (*kinds, *more))


class FakeApi(ModelKube):
    """The API model with these objects; `unknown` are plurals of kinds that are not installed."""

    def __init__(
        self,
        objects: Iterable[tuple[Resource, Json]] = (),
        grants: Iterable[Grant] = ALL,
        unknown: Iterable[str] = ("podgroups",),
    ) -> None:
        super().__init__()
        self.grants = tuple(grants)
        self.unknown = frozenset(unknown)
        self.namespace = "default"
        self.metrics: dict[str, str] = {}
        self.put, self.remove = self.api.put, self.api.remove
        for resource, obj in objects:
            self.put(resource, obj)

    async def before(self, call: Call) -> None:
        assert not call.is_write, "nothing is written"
        self._check(call.verb, call.resource, call.namespace)

    def _check(self, verb: str, resource: Resource, namespace: str, sub: str = "") -> None:
        plural = f"{resource.plural}/{sub}" if sub else resource.plural
        if resource.plural in self.unknown:
            raise NotFound("GET: the server could not find the requested resource", status=404)
        for grant in self.grants:
            if grant.plural in ("*", plural) and grant.namespace in ("", namespace):
                return
        group = resource.api_version.partition("/")[0] if "/" in resource.api_version else ""
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        raise Forbidden(
            f'GET: {resource.plural} is forbidden: User "{USER}" cannot {verb} resource "{plural}" '
            f'in API group "{group}" {where}',
            status=403,
        )

    async def proxied_text(self, namespace: str, pod: str, port: int, path: str) -> str:
        self._check("get", PODS, namespace, "proxy")
        if pod not in self.metrics:
            raise NotFound(f"GET: no answer of {pod}:{port}{path}", status=404)
        return self.metrics[pod]


def cluster(
    *, nodes: Iterable[Json] = (), layouts: Iterable[Json] = (), pods: Iterable[Json] = ()
) -> list[tuple[Resource, Json]]:
    """The objects with their resources; each node shows the slices that its layout lists."""
    layouts = list(layouts)
    shown = {each["metadata"]["name"]: each for each in layouts}
    return [
        *((NODES, _showing(each, shown.get(each["metadata"]["name"]))) for each in nodes),
        *((NODE_LAYOUTS, each) for each in layouts),
        *((PODS, each) for each in pods),
    ]


def _showing(node: Json, layout: Json | None) -> Json:
    gpus = ((layout or {}).get("status") or {}).get("gpus") or ()
    sizes = Counter(f"nvidia.com/gpu-{each['size']}" for g in gpus for each in g.get("slices", ()))
    amounts = {**node["status"]["allocatable"], **{name: str(n) for name, n in sizes.items()}}
    return {**node, "status": {**node["status"], "allocatable": amounts, "capacity": amounts}}
