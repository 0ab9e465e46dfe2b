"""One MPS control daemon per GPU: the supervisor that keeps them, and the agent's side of it.

The two speak through small files under --mps-root: the agent writes what it wants of a GPU, the
supervisor what has become of it. So either may be away, and nothing changes meanwhile.
"""
