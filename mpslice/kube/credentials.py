"""Where the API server is and as whom it is asked: kubeconfig files, or the pod's own account.

Apart from the session because a token ends: an exec plugin (EKS, GKE, AKS) gives one for minutes,
and is asked again here, which the loaders of kubernetes-asyncio leave to others.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import yaml

from mpslice.kube.client import (
    ConfigException,
    Configuration,
    load_incluster_config,
    load_kube_config,
)
from mpslice.kube.errors import BadCredentials

_PLUGIN: Final = 300.0  # seconds: its plugin may have a person log in
_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_EARLY: Final = timedelta(seconds=10)  # before its end a token may end on the way
_MALFORMED: Final = (TypeError, AttributeError, AssertionError)
"""What the loader raises where a list is expected and a text is found, and the like."""


class Credentials:
    """The `configuration` of a client, whose token `renew` keeps from ending.

    `kubeconfig` is a file, or several as in $KUBECONFIG: what the first of them says counts. A
    certificate that a plugin gives instead of a token is not renewed.
    """

    def __init__(
        self, configuration: Configuration, kubeconfig: str = "", context: str = ""
    ) -> None:
        self.configuration = configuration
        self.namespace = "default"
        """The namespace of the kubeconfig's context, or of the pod's own account."""
        self._kubeconfig = kubeconfig
        self._context: str | None = context or None
        self._ends: datetime | None = None
        self._refused = False
        self._renewing = asyncio.Lock()

    @classmethod
    async def load(cls, kubeconfig: str | None, context: str = "") -> "Credentials":
        """Those of the pod's own account without a kubeconfig; `context` is one of the
        kubeconfig's, "" for its current one.

        Raises BadCredentials, saying what to do.
        """
        credentials = cls(Configuration(), kubeconfig or "", context)
        if kubeconfig:
            await credentials._read(credentials.configuration)
        else:
            try:
                # It has the token's file read again every minute.
                load_incluster_config(credentials.configuration)  # type: ignore[no-untyped-call]
                credentials.namespace = _own_namespace()
            except (ConfigException, OSError, ValueError) as error:
                raise credentials.unusable(error) from error
        return credentials

    async def renew(self) -> None:
        """Takes the token anew where it ends or was refused; to be called before each request.

        Raises BadCredentials.
        """
        if not self._is_stale:
            return
        async with self._renewing:
            if self._is_stale:  # nobody else has seen to it meanwhile
                fresh = Configuration()
                await self._read(fresh)
                self.configuration.api_key = fresh.api_key
                self._refused = False

    def refused(self) -> None:
        """The API server knows nobody by the token (401): it has ended without saying when."""
        self._refused = True

    def unusable(self, error: Exception) -> BadCredentials:
        """What a person is told; `error` may be of any kind and have many lines."""
        if isinstance(error, TimeoutError):
            said = f"its plugin has not answered in {_PLUGIN:g} s"
        elif isinstance(error, _MALFORMED):
            said = "it is not a kubeconfig"
        elif isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            said = f"line {error.problem_mark.line + 1} is not YAML: {error.problem}"
        elif isinstance(error, UnicodeDecodeError):
            said = "it is not UTF-8 text"
        elif isinstance(error, ssl.SSLError):
            said = f"its certificates or keys cannot be read, or do not belong together: {error}"
        elif isinstance(error, OSError) and error.strerror and error.filename:
            is_own = str(error.filename) == self._kubeconfig
            said = error.strerror if is_own else f"{error.filename}: {error.strerror}"
        else:
            said = " ".join(str(error).split()).replace("does not exists", "does not exist")
        if self._kubeconfig:
            return BadCredentials(f"cannot use kubeconfig {self._kubeconfig}: {said}")
        hint = "(outside a cluster, give --kubeconfig)"
        return BadCredentials(f"cannot use the in-cluster service account: {said} {hint}")

    @property
    def _is_stale(self) -> bool:
        if not self._kubeconfig:
            return False
        return self._refused or (self._ends is not None and datetime.now(UTC) > self._ends - _EARLY)

    async def _read(self, configuration: Configuration) -> None:
        """Loads the files; what asks again stays with the context that was chosen first."""
        try:
            files = _files(self._kubeconfig)
            self._context = self._context or _context(files)
            self.namespace = _namespace(files, self._context)
            async with asyncio.timeout(_PLUGIN):
                loader = await load_kube_config(
                    os.pathsep.join(map(str, files)),
                    context=self._context,
                    client_configuration=configuration,
                )
        except (
            ConfigException,
            OSError,
            ValueError,
            LookupError,
            yaml.YAMLError,
            *_MALFORMED,
        ) as error:
            raise self.unusable(error) from error
        self._ends = getattr(loader, "exec_plugin_expiry", None)


def _files(kubeconfig: str) -> Mapping[Path, Mapping[str, Any]]:
    """What the files say that exist and are not empty, as kubectl has it.

    Raises BadCredentials when there is none, and what reading and parsing raise.
    """
    named = [Path(part).expanduser() for part in kubeconfig.split(os.pathsep) if part]
    there = [path for path in named if path.exists()]
    if not there:
        missing = "does not exist" if len(named) == 1 else "names no file that exists"
        advice = "give another with --kubeconfig or $KUBECONFIG"
        raise BadCredentials(f"kubeconfig {kubeconfig} {missing}; {advice}")
    read = {path: _parsed(path) for path in there}
    for path, said in read.items():
        if said is not None and not isinstance(said, dict):
            raise ConfigException(f"{path} is not a kubeconfig")
    found = {path: said for path, said in read.items() if said}
    if not found:
        raise ConfigException("it is empty" if len(there) == 1 else "all of these files are empty")
    return found


def _parsed(path: Path) -> Any:
    with path.open(encoding="utf-8") as file:  # a file, so that an error of its form names it
        return yaml.safe_load(file)


def _context(files: Mapping[Path, Mapping[str, Any]]) -> str | None:
    """The first that is named, as kubectl has it: the loader would take the last one's cluster."""
    named = (said.get("current-context") for said in files.values())
    return next((str(context) for context in named if context), None)


def _namespace(files: Mapping[Path, Mapping[str, Any]], context: str | None) -> str:
    """That of the context, of which the first file that has it decides.

    Raises ConfigException for a context that is in no file, naming those that are, and for one
    whose cluster or user is not told of.
    """
    if not context:
        raise ConfigException("it has no current-context; `kubectl config use-context` sets one")
    found = _entry(files, "contexts", context)
    if found is None:
        known = ", ".join(sorted(_names(files, "contexts")))
        others = f"; its contexts are: {known}" if known else ", and no other context"
        raise ConfigException(f"it has no context {context!r}{others}")
    said = found.get("context") or {}
    cluster, user = said.get("cluster"), said.get("user")
    told = _entry(files, "clusters", cluster)
    if told is None:
        raise ConfigException(_undefined(context, "cluster", cluster))
    server = (told.get("cluster") or {}).get("server")
    if not str(server).startswith(("https://", "http://")):
        text = f"its cluster {cluster!r} has {server!r} as server; write https://HOST:PORT"
        raise ConfigException(text if server else f"its cluster {cluster!r} has no server")
    if user and _entry(files, "users", user) is None:
        raise ConfigException(_undefined(context, "user", user))
    return str(said.get("namespace") or "default")


def _undefined(context: str, kind: str, name: object) -> str:
    if not name:
        return f"its context {context!r} names no {kind}"
    return f"its context {context!r} names {kind} {name!r}, but no {kind} of that name is defined"


def _entry(
    files: Mapping[Path, Mapping[str, Any]], kind: str, name: object
) -> Mapping[str, Any] | None:
    """The first entry of the name."""
    entries = (each for said in files.values() for each in said.get(kind) or ())
    return next((each for each in entries if each.get("name") == name), None)


def _names(files: Mapping[Path, Mapping[str, Any]], kind: str) -> set[str]:
    entries = (each for said in files.values() for each in said.get(kind) or ())
    return {str(each["name"]) for each in entries if each.get("name")}


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"
