"""That the proxy does what its troubles say, in front of a real API server."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from hack.cluster import pki
from hack.cluster.controlplane import ControlPlane
from mpslice.kube.api import NODES, Json, PatchType, list_all
from mpslice.kube.errors import ApiError, Gone, KubeError, Unreachable
from mpslice.kube.session import Session
from tests.faults.proxy import Proxy, Trouble
from tests.waiting import DEADLINE, eventually

NODE = "n-proxy"


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[Proxy]:
    made = Proxy(control_plane, random.Random(1))
    async with made.serve():
        yield made


@pytest.fixture
async def kube(control_plane: ControlPlane, proxy: Proxy, tmp_path: Path) -> AsyncIterator[Session]:
    """As an administrator with a token, through the proxy."""
    account = ("--clusterrole=cluster-admin", "--serviceaccount=default:default")
    control_plane.kubectl("create", "clusterrolebinding", "proxied", *account, check=False)
    token = control_plane.kubectl("create", "token", "default").stdout.strip()
    authority = control_plane.pki.authority.pair.certificate
    file = pki.write_kubeconfig(tmp_path / "kubeconfig", proxy.url, authority, {"token": token})
    async with await Session.connect("faults", str(file)) as session:
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        await session.create(NODES, body)
        yield session
    control_plane.kubectl("delete", "node", NODE)


@contextmanager
def lasting(proxy: Proxy, trouble: Trouble) -> Iterator[None]:
    proxy.begin(trouble)
    yield
    proxy.end(trouble)


async def label(kube: Session, value: str) -> None:
    labels = {"metadata": {"labels": {"try": value}}}
    await kube.patch(NODES, NODE, labels, type=PatchType.MERGE)


def label_of(node: Json) -> str:
    return str((node["metadata"].get("labels") or {}).get("try", ""))


async def watched(kube: Session) -> AsyncIterator[str]:
    """The labels as a watch tells them; the first is from its begin."""
    query = {"fieldSelector": f"metadata.name={NODE}", "timeoutSeconds": str(int(DEADLINE))}
    async with aclosing(kube.watch(NODES, query=query)) as events:  # type: ignore[type-var]
        async for event in events:
            yield label_of(event["object"])


async def until_label(labels: AsyncIterator[str], value: str) -> None:
    async for each in labels:
        if each == value:
            return


async def error_of_one(kube: Session) -> KubeError | None:
    try:
        await list_all(kube, NODES)
    except KubeError as error:
        return error
    return None


async def test_without_trouble_it_passes_on(kube: Session, proxy: Proxy) -> None:
    await label(kube, "plain")
    assert label_of(await kube.read(NODES, NODE)) == "plain"
    assert sum(proxy.writes.values()) == 2


@pytest.mark.parametrize(("trouble", "status"), [(Trouble.BUSY, 429), (Trouble.BROKEN, 500)])
async def test_refusals(kube: Session, proxy: Proxy, trouble: Trouble, status: int) -> None:
    with lasting(proxy, trouble):
        error = await eventually(lambda: error_of_one(kube), "a refusal")
    assert isinstance(error, ApiError)
    assert error.status == status
    assert error.retry_after == (1.0 if status == 429 else None)
    assert await error_of_one(kube) is None


async def test_away_breaks_requests_and_watches(kube: Session, proxy: Proxy) -> None:
    labels = watched(kube)
    await anext(labels)
    with lasting(proxy, Trouble.AWAY):
        assert isinstance(await error_of_one(kube), Unreachable)
        with pytest.raises(Unreachable):
            await until_label(labels, "never")


async def test_unanswered_writes_are_done(kube: Session, proxy: Proxy) -> None:
    async def unanswered() -> bool:
        try:
            await label(kube, "done")
        except Unreachable:
            return True
        await label(kube, "again")
        return False

    with lasting(proxy, Trouble.UNANSWERED):
        await eventually(unanswered, "an answer is lost")
        assert label_of(await kube.read(NODES, NODE)) == "done"


async def test_cut_is_in_the_middle_of_an_event(kube: Session, proxy: Proxy) -> None:
    labels = watched(kube)
    await anext(labels)
    with lasting(proxy, Trouble.CUT), pytest.raises(Unreachable):
        await until_label(labels, "never")


async def test_expired_ends_watches_and_refuses_new_ones(kube: Session, proxy: Proxy) -> None:
    labels = watched(kube)
    await anext(labels)
    with lasting(proxy, Trouble.EXPIRED):
        for each in (labels, watched(kube)):
            with pytest.raises(Gone):
                await until_label(each, "never")


async def test_doubled_events_come_twice(kube: Session, proxy: Proxy) -> None:
    with lasting(proxy, Trouble.DOUBLED):
        labels = watched(kube)
        told = [await anext(labels)]
        for number in range(20):
            await label(kube, f"v{number}")
        async for each in labels:
            told.append(each)
            if each == "v19":
                break
    assert len(told) > len(set(told))


async def test_lost_events_are_never_told_and_the_watch_ends(kube: Session, proxy: Proxy) -> None:
    labels = watched(kube)
    await anext(labels)
    told: set[int] = set()

    async def collect() -> None:
        async for each in labels:
            told.add(int(each or -1))

    written = iter(range(1_000))

    async def a_gap() -> bool:
        await label(kube, str(next(written)))
        return bool(told - {-1}) and not told >= set(range(max(told)))

    collecting = asyncio.create_task(collect())
    with lasting(proxy, Trouble.LOST):
        await eventually(a_gap, "an event is lost")
    with pytest.raises(Gone):
        await collecting


async def test_slow_answers_take_longer(kube: Session, proxy: Proxy) -> None:
    loop = asyncio.get_running_loop()
    with lasting(proxy, Trouble.SLOW):
        began = loop.time()
        await label(kube, "slow")
    assert loop.time() - began >= 0.3
