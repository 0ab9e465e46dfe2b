"""mpslice beside the real programs of other projects; `make neighbours` runs these tests."""
