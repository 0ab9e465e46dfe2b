"""What a person sees of an offline plan: verdicts, GPUs as bars, placements, reasons."""

from collections import Counter
from collections.abc import Iterable

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.offline import Complaint, Outcome
from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize, size_label
from planner.model import Gpu, Layout, Placement, Plan, Snapshot

_NARROWEST, _WIDEST = 20, 60  # cells of the bar that stands for a whole GPU
_BESIDE_THE_BAR = 50
_USED, _NEW, _FREE, _IDLE = "█", "▓", "▒", "·"


def render(outcome: Outcome, console: Console) -> None:
    """Prints everything, each part under its heading; parts without content are left out."""
    parts = (
        ("Refused at admission", _complaints(outcome.rejected, "red")),
        ("Warnings", _complaints(outcome.warnings, "yellow")),
        ("GPUs", gpu_bars(outcome.snapshot, outcome.plan, console.width)),
        ("Placed", _placements(outcome)),
        ("Not placed", _complaints(outcome.unplaced, "red")),
    )
    for title, content in parts:
        if content is not None:
            console.print(Text(title, style="bold"))
            console.print(Padding(content, (0, 0, 0, 2), expand=False))
            console.print()
    console.print(_summary(outcome))


def _table() -> Table:
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))


def _complaints(complaints: Iterable[Complaint], style: str) -> Table | None:
    table = _table()
    table.add_column(no_wrap=True)
    table.add_column()
    for complaint in complaints:
        table.add_row(complaint.pod, Text(complaint.message, style=style))
    return table if table.row_count else None


def gpu_bars(snapshot: Snapshot, made: Plan, width: int) -> Group | None:
    """A line for each GPU as a plan leaves it, and the legend; None without GPUs."""
    cells = max(_NARROWEST, min(_WIDEST, width - _BESIDE_THE_BAR))
    table = _table()
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, min_width=cells)
    table.add_column()
    for state in sorted(snapshot.nodes, key=lambda state: state.node.name):
        layout = made.layouts.get(state.node.name)
        claimed = _claimed(made.placements, state.node.name)
        for gpu in state.gpus:
            bar, words = _bar(gpu, layout, claimed.get(gpu.uuid, {}), cells)
            name = f"{state.node.name} GPU {gpu.index}"
            table.add_row(name, f"{gpu.capacity}gb", bar, words)
    legend = Text.assemble(
        (_USED, "blue"),
        " used  ",
        (_NEW, "green"),
        " for a pod of this plan  ",
        (_FREE, "yellow"),
        " free slice  ",
        f"{_IDLE} uncarved",
    )
    return Group(table, legend) if table.row_count else None


def _claimed(placements: Iterable[Placement], node: str) -> dict[str, dict[SliceSize, int]]:
    claimed: dict[str, dict[SliceSize, int]] = {}
    for placement in placements:
        if placement.node == node:
            for gpu, size in zip(placement.gpus, placement.pod.seats, strict=True):
                sizes = claimed.setdefault(gpu, {})
                sizes[size] = sizes.get(size, 0) + 1
    return claimed


def _bar(gpu: Gpu, layout: Layout | None, claimed: Slices, cells: int) -> tuple[Text, Text]:
    """The bar of one GPU, and its slices in words."""
    before = Counter(dict(gpu.used)) + Counter(dict(gpu.free))
    total = Counter(dict(before if layout is None else layout.get(gpu.uuid, before)))
    free = total - Counter(dict(gpu.used)) - Counter(dict(claimed))
    bar, words = Text(), Text()
    kinds = ((gpu.used, _USED, "blue"), (claimed, _NEW, "green"), (free, _FREE, "yellow"))
    for slices, mark, style in kinds:
        for size in sorted(slices):
            width = max(1, size * cells // max(gpu.capacity, 1))
            # The first cell of a slice is an edge, so that neighbours can be told apart.
            bar.append(("▌" + mark * (width - 1)) * slices[size], style=style)
            times = f"×{slices[size]}" if slices[size] > 1 else ""
            words.append(f"{size_label(size)}{times} ", style=style)
    bar.append(_IDLE * max(0, cells - len(bar)))
    return bar, words


def _placements(outcome: Outcome) -> Table | None:
    table = _table()
    index = {gpu.uuid: gpu.index for state in outcome.snapshot.nodes for gpu in state.gpus}
    for placement in outcome.placed:
        where = ", ".join(
            f"{size_label(size)} on GPU {index[gpu]}"
            for gpu, size in zip(placement.gpus, placement.pod.seats, strict=True)
        )
        table.add_row(placement.pod.key, placement.node, where)
    return table if table.row_count else None


def _summary(outcome: Outcome) -> str:
    return (
        f"{len(outcome.placed)} placed, {len(outcome.unplaced)} not placed, "
        f"{len(outcome.rejected)} refused; {len(outcome.plan.layouts)} nodes change, "
        f"{outcome.plan.withdrawn} free slices withdrawn "
        f"(read in {outcome.read_seconds:.2f} s, planned in {outcome.plan_seconds:.3f} s)"
    )
