"""Packing: which pending pod goes onto which GPU, and which slices have to exist for that."""

from planner.packing.order import planned_order
from planner.packing.plan import plan, solver_is_installed

__all__ = ["plan", "planned_order", "solver_is_installed"]
