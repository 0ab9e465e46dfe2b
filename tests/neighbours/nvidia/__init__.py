"""NVIDIA's own programs on a real node."""
