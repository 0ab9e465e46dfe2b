"""What pods use of their slices, added up by pod, workload or namespace, the largest waste first.

Pure. Amounts are in MiB; None where nothing was measured.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cli.terminal import natural

Json = Mapping[str, Any]


class By(StrEnum):
    """What a row stands for."""

    POD = "pod"
    WORKLOAD = "workload"
    NAMESPACE = "namespace"


@dataclass(frozen=True, slots=True)
class Sample:
    """One pod on one GPU: its slices there, what its processes use and the most they have used."""

    namespace: str
    pod: str
    node: str
    gpu: str
    asked: int
    used: int | None = None
    peak: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """A row. `where` is the node and GPU of a pod. `unmeasured` pods have no use that is known."""

    name: str
    pods: int
    asked: int
    used: int | None
    peak: int | None
    where: str = ""
    unmeasured: int = 0

    @property
    def waste(self) -> int | None:
        """What was asked for and never used; at least 0."""
        most = self.used if self.peak is None else self.peak
        return None if most is None else max(0, self.asked - most)


def usages(samples: Iterable[Sample], by: By, owners: Mapping[str, str]) -> list[Usage]:
    """The rows, the largest waste first, then what is not measured; `owners` by `namespace/pod`."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(_name(sample, by, owners), []).append(sample)
    rows = [_row(name, each, by) for name, each in found.items()]
    rows.sort(key=lambda row: (row.waste is None, -(row.waste or 0), -row.asked, row.name))
    return rows


def _name(sample: Sample, by: By, owners: Mapping[str, str]) -> str:
    key = f"{sample.namespace}/{sample.pod}"
    match by:
        case By.NAMESPACE:
            return sample.namespace
        case By.WORKLOAD:
            return owners.get(key) or f"{sample.namespace}/pod/{sample.pod}"
    return key


def _row(name: str, samples: list[Sample], by: By) -> Usage:
    """Adds up measured pods only, so that an unmeasured pod does not hide the waste of others."""
    known = [sample for sample in samples if sample.used is not None]
    pods = {(sample.namespace, sample.pod) for sample in samples}
    unknown = pods - {(sample.namespace, sample.pod) for sample in known}
    places = {f"{s.node} GPU {s.gpu}" if s.gpu else s.node for s in samples}
    counted = known or samples
    peaks = [sample.peak for sample in known if sample.peak is not None]
    return Usage(
        name,
        len(pods),
        sum(sample.asked for sample in counted),
        sum(sample.used or 0 for sample in known) if known else None,
        sum(peaks) if peaks and len(peaks) == len(known) else None,
        ", ".join(sorted(places, key=natural)) if by is By.POD else "",
        len(unknown),
    )


def complete(samples: Iterable[Sample], holding: Iterable[Sample]) -> list[Sample]:
    """Adds a sample for each unmeasured pod that holds slices, with what it asked for."""
    samples = list(samples)
    measured = {(sample.namespace, sample.pod) for sample in samples}
    return [*samples, *(h for h in holding if (h.namespace, h.pod) not in measured)]


def total(rows: Iterable[Usage]) -> Usage:
    """Adds up all rows."""
    rows = list(rows)
    known = [row for row in rows if row.used is not None]
    first = Usage("total", 0, 0, None, None)
    for row in known or rows:
        first = replace(first, asked=first.asked + row.asked)
    return replace(
        first,
        pods=sum(row.pods for row in rows),
        used=sum(row.used or 0 for row in known) if known else None,
        peak=_sum(row.peak for row in known),
        unmeasured=sum(row.unmeasured for row in rows),
    )


def _sum(amounts: Iterable[int | None]) -> int | None:
    found = list(amounts)
    return sum(each or 0 for each in found) if found and None not in found else None


def owners_of(pods: Iterable[Json]) -> dict[str, str]:
    """By `namespace/pod`, the workload: `namespace/deployment/name`, and a ReplicaSet's Deployment.

    A ReplicaSet is named after its Deployment and the hash of the template, which a label repeats.
    """
    return dict(_owners(pods))


def _owners(pods: Iterable[Json]) -> Iterator[tuple[str, str]]:
    for pod in pods:
        metadata = pod["metadata"]
        namespace = metadata.get("namespace") or "default"
        for reference in metadata.get("ownerReferences") or ():
            if reference.get("controller"):
                kind, name = str(reference.get("kind")), str(reference.get("name"))
                hashed = (metadata.get("labels") or {}).get("pod-template-hash")
                if kind == "ReplicaSet" and hashed and name.endswith(f"-{hashed}"):
                    kind, name = "Deployment", name.removesuffix(f"-{hashed}")
                yield f"{namespace}/{metadata['name']}", f"{namespace}/{kind.lower()}/{name}"
