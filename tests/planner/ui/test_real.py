"""The planner itself, with the chart's own account, on a real API server: who may read its page."""

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hack.cluster import network, pki
from hack.cluster.controlplane import ControlPlane
from mpslice.kube.api import PODS
from mpslice.kube.session import Session
from tests.chart import render
from tests.planner.agents import add_node
from tests.planner.conftest import agents_at_work
from tests.planner.pods import slice_pod
from tests.waiting import DEADLINE, eventually

SYSTEM = "mpslice-system"
TEMPLATES = ("service-accounts", "planner-rbac", "view-role")
OURS = ("mpslice-planner", "mpslice-view")


@pytest.fixture(scope="module")
def plane(planner_plane: ControlPlane) -> ControlPlane:
    """With the chart's account of the planner, and readers with more and with fewer rights."""
    for namespace in (SYSTEM, "team-a", "team-b"):
        planner_plane.kubectl("create", "namespace", namespace, check=False)
    documents = render(
        planner_plane.parts.helm,
        "--set=planner.ui.enabled=true",
        *(f"--show-only=templates/{name}.yaml" for name in TEMPLATES),
    )
    ours = [each for each in documents if each["metadata"]["name"] in OURS]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": ours})
    planner_plane.kubectl("apply", "--filename=-", input=manifest)
    for name in ("viewer", "narrow", "layouts", "gone"):
        planner_plane.kubectl("create", "serviceaccount", name, "--namespace=team-a")

    def bind(kind: str, name: str, role: str, *more: str) -> None:
        account = f"--serviceaccount=team-a:{name}"
        full = f"page-{name}-{role}"
        planner_plane.kubectl("create", kind, full, f"--clusterrole={role}", account, *more)

    bind("clusterrolebinding", "viewer", "view")
    bind("clusterrolebinding", "gone", "view")
    bind("rolebinding", "narrow", "view", "--namespace=team-a")
    bind("clusterrolebinding", "layouts", "mpslice-view")
    bind("rolebinding", "layouts", "view", "--namespace=team-a")
    return planner_plane


def token_of(plane: ControlPlane, name: str, *more: str, namespace: str = "team-a") -> str:
    done = plane.kubectl("create", "token", name, f"--namespace={namespace}", *more)
    return done.stdout.strip()


@asynccontextmanager
async def planners(plane: ControlPlane, tmp_path: Path, count: int) -> AsyncIterator[list[str]]:
    """So many replicas as processes of their own; yields the addresses of their pages."""
    config = pki.write_kubeconfig(
        tmp_path / "planner.kubeconfig",
        plane.url,
        plane.pki.authority.pair.certificate,
        {"token": token_of(plane, "mpslice-planner", namespace=SYSTEM)},
    )
    ports = network.free_ports(2 * count)
    pages, ops = ports[:count], ports[count:]
    command = (sys.executable, "-m", "planner.main", f"--kubeconfig={config}")
    quiet = asyncio.subprocess.DEVNULL
    running = [
        await asyncio.create_subprocess_exec(
            *command,
            f"--ui-listen=127.0.0.1:{page}",
            f"--ops-listen=127.0.0.1:{port}",
            stderr=quiet,
            stdout=quiet,
        )
        for page, port in zip(pages, ops, strict=True)
    ]
    try:
        yield [f"http://127.0.0.1:{page}" for page in pages]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            await process.wait()


async def ask(url: str, token: str) -> tuple[int, Any]:
    """The status, and the first event that has nodes or the text of a refusal; 0 without a page."""
    try:
        async with (
            aiohttp.ClientSession(read_bufsize=2**22) as session,
            session.get(f"{url}/events", headers={"Authorization": f"Bearer {token}"}) as answer,
        ):
            if answer.status != 200:
                return answer.status, await answer.text()
            async with asyncio.timeout(DEADLINE):
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        return 200, json.loads(line[6:])
            raise AssertionError("the stream has ended")
    except aiohttp.ClientConnectionError:
        return 0, None


async def test_who_reads_the_page_of_a_real_cluster(
    plane: ControlPlane, kube: Session, tmp_path: Path
) -> None:
    await add_node(kube, "n1")
    async with agents_at_work(kube, {"n1": [40, 40]}), planners(plane, tmp_path, 2) as urls:
        for namespace in ("team-a", "team-b"):
            pod = slice_pod("waits", 90)
            pod["metadata"]["namespace"] = namespace
            await kube.create(PODS, pod, namespace=namespace)
        viewer = token_of(plane, "viewer")

        async def shown(url: str, token: str) -> Any:
            status, first = await ask(url, token)
            judged = status == 200 and {"n1"} <= first.get("nodes", {}).keys()
            told = judged and all(
                "GPUTooSmall" in wait["text"] for wait in first.get("queue", {}).values()
            )
            return first if told and first["waiting"] == 2 and first["leader"] else None

        both = [
            await eventually(partial(shown, url, viewer), "the page is complete") for url in urls
        ]
        # One replica leads, the other one shows the same by what the leader wrote to the pods.
        assert sorted(page["leads"] for page in both) == [False, True]
        for page in both:
            assert list(page["queue"]) == ["team-a/waits", "team-b/waits"]
            assert page["queue"]["team-a/waits"]["reason"] == "GPUTooSmall"
            assert [gpu["gb"] for gpu in page["nodes"]["n1"]["gpus"]] == [40, 40]
            assert page["places"] == [1, 2]

        # Who may get NodeLayouts and list the pods of one namespace sees these, and counts all.
        mine = await shown(urls[0], token_of(plane, "layouts"))
        assert list(mine["queue"]) == ["team-a/waits"]
        assert mine["waiting"] == 2

        wrong = no_tokens(plane, viewer)
        for url in urls:
            assert await ask(url, token_of(plane, "narrow")) == (403, "forbidden\n")
            # Signed anew as it was, a token is good: so what follows is refused for its claims.
            assert await shown(url, signed(viewer, clusters_key(plane), {}))
            for why, token in wrong.items():
                assert await ask(url, token) == (401, "unauthorized\n"), why


def clusters_key(plane: ControlPlane) -> Any:
    return load_pem_private_key(plane.pki.service_accounts.key.read_bytes(), None)


def no_tokens(plane: ControlPlane, token: str) -> dict[str, str]:
    """What looks like a token of the cluster and is none."""
    now = int(time.time())
    theirs = ec.generate_private_key(ec.SECP256R1())
    orphan = token_of(plane, "gone")
    plane.kubectl("delete", "serviceaccount", "gone", "--namespace=team-a")
    past = {"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}
    return {
        "expired": signed(token, clusters_key(plane), past),
        "of another cluster": signed(token, theirs, {}),
        "for another audience": token_of(plane, "layouts", "--audience=other"),
        "of an account that was deleted": orphan,
        "changed": token[:-8] + "AAAAAAAA",
        "no token": "hello",
    }


def signed(token: str, key: Any, claims: dict[str, Any]) -> str:
    """The token with other claims, signed by the key."""
    head, body, _ = token.split(".")
    body = _encoded(json.dumps({**json.loads(_decoded(body)), **claims}).encode())
    text = f"{head}.{body}".encode()
    numbers = decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))  # ES256 of RFC 7518
    return f"{head}.{body}.{_encoded(b''.join(n.to_bytes(32, 'big') for n in numbers))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
