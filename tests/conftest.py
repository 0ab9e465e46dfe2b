"""Fixtures that every folder of tests may use."""

# Its plugin imports it at the very end otherwise. What the collector finds then has its traceback
# formatted, which parses, within the parsing of hypothesis: a SystemError in CPython 3.11.
import os

import hypothesis

# CI judges a change by examples that are the same each time; new ones are for whoever develops.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

pytest_plugins = [
    "tests.cluster.plugin",
    "tests.nodeagent.nvml.plugin",
    "tests.nodeagent.mps.plugin",
    "tests.planner.ui.plugin",
    "tests.prometheus.plugin",
]
