"""The planner: pure functions decide which slices exist where, a controller carries it out."""
