"""kubectl's flags, and the session that they ask for."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from argparse import Namespace
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from cli.errors import UnusableInput
from mpslice.flags import FlagParser, label

if TYPE_CHECKING:
    from mpslice.kube.session import Session

NODE_LABEL: Final = "nos.nebuly.com/gpu-partitioning=mps"

KUBECONFIG_HELP: Final = (
    "the kubeconfig, else $KUBECONFIG, else ~/.kube/config, else the pod's own account"
)
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)


def name(text: str) -> str:
    """Reads the name of an object or a namespace (RFC 1123); raises ValueError for another text."""
    if not is_name(text):
        raise ValueError("is not a valid name; names have lowercase letters, digits, - and .")
    return text


def is_name(text: str) -> bool:
    """Whether an object can have this name."""
    return _NAME.fullmatch(text) is not None


def add_flags(parser: FlagParser, *, namespaces: str) -> None:
    """Adds kubectl's flags for the cluster, the namespace and the person."""
    parser.flag("--namespace", name, "", namespaces, "NAME", short="-n")
    parser.flag("--kubeconfig", str, "", KUBECONFIG_HELP, "FILE")
    parser.flag("--context", str, "", "a context of the kubeconfig, else its current one", "NAME")
    parser.flag("--as", str, "", "ask as this user, or service account", "USER")
    text = "ask as a member of this group; may be given several times"
    parser.add_argument("--as-group", action="append", default=[], metavar="GROUP", help=text)


def add_all_namespaces(parser: FlagParser) -> None:
    """Adds kubectl's -A."""
    parser.add_argument(
        "-A", "--all-namespaces", action="store_true", help="show the pods of all namespaces"
    )


def add_node_label(parser: FlagParser) -> None:
    """Adds --node-label, which the planner has, too."""
    text = "the label that hands a node's GPUs to mpslice"
    parser.flag("--node-label", label, NODE_LABEL, text, "KEY=VALUE")


def with_session(options: Namespace, ask: Callable[[Session], Awaitable[int]]) -> int:
    """Asks the cluster, and returns the exit status.

    Raises a KubeError where the cluster cannot be reached, UnusableInput for flags that do not go
    together.
    """

    async def run() -> int:
        from mpslice.kube.errors import ApiError, Unreachable

        async with await _session(options) as kube:
            try:
                return await ask(kube)
            except Unreachable as error:
                raise UnusableInput(_unreachable(kube.server, error)) from error
            except ApiError as error:
                if error.status == HTTPStatus.UNAUTHORIZED:
                    raise UnusableInput(_unknown(kube.server)) from error
                raise

    return asyncio.run(run())


def _unreachable(server: str, error: Exception) -> str:
    """Returns the message for an API server that does not answer."""
    cause = error.__cause__
    system = getattr(cause, "os_error", None)
    certificate = getattr(cause, "certificate_error", None)
    if certificate is not None:
        return f"the certificate of the API server {server} is not trusted: {certificate}"
    if isinstance(cause, TimeoutError):
        said = "no answer in time"
    elif isinstance(system, socket.gaierror):
        said = "no host has this name"
    elif isinstance(system, OSError) and system.errno:
        said = os.strerror(system.errno)
    else:
        said = str(error)
    return f"the API server {server} does not answer: {said}"


def _unknown(server: str) -> str:
    return (
        f"the API server {server} does not know you (401): the kubeconfig's token or certificate "
        "has expired, or belongs to another cluster"
    )


async def _session(options: Namespace) -> Session:
    from mpslice.kube.session import Session  # late, so that --help answers at once

    # The loader also raises what it logs, and one line of it is enough.
    logging.getLogger("kubernetes_asyncio").addHandler(logging.NullHandler())
    user, groups = getattr(options, "as", None) or "", getattr(options, "as_group", None) or []
    if groups and not user:
        raise UnusableInput("--as-group needs --as; say whose groups they are")
    return await Session.connect(
        "cli",
        _kubeconfig(options),
        context=getattr(options, "context", None) or "",
        user=user,
        groups=groups,
    )


def _kubeconfig(options: Namespace) -> str | None:
    """Returns the kubeconfig to use; None for the account that Kubernetes mounts into a pod."""
    default = os.path.expanduser("~/.kube/config")
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and not os.path.exists(default)
    chosen: str | None = options.kubeconfig or os.environ.get("KUBECONFIG")
    return os.path.expanduser(chosen) if chosen else None if in_pod else default
