"""Where memory's use comes from: the agents' metrics through the API server, or Prometheus."""

import asyncio
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from cli.errors import UnusableInput
from cli.rights import Denied, Right, denied
from cli.top.usage import Sample
from mpslice.gpus import MIB
from mpslice.kube.api import PODS, Json, Kube, list_all
from mpslice.kube.errors import Forbidden, KubeError

USED: Final = "mpslice_slice_memory_used_bytes"
LIMIT: Final = "mpslice_slice_memory_limit_bytes"
PEAK: Final = "mpslice_slice_memory_peak_bytes"

_AGENTS: Final = "app.kubernetes.io/name=mpslice,app.kubernetes.io/component=nodeagent"
_PORT: Final = "ops"
_AT_ONCE: Final = 32  # agents that are asked together
_SECONDS: Final = 30.0  # for one query


class Proxy(Kube, Protocol):
    """The API server, which passes requests on to pods."""

    async def proxied_text(self, namespace: str, pod: str, port: int, path: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """The samples, the nodes whose agents did not answer, with the reason, and missing rights."""

    samples: tuple[Sample, ...] = ()
    silent: tuple[tuple[str, str], ...] = ()
    lacking: tuple[Denied, ...] = ()


async def from_agents(kube: Proxy, namespace: str) -> Measured:
    """What the agents measure now, and the most since they started.

    They are looked for in all namespaces, else in the one given, the release's. Raises a KubeError
    where the API server fails.
    """
    agents, lacking = await _agents(kube, namespace)
    limit = asyncio.Semaphore(_AT_ONCE)

    async def ask(agent: Json) -> tuple[str, list[_Point] | KubeError | ValueError]:
        node = str((agent.get("spec") or {}).get("nodeName") or "")
        metadata = agent["metadata"]
        async with limit:
            try:
                answer = await kube.proxied_text(
                    metadata["namespace"], metadata["name"], _port(agent), "/metrics"
                )
                return node, list(_lines(answer))
            except (KubeError, ValueError) as error:
                return node, error

    answers = await asyncio.gather(*map(ask, agents))
    samples: list[Sample] = []
    silent: list[tuple[str, str]] = []
    for node, answer in answers:
        if isinstance(answer, Forbidden):
            right = Right("get", "pods/proxy", agents[0]["metadata"]["namespace"], namespaced=True)
            lacking = [Denied(right, denied(answer, "get", PODS).user)]
        elif isinstance(answer, KubeError):
            silent.append((node, str(answer)))
        elif isinstance(answer, ValueError):
            silent.append((node, "its answer is not in the format of metrics"))
        else:
            samples += _samples(answer)
    return Measured(tuple(samples), tuple(sorted(silent)), tuple(lacking))


async def _agents(kube: Proxy, namespace: str) -> tuple[list[Json], list[Denied]]:
    query = {"labelSelector": _AGENTS}
    try:
        found = await list_all(kube, PODS, query=query)
    except Forbidden:
        try:
            found = await list_all(kube, PODS, namespace=namespace, query=query)
        except Forbidden as error:
            lacking = denied(error, "list", PODS, namespace)
            proxy = Denied(Right("get", "pods/proxy", namespace, namespaced=True), lacking.user)
            return [], [lacking, proxy]
    running = [pod for pod in found if (pod.get("status") or {}).get("phase") == "Running"]
    return running, []


def _port(agent: Json) -> int:
    """The ops port of an agent; 8081 where the pod names none."""
    for container in (agent.get("spec") or {}).get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == _PORT:
                return int(port["containerPort"])
    return 8081


_Point = tuple[str, dict[str, str], float]
"""A metric's name, its labels, its value in bytes."""


def _lines(text: str) -> Iterator[_Point]:
    for family in text_string_to_metric_families(text):
        if family.name in (USED, LIMIT, PEAK):
            yield from ((s.name, s.labels, s.value) for s in family.samples)


def _samples(points: Iterable[_Point]) -> list[Sample]:
    """Makes a sample for each pod and GPU with a limit; NaN and the like count as not measured."""
    found: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for name, labels, value in points:
        if not math.isfinite(value) or value < 0:
            continue
        key = tuple(labels.get(each, "") for each in ("namespace", "pod", "node", "gpu"))
        found.setdefault((key[0], key[1], key[2], key[3]), {})[name] = value
    return [
        Sample(*key, _mib(values[LIMIT]), _maybe(values, USED), _maybe(values, PEAK))
        for key, values in found.items()
        if LIMIT in values
    ]


def _maybe(values: dict[str, float], name: str) -> int | None:
    return _mib(values[name]) if name in values else None


def _mib(value: float) -> int:
    return int(value) // MIB


async def from_prometheus(url: str, window: str) -> Measured:
    """What Prometheus has: use now, and the most within `window` (`24h`, as PromQL writes it).

    Raises UnusableInput where it does not answer, or answers something else.
    """
    by = "namespace, pod, node, gpu"
    queries = {
        LIMIT: f"max by ({by}) ({LIMIT})",
        USED: f"max by ({by}) ({USED})",
        PEAK: f"max by ({by}) (max_over_time({USED}[{window}]))",
    }
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
        answers = await asyncio.gather(*(_query(session, url, q) for q in queries.values()))
    points = (
        (name, labels, value)
        for name, answer in zip(queries, answers, strict=True)
        for labels, value in answer
    )
    return Measured(tuple(_samples(points)))


async def _query(
    session: aiohttp.ClientSession, url: str, query: str
) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each series."""
    try:
        async with session.get(f"{url.rstrip('/')}/api/v1/query", params={"query": query}) as reply:
            text = await reply.text()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        said = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        raise UnusableInput(f"--prometheus {url}: {said or type(error).__name__}") from error
    try:
        answer = json.loads(text)
        if answer.get("status") == "error":
            raise UnusableInput(
                f"--prometheus {url}: {answer.get('error') or 'an error without words'}"
            )
        found = answer["data"]["result"]
        return [(dict(series["metric"]), float(series["value"][1])) for series in found]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        said = f"HTTP {reply.status}, and no result of a query; is it a Prometheus?"
        raise UnusableInput(f"--prometheus {url}: {said}") from error
