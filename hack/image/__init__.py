"""Builds the container image without a container engine, as the Dockerfile does with one."""
