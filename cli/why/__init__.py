"""`kubectl mpslice why`: what stands in the way of a pod, a workload or a node, and what helps."""
