"""Draws what `live` sees: once, or again on every change."""

from collections.abc import AsyncIterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.live import Label, Picture, follow, look
from cli.render import gpu_bars
from mpslice.kube.session import Session
from mpslice.nodelayout import ConditionType, SliceState
from mpslice.slices import size_label
from planner.model import GATE, Plan
from planner.words.explain import placement_text, refusal_text, reservation_text


async def show(kubeconfig: str | None, label: Label, *, watch: bool) -> None:
    """Prints the cluster's state; with `watch` until cancelled. Raises an MpsliceError."""
    console = Console(highlight=False)
    async with await Session.connect("cli", kubeconfig) as kube:
        if watch:
            await _watch(follow(kube, label), console, label)
        else:
            console.print(draw(await look(kube, label), label, console.width))


async def _watch(pictures: AsyncIterator[Picture], console: Console, label: Label) -> None:
    with Live(console=console, auto_refresh=False) as live:
        async for picture in pictures:
            live.update(draw(picture, label, console.width), refresh=True)


def draw(picture: Picture, label: Label, width: int) -> RenderableType:
    """GPUs as bars, who holds each slice, what waits and why; parts without content left out."""
    parts: list[RenderableType] = []
    bars = gpu_bars(picture.snapshot, Plan(), width)
    nothing = Text(f"no GPUs: no node labelled {'='.join(label)} has an agent that is ready")
    for title, content in (
        ("GPUs", bars or nothing),
        ("Not ready", _troubles(picture)),
        ("Holders", _holders(picture)),
        ("Waiting", _waiting(picture, label)),
    ):
        if content is not None:
            parts += [Text(title, style="bold"), Padding(content, (0, 0, 1, 2), expand=False)]
    return Group(*parts)


def _table() -> Table:
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))


def _troubles(picture: Picture) -> Table | None:
    table = _table()
    for name, layout in sorted(picture.layouts.items()):
        status = layout.status
        ready = status.condition(ConditionType.READY) if status else None
        if ready is None or not ready.status:
            reason = f"{ready.reason}: {ready.message}" if ready else "no agent has reported yet"
            table.add_row(name, Text(reason, style="red"))
        for gpu in status.gpus if status else ():
            if not gpu.healthy:
                table.add_row(f"{name} GPU {gpu.index}", Text(gpu.reason or "Unhealthy", "red"))
    return table if table.row_count else None


def _holders(picture: Picture) -> Table | None:
    table = _table()
    for name, layout in sorted(picture.layouts.items()):
        for gpu in layout.status.gpus if layout.status else ():
            for entry in gpu.slices:
                if entry.state is SliceState.USED:
                    holder = f"{entry.pod or 'unknown'} ({entry.container or 'unknown'})"
                    table.add_row(f"{name} GPU {gpu.index}", size_label(entry.id.size), holder)
    return table if table.row_count else None


def _waiting(picture: Picture, label: Label) -> Table | None:
    table = _table()
    states = {state.node.name: state for state in picture.snapshot.nodes}
    for placement in picture.plan.placements:
        text = f"{placement_text(placement, states)}: on its way"
        table.add_row(placement.pod.key, Text(text, style="green"))
    kept = {reservation.pod.key: reservation for reservation in picture.plan.reservations}
    for refusal in picture.plan.refusals:
        text = refusal_text(refusal, "=".join(label))
        if refusal.pod.key in kept:
            text += f"; {reservation_text(kept[refusal.pod.key], states)}"
        table.add_row(refusal.pod.key, Text(text, style="red"))
    for pod in picture.gated:
        others = ", ".join(gate for gate in pod.gates if gate != GATE)
        table.add_row(pod.key, f"waits for other scheduling gates: {others}")
    return table if table.row_count else None
