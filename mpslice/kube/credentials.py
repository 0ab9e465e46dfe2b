"""Where the API server is and as whom it is asked: kubeconfig files, or the pod's own account.

Apart from the session because a token ends: an exec plugin (EKS, GKE, AKS) gives one for minutes,
and is asked again here, which the loaders of kubernetes-asyncio leave to others.
"""

import asyncio
import os
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
_EARLY: Final = timedelta(seconds=10)  # before its end a token may end on the way
_MALFORMED: Final = (TypeError, AttributeError, AssertionError)
"""What the loader raises where a list is expected and a text is found, and the like."""


class Credentials:
    """The `configuration` of a client, whose token `renew` keeps from ending.

    `kubeconfig` is a file, or several as in $KUBECONFIG: what the first of them says counts. A
    certificate that a plugin gives instead of a token is not renewed.
    """

    def __init__(self, configuration: Configuration, kubeconfig: str = "") -> None:
        self.configuration = configuration
        self._kubeconfig = kubeconfig
        self._context: str | None = None
        self._ends: datetime | None = None
        self._refused = False
        self._renewing = asyncio.Lock()

    @classmethod
    async def load(cls, kubeconfig: str | None) -> "Credentials":
        """Those of the pod's own account without a kubeconfig.

        Raises BadCredentials, saying what to do.
        """
        credentials = cls(Configuration(), kubeconfig or "")
        if kubeconfig:
            await credentials._read(credentials.configuration)
        else:
            try:
                # It has the token's file read again every minute.
                load_incluster_config(credentials.configuration)  # type: ignore[no-untyped-call]
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
            said = "it is no kubeconfig"
        else:
            said = " ".join(str(error).split())
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
        which = "no such file" if len(named) == 1 else "none of these files exists"
        raise BadCredentials(f"kubeconfig {kubeconfig}: {which}; name another one")
    read = {path: _parsed(path) for path in there}
    for path, said in read.items():
        if said is not None and not isinstance(said, dict):
            raise ConfigException(f"{path} is no kubeconfig")
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
