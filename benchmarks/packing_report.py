"""A row of the packing benchmark: a figure, what is demanded of it and whether it is met."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

More = Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Row:
    """`values` by seed or run; `figure`, of the `unit`, is what the demand is held against."""

    section: str
    instance: str
    packer: str
    figure: float
    unit: str
    values: tuple[float, ...] = ()
    more: More = field(default_factory=dict)
    demand: str = ""
    met: bool | None = None

    def text(self, value: float) -> str:
        """A value as people read it: two decimals of a percentage, else four digits."""
        return f"{value:.2f}" if self.unit == "%" else f"{value:.4g}"

    def at_least(self, floor: float) -> "Row":
        """The row with a demand; what rounding of a sum alone takes off is not short of it."""
        return replace(
            self,
            demand=f"≥ {self.text(floor)} {self.unit}".rstrip(),
            met=self.figure >= floor - 1e-9,
        )

    def at_most(self, ceiling: float) -> "Row":
        """The row with a demand."""
        return replace(
            self, demand=f"≤ {self.text(ceiling)} {self.unit}".rstrip(), met=self.figure <= ceiling
        )


def mean_row(
    section: str,
    instance: str,
    packer: str,
    unit: str,
    values: Sequence[float],
    more: More | None = None,
) -> Row:
    """A row whose figure is the mean of the values."""
    figure = statistics.fmean(values)
    return Row(section, instance, packer, figure, unit, tuple(values), more or {})


def show(rows: Iterable[Row], console: Console) -> None:
    """A table of rows of one section."""
    rows = tuple(rows)
    table = Table(title=rows[0].section, title_justify="left")
    for name in ("instance", "packer"):
        table.add_column(name)
    for name in ("figure", "from … to", "demand"):
        table.add_column(name, justify="right")
    table.add_column("met")
    table.add_column("besides", overflow="fold")
    for row in rows:
        table.add_row(
            row.instance,
            row.packer,
            f"{row.text(row.figure)} {row.unit}".rstrip(),
            f"{row.text(min(row.values))} … {row.text(max(row.values))}" if row.values[1:] else "",
            row.demand,
            {True: "[green]yes[/]", False: "[red]NO[/]", None: ""}[row.met],
            ", ".join(f"{key} {_brief(value)}" for key, value in row.more.items()),
        )
    console.print(table)


def _brief(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_json(rows: Iterable[Row], about: Mapping[str, object], file: Path) -> None:
    """The rows, and what the run was."""
    document = {**about, "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(document, indent=2) + "\n")
