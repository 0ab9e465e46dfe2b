"""Kubeconfigs that are wrong, and servers that do not answer: one line says what is wrong."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.cli.plan.given import Run

RIGHT = """\
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://SERVER"}}]
users: [{name: u, user: {token: t}}]
"""
USE = "`kubectl config use-context` sets one"
PLUGIN = "exec: {apiVersion: client.authentication.k8s.io/v1, command: COMMAND}"
UNFIT = "its certificates or keys cannot be read, or do not belong together: "


def changed(old: str, new: str) -> str:
    assert old in RIGHT
    return RIGHT.replace(old, new)


WRONG = {
    "empty": ("", "it is empty"),
    "not YAML": ("a: [1\n", "line 2 is not YAML: expected ',' or ']', but got '<stream end>'"),
    "a template": (
        changed("server:", "x: {{ .Values.a }}, server:"),
        "line 5 is not YAML: found unhashable key",
    ),
    "a list": ("- a\n", "FILE is not a kubeconfig"),
    "a text": ("hello\n", "FILE is not a kubeconfig"),
    "a manifest": (
        "kind: Pod\nmetadata: {name: p}\n",
        f"it has no current-context; {USE}",
    ),
    "no current context": (
        changed("current-context: c\n", ""),
        f"it has no current-context; {USE}",
    ),
    "another context": (
        changed("current-context: c", "current-context: d"),
        "it has no context 'd'; its contexts are: c",
    ),
    "no contexts": ("current-context: c\n", "it has no context 'c', and no other context"),
    "a context without a name": (
        changed("{name: c, ", "{"),
        "it has no context 'c', and no other context",
    ),
    "contexts that are no list": (
        changed("[{name: c, context: {cluster: k, user: u}}]", "{c: {cluster: k}}"),
        "it is not a kubeconfig",
    ),
    "a context without a cluster": (
        changed("{cluster: k, user: u}", "{user: u}"),
        "its context 'c' names no cluster",
    ),
    "another cluster": (
        changed("cluster: k, user", "cluster: x, user"),
        "its context 'c' names cluster 'x', but no cluster of that name is defined",
    ),
    "another user": (
        changed("user: u}", "user: x}"),
        "its context 'c' names user 'x', but no user of that name is defined",
    ),
    "no server": (changed('server: "https://SERVER"', "a: b"), "its cluster 'k' has no server"),
    "a server without scheme": (
        changed("https://SERVER", "10.0.0.1:6443"),
        "its cluster 'k' has '10.0.0.1:6443' as server; write https://HOST:PORT",
    ),
    "no authority's file": (
        changed("server:", "certificate-authority: /no/ca.crt, server:"),
        "File does not exist: /no/ca.crt",
    ),
    "an authority that is none": (
        changed("server:", "certificate-authority-data: aGVsbG8=, server:"),
        UNFIT,
    ),
    "a certificate without key": (changed("token: t", "client-certificate-data: aGVsbG8="), UNFIT),
    "no certificate's file": (
        changed("token: t", "client-certificate: /no/c.crt, client-key: /no/c.key"),
        "File does not exist: /no/c.crt",
    ),
    "no token's file": (
        changed("token: t", "tokenFile: /no/token"),
        "/no/token: No such file or directory",
    ),
    "a plugin that is not installed": (
        changed("token: t", PLUGIN.replace("COMMAND", "no-such-plugin")),
        "no-such-plugin: No such file or directory",
    ),
    "a plugin that fails": (
        changed("token: t", PLUGIN.replace("COMMAND", '"false"')),
        "exec: process returned 1",
    ),
    "a plugin that says nothing": (
        changed("token: t", PLUGIN.replace("COMMAND", '"true"')),
        "exec: failed to decode process output: Expecting value: line 1 column 1 (char 0)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_kubeconfig_is_one_line(run: Run, tmp_path: Path, case: str) -> None:
    text, said = WRONG[case]
    path = tmp_path / "config"
    path.write_text(text)
    run("status", "--kubeconfig", path)
    assert (run.status, run.out, run.err.count("\n")) == (2, "", 1)
    start = f"kubectl mpslice: cannot use kubeconfig {path}: {said}".replace("FILE", str(path))
    assert run.err.startswith(start) if said is UNFIT else run.err == f"{start}\n"


def test_kubeconfig_that_is_a_folder_or_binary_is_one_line(run: Run, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xce\xff\x00\x01")
    for path, said in ((tmp_path, "Is a directory"), (binary, "it is not UTF-8 text")):
        run("status", "--kubeconfig", path)
        assert run.err == f"kubectl mpslice: cannot use kubeconfig {path}: {said}\n"


@pytest.mark.parametrize("command", ["status", "why p", "top", "plan --live", "holders", "ungate"])
def test_missing_kubeconfig_is_one_line_in_every_command(run: Run, command: str) -> None:
    run(*command.split(), "--kubeconfig=/no/such/config")
    assert run.status == 2
    said = (
        "kubeconfig /no/such/config does not exist; give another with --kubeconfig or $KUBECONFIG"
    )
    assert run.err == f"kubectl mpslice: {said}\n"


def written(tmp_path: Path, server: str) -> Path:
    path = tmp_path / "config"
    path.write_text(RIGHT.replace("https://SERVER", server))
    return path


def test_server_that_refuses_is_named(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run("status", "--kubeconfig", written(tmp_path, f"https://127.0.0.1:{port}"))
    assert run.status == 2
    said = f"the API server https://127.0.0.1:{port} does not answer: Connection refused"
    assert run.err == f"kubectl mpslice: {said}\n"


@pytest.fixture
def closed_door() -> Iterator[int]:
    """The port of a server without TLS that knows nobody."""

    class Nobody(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Nobody)
    work = threading.Thread(target=server.serve_forever)
    work.start()
    yield server.server_address[1]
    server.shutdown()
    work.join()
    server.server_close()


@pytest.mark.parametrize("command", ["status", "why p", "top", "plan --live", "holders", "ungate"])
def test_server_that_knows_nobody_says_so_in_every_command(
    run: Run, tmp_path: Path, closed_door: int, command: str
) -> None:
    server = f"http://127.0.0.1:{closed_door}"
    run(*command.split(), "--kubeconfig", written(tmp_path, server))
    assert run.status == 2
    assert run.err == (
        f"kubectl mpslice: the API server {server} does not know you (401): the kubeconfig's token "
        "or certificate has expired, or belongs to another cluster\n"
    )


def test_server_that_speaks_no_tls_is_named(run: Run, tmp_path: Path, closed_door: int) -> None:
    server = f"https://127.0.0.1:{closed_door}"
    run("status", "--kubeconfig", written(tmp_path, server))
    assert run.status == 2
    assert run.err.startswith(f"kubectl mpslice: the API server {server} does not answer: ")
    assert run.err.count("\n") == 1
