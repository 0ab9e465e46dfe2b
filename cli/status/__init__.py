"""`kubectl mpslice status`: GPUs with their slices, totals, and the pods that wait and why."""
