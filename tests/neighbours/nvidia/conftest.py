"""The node and the agent are those of the agent's own tests."""

from tests.nodeagent.real.conftest import cluster, own_node, plane

__all__ = ["cluster", "own_node", "plane"]
