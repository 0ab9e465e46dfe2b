"""kubectl mpslice: the same decisions offline, and the cluster's state for people."""
