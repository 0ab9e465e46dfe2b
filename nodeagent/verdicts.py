"""The results of `mpslice-nodeagent verify` on this node, as the NodeLayout's condition Verified.

The proof leaves a file for each GPU in --mps-root, which both see; only root can write there. It is
gone after a reboot, as is the certainty that the driver is the one that was tried.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import Condition, ConditionType
from nodeagent.errors import AgentError
from nodeagent.hardware import Gpu
from nodeagent.linux.inotify import DirectoryWatch

_PREFIX, _SUFFIX = "verified-", ".json"
_LONGEST: Final = 1024  # characters of the condition's message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One proof. `refuted` are the claims that do not hold, each with its figure."""

    gpu: GpuUuid
    driver: str
    date: str
    refuted: tuple[str, ...] = ()


def leave(directory: Path, report: Mapping[str, Any]) -> None:
    """Puts the report of a proof where the node agent finds it. Blocks; raises OSError."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    file = directory / f"{_PREFIX}{report['uuid']}{_SUFFIX}"
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(report))
    draft.rename(file)


def parse(text: str) -> Verdict:
    """Raises ValueError for what is no report."""
    try:
        report = json.loads(text)
        findings = report["findings"]
        refuted = [f"{f['claim']}: {f['figure']}" for f in findings if f["holds"] is False]
        uuid, driver, date = (str(report[key]) for key in ("uuid", "driver", "date"))
        return Verdict(GpuUuid(uuid), driver, date, tuple(refuted))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no report of a proof: {error!r}") from error


def verified(verdicts: Collection[Verdict], gpus: Iterable[Gpu]) -> Condition | None:
    """The condition Verified; None when nothing was proved on any of these GPUs.

    One GPU that refutes a claim makes it False.
    """
    by_gpu = {verdict.gpu: verdict for verdict in verdicts}
    found = [(gpu, by_gpu[gpu.uuid]) for gpu in gpus if gpu.uuid in by_gpu]
    if not found:
        return None
    refuted = [pair for pair in found if pair[1].refuted]
    message = "; ".join(_told(gpu, verdict) for gpu, verdict in refuted or found)
    reason = "Refuted" if refuted else "Verified"
    return Condition(ConditionType.VERIFIED, not refuted, reason, message[:_LONGEST])


def _told(gpu: Gpu, verdict: Verdict) -> str:
    what = ", ".join(verdict.refuted) or "every claim holds"
    return f"GPU {gpu.index} ({gpu.product}, driver {verdict.driver}, {verdict.date}): {what}"


def _read(directory: Path) -> tuple[Verdict, ...]:
    verdicts = []
    for file in sorted(directory.glob(f"{_PREFIX}*{_SUFFIX}")):
        try:
            verdicts.append(parse(file.read_text()))
        except (OSError, ValueError) as error:
            log.warning("a proof cannot be read", extra={"file": str(file), "error": str(error)})
    return tuple(verdicts)


class Verdicts:
    """The verdicts in a directory; `follow` keeps them true and calls `changed`."""

    def __init__(self, directory: Path, changed: Callable[[], None]) -> None:
        self._directory = directory
        self._changed = changed
        self._found: tuple[Verdict, ...] = ()

    def condition(self, gpus: Sequence[Gpu]) -> Condition | None:
        """See `verified`. Does not block."""
        return verified(self._found, gpus)

    async def follow(self) -> None:
        """Until cancelled, or the directory cannot be watched: what was read last stays."""
        try:
            await self._follow()
        except (AgentError, OSError) as error:
            log.warning("proofs on this node are not looked for", extra={"error": str(error)})

    async def _follow(self) -> NoReturn:
        await asyncio.to_thread(os.makedirs, self._directory, mode=0o755, exist_ok=True)
        with DirectoryWatch(self._directory) as watch:
            while True:
                found = await asyncio.to_thread(_read, self._directory)
                if found != self._found:
                    self._found = found
                    self._changed()
                while not (names := await watch.next()).all:
                    if any(name.startswith(_PREFIX) for name in names.changed):
                        break
