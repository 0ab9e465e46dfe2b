"""A linear or integer program put together column by column, and HiGHS to solve it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import highspy
import numpy as np


class _QuietHighs(highspy.Highs):
    """HiGHS without callbacks: making those writes a banner to stdout."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()


@dataclass(slots=True)
class Program:
    """Maximises the sum of `cost`; every column is at least 0."""

    cost: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    rows: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    row_lower: list[float] = field(default_factory=list)
    row_upper: list[float] = field(default_factory=list)

    def row(self, lower: float, upper: float) -> int:
        """A new row without entries; its number."""
        self.row_lower.append(lower)
        self.row_upper.append(upper)
        return len(self.row_lower) - 1

    def column(self, cost: float, upper: float, entries: Iterable[tuple[int, float]]) -> None:
        """A new column with its (row, value) entries."""
        self.cost.append(cost)
        self.upper.append(upper)
        for row, value in entries:
            self.rows.append(row)
            self.values.append(value)
        self.starts.append(len(self.rows))

    def maximum(self, *, integer: bool = False, seconds: float = highspy.kHighsInf) -> float:
        """The proved optimum; TimeoutError when `seconds` are over before it is proved."""
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.cost), len(self.row_lower)
        lp.col_cost_ = np.array(self.cost, dtype=float)
        lp.col_lower_ = np.zeros(len(self.cost))
        lp.col_upper_ = np.array(self.upper, dtype=float)
        lp.row_lower_ = np.array(self.row_lower, dtype=float)
        lp.row_upper_ = np.array(self.row_upper, dtype=float)
        lp.a_matrix_.start_ = np.array(self.starts)
        lp.a_matrix_.index_ = np.array(self.rows)
        lp.a_matrix_.value_ = np.array(self.values, dtype=float)
        lp.sense_ = highspy.ObjSense.kMaximize
        if integer:
            lp.integrality_ = [highspy.HighsVarType.kInteger] * len(self.cost)
        options: Mapping[str, bool | float] = {
            "output_flag": False,
            "time_limit": seconds,
            "mip_rel_gap": 0.0,
            "mip_abs_gap": 0.9,  # of a whole number of gb: less is none
        }
        solver = _QuietHighs()
        for name, value in options.items():
            solver.setOptionValue(name, value)
        solver.passModel(lp)
        solver.run()
        status = solver.getModelStatus()
        if status == highspy.HighsModelStatus.kTimeLimit:
            raise TimeoutError(f"not proved in {seconds:g} s")
        if status != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"HiGHS ended as {status}")
        return float(solver.getInfo().objective_function_value)
