"""The program as people start and stop it: bad starts in one line, an orderly end, late imports."""

import asyncio
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.waiting import DEADLINE, eventually
from tests.webhook import tls
from tests.webhook.cases import SLICE, container, pod
from tests.webhook.process import ended, free_port, standalone
from tests.webhook.test_review import review

PIDFD_GETFD: Final = 438  # the system call's number, on every architecture


@pytest.fixture
def pair(tmp_path: Path) -> tls.Tls:
    return tls.make(tmp_path / "tls")


def files(certificate: Path, key: Path) -> list[str]:
    return [f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"]


async def refused(*arguments: str) -> str:
    """What the program says when it does not start: one line, no traceback, a status."""
    ports = [f"--listen=127.0.0.1:{free_port()}", f"--ops-listen=127.0.0.1:{free_port()}"]
    outcome = await ended(*ports, *arguments)
    lines = outcome.stderr.splitlines()
    assert (outcome.status in (1, 2), len(lines)) == (True, 1), outcome.stderr
    assert lines[0].startswith("mpslice-webhook: ")
    assert "Traceback" not in outcome.stderr
    return lines[0]


async def test_unknown_flag_is_named() -> None:
    assert "--mps-usr" in await refused("--mps-usr=7")


@pytest.mark.parametrize(
    "flag",
    [
        "--mps-user=root",
        "--listen=8443",
        "--enforcement=maybe",
        "--dev-shm=keep",
        "--host-ipc=perhaps",
        "--allowed-sizes=10gb,ten",
        "--shutdown-delay=10",
        "--tls-cert-lifetime=0s",
        "--tls-ca-lifetime=99999999h",
    ],
)
async def test_unusable_value_is_named_with_its_flag(flag: str) -> None:
    name, _, value = flag.partition("=")
    line = await refused(flag)
    assert f"{name}: {value!r}" in line
    assert "see mpslice-webhook --help" in line


async def test_missing_key_file_is_named(pair: tls.Tls, tmp_path: Path) -> None:
    line = await refused("--standalone", *files(pair.certificate, tmp_path / "none.key"))
    assert "--tls-private-key-file" in line
    assert "none.key cannot be read" in line


async def test_key_that_is_none_is_named(pair: tls.Tls, tmp_path: Path) -> None:
    junk = tmp_path / "junk.key"
    junk.write_text("no key at all")
    line = await refused("--standalone", *files(pair.certificate, junk))
    assert "--tls-private-key-file" in line
    assert str(junk) in line


async def test_key_of_another_certificate_is_told_so(pair: tls.Tls, tmp_path: Path) -> None:
    other = tls.make(tmp_path / "other")
    line = await refused("--standalone", *files(pair.certificate, other.key))
    assert "does not belong" in line


@pytest.mark.parametrize("given", ["--tls-cert-file", "--tls-private-key-file"])
async def test_half_a_pair_is_not_enough(given: str) -> None:
    line = await refused("--standalone", f"{given}=/somewhere")
    assert "is missing" in line


async def test_taken_ports_are_named(pair: tls.Tls) -> None:
    async with standalone(pair) as webhook:
        both = files(pair.certificate, pair.key)
        line = await refused("--standalone", *both, f"--listen=127.0.0.1:{webhook.port}")
        assert f"--listen: cannot listen on 127.0.0.1:{webhook.port}" in line
        line = await refused("--standalone", *both, f"--ops-listen=127.0.0.1:{webhook.ops_port}")
        assert f"--ops-listen: cannot listen on 127.0.0.1:{webhook.ops_port}" in line


async def test_without_a_cluster_it_says_how_to_name_one(tmp_path: Path) -> None:
    assert "--kubeconfig" in await refused()
    assert "none.yaml" in await refused(f"--kubeconfig={tmp_path / 'none.yaml'}")


async def test_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    server = f"https://127.0.0.1:{free_port()}"
    config = tmp_path / "kubeconfig"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    line = await refused(f"--kubeconfig={config}")
    assert "Secret" in line
    assert "API server" in line


async def test_standalone_serves_with_the_certificate_of_the_files(pair: tls.Tls) -> None:
    async with standalone(pair, ["--mps-user=33", "--gate=false"]) as webhook:
        status, answer = await webhook.post("/mutate", review(pod()))
        assert (status, answer["response"]["allowed"]) == (200, True)
        status, answer = await webhook.post("/validate", review(pod(container({SLICE: 2}))))
        assert answer["response"]["status"]["message"].startswith("MultipleSlices: ")
        _, metrics = await webhook.ops("metrics")
        assert (
            'requests_total{endpoint="validate",reason="MultipleSlices",verdict="refused"} 1.0'
            in metrics
        )
        assert "mpslice_admission_seconds_bucket" in metrics
        name = "mpslice_certificate_expiry_timestamp_seconds "
        (line,) = [line for line in metrics.splitlines() if line.startswith(name)]
        assert float(line.removeprefix(name)) > time.time()


async def test_standalone_without_files_serves_all_the_same() -> None:
    port, ops = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "webhook.main", "--standalone", "--shutdown-delay=0s"),
        *(f"--listen=127.0.0.1:{port}", f"--ops-listen=127.0.0.1:{ops}"),
    )
    try:

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens, "the port is open")
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_after_sigterm_it_is_unready_first_serves_on_and_then_ends(pair: tls.Tls) -> None:
    async with standalone(pair, ["--shutdown-delay=5s"]) as webhook:
        webhook.process.terminate()
        await eventually(webhook.not_ready, "/readyz says no", every=0.01)
        assert await webhook.not_ready() == "shutting down\n"
        assert (await webhook.ops("healthz"))[0] == 200
        status, answer = await webhook.post("/mutate", review(pod()))
        assert (status, answer["response"]["allowed"]) == (200, True)
        async with asyncio.timeout(DEADLINE):
            assert await webhook.process.wait() == 0


async def test_second_signal_cuts_the_end_short(pair: tls.Tls) -> None:
    async with standalone(pair, ["--shutdown-delay=10m"]) as webhook:
        webhook.process.terminate()
        await eventually(webhook.not_ready, "/readyz says no", every=0.01)
        webhook.process.terminate()
        async with asyncio.timeout(DEADLINE):
            assert await webhook.process.wait() == 0


async def test_it_ends_with_one_line_when_its_port_listens_no_more(pair: tls.Tls) -> None:
    async with standalone(pair, ("--shutdown-delay=0s",)) as webhook:
        with listening(webhook.process.pid, webhook.port) as port:
            port.shutdown(socket.SHUT_RDWR)
        async with asyncio.timeout(DEADLINE):
            _, stderr = await webhook.process.communicate()
    last = stderr.decode().splitlines()[-1]
    assert webhook.process.returncode == 1
    assert last.startswith("mpslice-webhook: the port is served no more (Invalid argument)")


def listening(pid: int, port: int) -> socket.socket:
    """Another process's socket that listens on the port; the same socket, not a copy."""
    table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    rows = [row.split() for row in table]
    inode = next(row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}"))
    links = Path(f"/proc/{pid}/fd").iterdir()
    number = next(int(link.name) for link in links if os.readlink(link) == f"socket:[{inode}]")
    process = os.pidfd_open(pid)
    try:
        return socket.socket(fileno=ctypes.CDLL(None).syscall(PIDFD_GETFD, process, number, 0))
    finally:
        os.close(process)


async def test_renewed_files_are_served_without_a_restart(pair: tls.Tls, tmp_path: Path) -> None:
    async with standalone(pair) as webhook:
        renewed = tls.make(pair.certificate.parent)

        async def served() -> bool:
            try:
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", webhook.port, ssl=renewed.client, server_hostname="localhost"
                )
            except OSError:
                return False
            writer.close()
            return True

        await eventually(served, "the new certificate is served", every=0.1)


@pytest.mark.parametrize(
    "code",
    [
        "from webhook.main import flags; flags().format_help()",
        "import webhook.offline, webhook.policy",
    ],
    ids=["help", "offline policy"],
)
def test_nothing_heavy_is_imported_for(code: str) -> None:
    heavy = "{'aiohttp', 'kubernetes_asyncio', 'cryptography', 'prometheus_client', 'grpc'}"
    check = f"import sys; {code}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stdout.strip() == "[]", done.stderr


async def test_help_and_version_answer() -> None:
    helped = await ended("--help")
    assert (helped.status, "--mps-user" in helped.stdout) == (0, True)
    assert (await ended("--version")).stdout.startswith("mpslice-webhook ")
