"""`kubectl mpslice top`: use beside what was asked, from agents or Prometheus, by any right."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import generate_latest

from cli.errors import UnusableInput
from cli.terminal import text_of
from cli.top.command import url, window
from cli.top.show import Top, as_json, draw, gather
from cli.top.sources import LIMIT, USED
from cli.top.usage import By, Sample, complete, owners_of, total, usages
from mpslice.kube.api import Json
from nodeagent.gpus.memory import PodMemory
from nodeagent.metrics import Metrics
from tests.cli.fake_api import ALL, FakeApi, Grant, cluster, view
from tests.cli.objects import pod

AGENT = {"app.kubernetes.io/name": "mpslice", "app.kubernetes.io/component": "nodeagent"}
PROXY = (Grant("pods", "mpslice-system"), Grant("pods/proxy", "mpslice-system"))


def metrics(node: str, *samples: PodMemory) -> str:
    """What the agent of a node answers."""
    agent = Metrics(node)
    agent.watch_memory(lambda: samples)
    return generate_latest(agent.registry).decode()


def agent(node: str) -> Json:
    made = pod(f"agent-{node}", namespace="mpslice-system", on=node, labels=AGENT)
    made["spec"]["containers"][0]["ports"] = [{"name": "ops", "containerPort": 8081}]
    return made


def replica(name: str, size: int, **fields: Any) -> Json:
    owner = {"kind": "ReplicaSet", "name": "server-7d9", "uid": "u", "controller": True}
    return pod(name, size, owner=owner, labels={"pod-template-hash": "7d9"}, **fields)


def a_cluster(grants: Any = ALL) -> FakeApi:
    pods = [
        replica("server-7d9-a", 10, on="n1"),
        replica("server-7d9-b", 10, on="n2"),
        pod("train", 40, on="n1"),
        pod("other", 20, namespace="team-b", on="n1"),
        pod("lost", 10, namespace="team-b", on="n3"),
        pod("plain", on="n1"),
    ]
    kube = FakeApi(cluster(pods=[*pods, *map(agent, ("n1", "n2", "n3"))]), grants)
    kube.namespace = "team-a"
    kube.metrics = {
        "agent-n1": metrics(
            "n1",
            PodMemory(0, "team-a/server-7d9-a", "a", 100, 9533, 200),
            PodMemory(0, "team-a/train", "t", 30_000, 38_132, 38_000),
            PodMemory(1, "team-b/other", "o", 0, 19_066, 0),
        ),
        "agent-n2": metrics("n2", PodMemory(0, "team-a/server-7d9-b", "b", 9000, 9533, 9500)),
    }
    return kube


async def top(kube: FakeApi, by: str = "pod", namespace: str = "", prometheus: str = "") -> Top:
    return await gather(kube, By(by), namespace, "team-a", "mpslice-system", prometheus, "24h")


async def test_largest_waste_comes_first_and_what_is_not_measured_last() -> None:
    assert text_of(draw(await top(a_cluster()))).splitlines() == [
        "POD                    ASKED     USED     PEAK   UNUSED  USED OF ASKED  WHERE",
        "team-b/other         19066Mi      0Mi      0Mi  19066Mi             0%  n1 GPU 1",
        "team-a/server-7d9-a   9533Mi    100Mi    200Mi   9333Mi             1%  n1 GPU 0",
        "team-a/train         38132Mi  30000Mi  38000Mi    132Mi            78%  n1 GPU 0",
        "team-a/server-7d9-b   9533Mi   9000Mi   9500Mi     33Mi            94%  n2 GPU 0",
        "team-b/lost           9536Mi        ?        ?        ?              ?  n3",
        "total                76264Mi  39100Mi  47700Mi  28564Mi            51%",
        "1 pod is not measured and not part of the sums",
        ("the agent on n3 did not answer: GET: no answer of agent-n3:8081/metrics"),
    ]


async def test_rows_are_workloads_or_namespaces() -> None:
    by_workload = await top(a_cluster(), "workload")
    assert [(row.name, row.pods, row.waste) for row in by_workload.rows] == [
        ("team-b/pod/other", 1, 19066),
        ("team-a/deployment/server", 2, 9366),
        ("team-a/pod/train", 1, 132),
        ("team-b/pod/lost", 1, None),
    ]
    by_namespace = await top(a_cluster(), "namespace")
    assert [(row.name, row.pods, row.asked, row.unmeasured) for row in by_namespace.rows] == [
        ("team-b", 2, 19066, 1),
        ("team-a", 3, 57198, 0),
    ]


async def test_namespace_hides_the_others() -> None:
    shown = await top(a_cluster(), namespace="team-a")
    assert {row.name.partition("/")[0] for row in shown.rows} == {"team-a"}
    assert shown.silent == ()  # all of its pods are measured


async def test_rights_of_a_namespace_show_what_was_asked_and_which_right_is_missing() -> None:
    shown = await top(a_cluster(view("team-a")))
    text = text_of(draw(shown))
    assert "team-a/train         38146Mi     ?     ?       ?              ?  n1" in text
    assert "team-b" not in text
    assert (
        "you may not list pods in namespace mpslice-system, get pods/proxy in namespace "
        "mpslice-system or list pods in all namespaces: the memory in use is unknown"
    ) in text
    assert "kubectl create role mpslice-sees-" in text
    granted = await top(a_cluster((*view("team-a"), *PROXY)), namespace="team-a")
    assert (granted.total.used, granted.lacking) == (39100, ())


async def test_right_to_list_agents_and_not_to_ask_them_is_told_apart() -> None:
    grants = (Grant("pods"),)
    shown = await top(a_cluster(grants))
    assert [str(each.right) for each in shown.lacking] == [
        "get pods/proxy in namespace mpslice-system"
    ]
    assert "--verb=get --resource=pods/proxy --namespace=mpslice-system" in text_of(draw(shown))


async def test_no_pod_with_a_slice_is_said() -> None:
    assert text_of(draw(await top(FakeApi()))) == "no pod holds a slice"


@asynccontextmanager
async def prometheus(answer: Any) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers queries as Prometheus does; yields its URL and what it was asked."""
    asked: list[str] = []

    async def query(request: web.Request) -> web.Response:
        asked.append(request.query["query"])
        found = answer(asked[-1])
        return found if isinstance(found, web.Response) else web.json_response(found)

    application = web.Application()
    application.router.add_get("/api/v1/query", query)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", asked
    finally:
        await runner.cleanup()


def vector(value: int) -> Json:
    labels = {"namespace": "team-a", "pod": "train", "node": "n1", "gpu": "0"}
    series = {"metric": labels, "value": [1.0, str(value << 20)]}
    return {"status": "success", "data": {"resultType": "vector", "result": [series]}}


async def test_prometheus_tells_use_now_and_the_most_within_the_window() -> None:
    def answer(query: str) -> Json:
        if "max_over_time" in query:
            return vector(38_000)
        return vector(38_132 if LIMIT in query else 30_000)

    async with prometheus(answer) as (address, asked):
        shown = await top(a_cluster(view("team-a")), namespace="team-a", prometheus=address)
    row = shown.rows[0] if shown.rows[0].used is not None else shown.rows[-1]
    assert (row.name, row.asked, row.used, row.peak) == ("team-a/train", 38_132, 30_000, 38_000)
    assert shown.lacking == ()  # nothing of the agents is needed
    assert f"max by (namespace, pod, node, gpu) (max_over_time({USED}[24h]))" in asked


async def test_prometheus_that_is_not_there_is_said_in_a_sentence() -> None:
    with pytest.raises(UnusableInput, match=r"--prometheus http://127\.0\.0\.1:1: "):
        await top(a_cluster(), prometheus="http://127.0.0.1:1")


async def test_json_has_amounts_in_mib_and_null_for_what_is_not_known() -> None:
    said = json.loads(json.dumps(as_json(await top(a_cluster()))))
    assert said["rows"][0] == {
        "name": "team-b/other",
        "pods": 1,
        "askedMiB": 19066,
        "usedMiB": 0,
        "peakMiB": 0,
        "unusedMiB": 19066,
        "where": "n1 GPU 1",
        "unmeasured": 0,
    }
    assert said["rows"][-1]["usedMiB"] is None
    assert said["silentAgents"][0]["node"] == "n3"


def test_use_above_the_slice_is_no_negative_waste() -> None:
    (row,) = usages([Sample("a", "p", "n1", "0", 100, 150, 180)], By.POD, {})
    assert (row.waste, total([row]).waste) == (0, 0)


def test_agent_of_an_earlier_version_has_no_peak() -> None:
    (row,) = usages([Sample("a", "p", "n1", "0", 100, 40)], By.POD, {})
    assert (row.peak, row.waste) == (None, 60)


def test_pod_on_two_gpus_is_one_row() -> None:
    samples = [Sample("a", "p", "n1", "0", 100, 40, 50), Sample("a", "p", "n1", "1", 100, 10, 20)]
    (row,) = usages(samples, By.POD, {})
    assert (row.pods, row.asked, row.used, row.peak, row.where) == (
        1,
        200,
        50,
        70,
        "n1 GPU 0, n1 GPU 1",
    )


def test_measured_pods_are_not_counted_twice() -> None:
    measured = [Sample("a", "p", "n1", "0", 100, 40, 50)]
    held = [Sample("a", "p", "n1", "", 105), Sample("a", "q", "n1", "", 105)]
    assert [(s.pod, s.asked) for s in complete(measured, held)] == [("p", 100), ("q", 105)]


def test_owner_is_the_deployment_behind_a_replica_set_and_else_the_controller() -> None:
    job = {"kind": "Job", "name": "j", "uid": "u", "controller": True}
    pods = [replica("server-7d9-a", 10), pod("j-1", 10, owner=job), pod("lone", 10)]
    assert owners_of(pods) == {
        "team-a/server-7d9-a": "team-a/deployment/server",
        "team-a/j-1": "team-a/job/j",
    }


@pytest.mark.parametrize("text", ["localhost:9090", "ftp://x", "http://", "/metrics"])
def test_address_that_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a URL"):
        url(text)


@pytest.mark.parametrize("text", ["1 day", "24", "1h}", ""])
def test_window_goes_into_a_query_only_as_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        window(text)


def test_gpus_of_a_pod_are_named_in_their_order() -> None:
    samples = [Sample("a", "p", "n1", index, 10, 1) for index in ("10", "2", "1")]
    (row,) = usages(samples, By.POD, {})
    assert row.where == "n1 GPU 1, n1 GPU 2, n1 GPU 10"
