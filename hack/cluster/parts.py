"""Obtains the cluster's components once, and tells where each program lies.

Decides between downloading releases and building from source (`MPSLICE_KUBE_FROM`),
and keeps what it got in a cache outside the checkout, keyed by component and version.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.download import download
from hack.cluster.errors import ClusterError, Unavailable
from hack.cluster.golang import Go, find_go
from hack.cluster.layout import Cache
from hack.cluster.progress import Say, duration
from hack.cluster.versions import (
    COMPONENTS,
    CONTAINERD,
    ETCD,
    HELM,
    KUBERNETES,
    Component,
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the programs lie; they exist."""

    cache: Cache

    @property
    def etcd(self) -> Path:
        return self.cache.component(ETCD) / "etcd"

    @property
    def kubectl(self) -> Path:
        return self.kubernetes("kubectl")

    @property
    def helm(self) -> Path:
        return self.cache.component(HELM) / "helm"

    @property
    def containerd_bin(self) -> Path:
        """The folder of containerd, its shim (looked up on PATH) and ctr."""
        return self.cache.component(CONTAINERD)

    def neighbour(self, component: Component) -> Path:
        """The folder of one of NEIGHBOURS: its programs, and its kinds in `crds`."""
        return self.cache.component(component)

    def kubernetes(self, program: str) -> Path:
        return self.cache.component(KUBERNETES) / program


def obtain(say: Say, components: Sequence[Component] = COMPONENTS) -> Parts:
    """Obtain which of the components are not yet in the cache; one line for each.

    Raises:
        Unavailable: A component can neither be downloaded nor built here.
        ClusterError: MPSLICE_KUBE_FROM has another value than build or download.
    """
    cache = Cache.default()
    if not _missing(cache, components):
        return Parts(cache)
    with _exclusive(cache, say):
        missing = _missing(cache, components)  # whoever held the lock may have got them
        if missing:
            started = time.monotonic()
            cache.logs.mkdir(parents=True, exist_ok=True)
            _Obtainer(cache, say).run(missing)
            shutil.rmtree(cache.go, ignore_errors=True)
            say(f"  all parts are in {cache.root}: {duration(time.monotonic() - started)}")
    return Parts(cache)


def _missing(cache: Cache, components: Sequence[Component]) -> list[Component]:
    return [c for c in components if not cache.component(c).is_dir()]


class _Obtainer:
    """One run of obtaining; remembers that downloads failed and where Go is."""

    def __init__(self, cache: Cache, say: Say) -> None:
        self._cache = cache
        self._say = say
        self._downloads, self._builds = _ways()
        self._go: Go | None = None

    def run(self, components: list[Component]) -> None:
        names = ", ".join(c.key for c in components)
        self._say(f"obtaining {names}; cached in {self._cache.root}, so only once")
        for component in components:
            started = time.monotonic()
            final = self._cache.component(component)
            temporary = final.with_name(f"{final.name}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                how = self._obtain(component, temporary)
                temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            self._say(f"  {component.key} {how}: {duration(time.monotonic() - started)}")

    def _obtain(self, component: Component, into: Path) -> str:
        if not component.released and not self._builds:
            what = "is released as an image alone; set MPSLICE_KUBE_FROM=build"
            raise Unavailable(f"{component.key} {what}")
        if self._downloads and component.released:
            try:
                download(component, into)
                return "downloaded"
            except Unavailable as error:
                if not self._builds:
                    raise
                self._downloads = False
                self._say(f"  {error}; building from source instead")
                shutil.rmtree(into, ignore_errors=True)
        if self._go is None:
            self._say(
                "  building takes 8 to 15 minutes on two free cores, and 5 GB of disk meanwhile"
            )
            self._go = find_go(self._cache, self._say)
        self._go.build(component, into, self._cache.logs / f"build-{component.key}.log", self._say)
        return "built"


def _ways() -> tuple[bool, bool]:
    """Whether to download and whether to build."""
    chosen = os.environ.get("MPSLICE_KUBE_FROM", "")
    try:
        return {"": (True, True), "download": (True, False), "build": (False, True)}[chosen]
    except KeyError:
        raise ClusterError(
            f"MPSLICE_KUBE_FROM={chosen} is neither build nor download; correct or unset it"
        ) from None


@contextmanager
def _exclusive(cache: Cache, say: Say) -> Iterator[None]:
    """Two builds at once would take twice as long and write the same folders."""
    cache.lock.parent.mkdir(parents=True, exist_ok=True)
    with cache.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is obtaining the parts; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
