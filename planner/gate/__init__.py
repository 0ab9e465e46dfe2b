"""Whose scheduling gate goes when, and who keeps the slice until then. Pure."""
