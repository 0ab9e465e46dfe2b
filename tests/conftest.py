"""Fixtures that every folder of tests may use."""

pytest_plugins = [
    "tests.cluster.plugin",
    "tests.nodeagent.nvml.plugin",
    "tests.nodeagent.mps.plugin",
]
