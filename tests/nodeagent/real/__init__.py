"""The agent as a process on the real kubelet; the tests write NodeLayouts as the planner does."""
