"""The node's status as the agent writes it: slices, nos's annotations, and what is applied.

Everything that the agent says about the node goes into one patch; a write that would change nothing
is left out, by what the server answered last.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from time import monotonic
from typing import Final

from mpslice.kube.api import NODES, Kube, PatchType
from mpslice.nodelayout import APPLIED_ANNOTATION
from mpslice.slices import SliceSize
from nodeagent.cluster.report import (
    Amount,
    NodeFacts,
    gpu_statuses,
    mirrored_annotations,
    node_patch,
    node_resources,
    offered_gb,
    project_node,
    used_resources,
)
from nodeagent.cluster.servertime import ServerTime
from nodeagent.pulse import Pulse
from nodeagent.settings import Settings
from nodeagent.slices.evidence import Pods
from nodeagent.slices.table import SliceTable

ANNOTATIONS_SECONDS: Final = 60.0
"""How long nos's annotations may be behind where they alone would be a write. Nothing of mpslice
reads them, and a pod's life would else cost two writes more."""


class NodeStatus:
    """Every call raises a KubeError when it could not write.

    `release` is what the NodeLayout says, None without one. `offers_gb` turns False once
    mpslice.io/gb can go from a node whose agent is not to offer it. `facts` is the newest reading.
    `due` is when the node has to be written for its annotations alone (monotonic), None for never.
    `seen` beats with each newer reading of the node, which `server_time` is known by.
    """

    def __init__(self, kube: Kube, settings: Settings, table: SliceTable) -> None:
        self.release: bool | None = None
        self.offers_gb = True
        self.facts = NodeFacts()
        self.due: float | None = None
        self.seen = Pulse()
        self.server_time = ServerTime()
        self._kube = kube
        self._settings = settings
        self._table = table
        self._applied = ""  # what we have said is applied

    def saw(self, facts: NodeFacts) -> None:
        """A newer reading of the node, whoever wrote it."""
        if facts.version >= self.facts.version:
            self.facts = facts
            self.server_time.saw(facts.written)
            self.seen.beat()

    async def read(self) -> None:
        """Reads the node from the API server, because a watch may be behind."""
        self.saw(project_node(await self._kube.read(NODES, self._settings.node_name)))

    def differs(self) -> bool:
        """Whether the node's status says something else of our slices than we do."""
        return "status" in node_patch(self.facts, node_resources(self._table), {}, self._gb())

    def is_open(self) -> bool:
        """Whether the node's status offers more slices than we do."""
        return self._offers_more_than(node_resources(self._table))

    def _offers_more_than(self, resources: Mapping[SliceSize, Amount]) -> bool:
        shown = self.facts.resources
        return any(
            shown[size].allocatable > resources[size].allocatable
            for size in shown.keys() & resources.keys()
        )

    def _gb(self) -> Amount | None:
        """What the node is to show of mpslice.io/gb.

        Without a NodeLayout the node is not ours, or not any more: what it shows is left alone. The
        kubelet writes allocatable as it finds capacity (kubelet/nodestatus/setters.go), so both say
        the same.
        """
        if self.release is None:
            return self.facts.gb
        released = self.release and not self._table.slices
        left_over = not self._settings.quota and self.facts.gb is None
        if released or left_over or not self.offers_gb:
            return None
        gb = offered_gb(self._table, self._settings, release=self.release)
        return Amount(gb, gb)

    async def write(
        self, *, release: bool = False, sure: Collection[SliceSize] = (), applied: str = ""
    ) -> bool:
        """Resources and annotations of the node, in one patch; whether it says what is `applied`.

        The sizes that are to be `sure` are written even where the node seems to show them so: our
        reading may be old.
        """
        resources = node_resources(self._table)
        known = {size: n for size, n in self.facts.resources.items() if size not in sure}
        self.facts = replace(self.facts, resources=known)
        return await self._patch(resources, release=release, at_once=release, applied=applied)

    async def close(self, pods: Pods) -> None:
        """Nothing more can be bound than what these pods hold; for an agent that goes away."""
        await self._patch(used_resources(self._table, pods), at_once=True)

    async def keep_closed(self, pods: Pods) -> None:
        """Closes the node again where the kubelet has opened it: until its plugin had ended, the
        kubelet wrote what that offered, every ten seconds (kubelet's nodeStatusUpdateFrequency).
        """
        await self.read()
        used = used_resources(self._table, pods)
        if self._offers_more_than(used):
            await self._patch(used, at_once=True)

    async def _patch(
        self,
        resources: Mapping[SliceSize, Amount],
        *,
        release: bool = False,
        at_once: bool = False,
        applied: str = "",
    ) -> bool:
        said = self.facts.annotations.get(APPLIED_ANNOTATION, "")
        # What an agent before us has said is not ours to know: it may have ended with more to do.
        is_ours = said in ("", self._applied)
        annotations = {} if release else self._annotations(said if is_ours else "")
        patch = node_patch(self.facts, resources, annotations, self._gb(), applied)
        at_once = at_once or not is_ours
        if patch and not (at_once or "status" in patch or self._annotations_are_due()):
            return False
        self.due = None
        if not patch:
            return False
        # The answer may be lost although the write is done.
        self._applied = applied or self._applied
        answer = await self._kube.patch(
            NODES,
            self._settings.node_name,
            patch,
            type=PatchType.MERGE,
            subresource="status",
        )
        self.saw(project_node(answer))
        return bool(applied) and "status" in patch

    def _annotations(self, applied: str) -> dict[str, str]:
        """nos's, and what the node says is applied."""
        kept = {APPLIED_ANNOTATION: applied} if applied else {}
        return mirrored_annotations(gpu_statuses(self._table, self._settings)) | kept

    def _annotations_are_due(self) -> bool:
        now = monotonic()
        if self.due is None:
            self.due = now + ANNOTATIONS_SECONDS
        return now >= self.due
