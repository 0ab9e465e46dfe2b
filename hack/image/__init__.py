"""Builds mpslice's container image without a container engine, as the Dockerfile builds it with one."""
