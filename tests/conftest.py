"""Fixtures that every folder of tests may use."""

# Its plugin imports it at the very end otherwise. What the collector finds then has its traceback
# formatted, which parses, within the parsing of hypothesis: a SystemError in CPython 3.11.
import hypothesis  # noqa: F401  see above

pytest_plugins = [
    "tests.cluster.plugin",
    "tests.nodeagent.nvml.plugin",
    "tests.nodeagent.mps.plugin",
]
