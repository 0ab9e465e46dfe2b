"""A mixed-integer program for HiGHS, put together column by column. Needs the extra `solver`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import highspy
import numpy as np

Entries = Iterable[tuple[int, float]]
"""Row numbers and coefficients."""


class TimeLimitReached(Exception):
    """The wall clock ended the search."""


class _QuietHighs(highspy.Highs):
    """HiGHS without callbacks: making those writes a banner to stdout."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()


@dataclass(slots=True)
class Program:
    """To be maximised; every column is at least 0."""

    _cost: list[float] = field(default_factory=list)
    _upper: list[float] = field(default_factory=list)
    _whole: list[bool] = field(default_factory=list)
    _starts: list[int] = field(default_factory=lambda: [0])
    _rows: list[int] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)
    _row_lower: list[float] = field(default_factory=list)
    _row_upper: list[float] = field(default_factory=list)

    @property
    def columns(self) -> int:
        return len(self._cost)

    def row(self, lower: float, upper: float) -> int:
        """A new constraint; its number."""
        self._row_lower.append(lower)
        self._row_upper.append(upper)
        return len(self._row_lower) - 1

    def column(self, cost: float, upper: float, entries: Entries, *, whole: bool) -> int:
        """A new variable; its number."""
        self._cost.append(cost)
        self._upper.append(upper)
        self._whole.append(whole)
        for row, value in entries:
            self._rows.append(row)
            self._values.append(value)
        self._starts.append(len(self._rows))
        return len(self._cost) - 1

    def solve(self, *, nodes: int, gap: float, seconds: float) -> Sequence[float] | None:
        """The best columns found within so many nodes of the search tree, or as good as `gap` asks.

        None where there is no solution, or none was found. Deterministic, but for the wall clock:
        raises TimeLimitReached when that ended the search after so many `seconds`.
        """
        # The scheduler is one for the process, and keeps the threads that another run gave it.
        highspy.Highs.resetGlobalScheduler(True)
        solver = _QuietHighs()
        for option, value in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 0),
            ("mip_rel_gap", gap),
            ("mip_max_nodes", nodes),
            ("time_limit", max(seconds, 0.0)),
        ):
            solver.setOptionValue(option, value)
        solver.passModel(self._model())
        solver.run()
        if solver.getModelStatus() == highspy.HighsModelStatus.kTimeLimit:
            raise TimeLimitReached
        if not solver.getInfo().primal_solution_status:
            return None
        return [float(value) for value in solver.getSolution().col_value]

    def _model(self) -> highspy.HighsLp:
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(self._cost), len(self._row_lower)
        model.col_cost_ = np.array(self._cost)
        model.col_lower_ = np.zeros(len(self._cost))
        model.col_upper_ = np.array(self._upper)
        model.row_lower_, model.row_upper_ = np.array(self._row_lower), np.array(self._row_upper)
        model.a_matrix_.start_ = np.array(self._starts)
        model.a_matrix_.index_ = np.array(self._rows)
        model.a_matrix_.value_ = np.array(self._values)
        kinds = highspy.HighsVarType
        model.integrality_ = [kinds.kInteger if w else kinds.kContinuous for w in self._whole]
        model.sense_ = highspy.ObjSense.kMaximize
        return model
