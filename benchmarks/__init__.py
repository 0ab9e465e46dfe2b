"""Measurements, not tests: figures depend on the machine, so a run compares two things."""
