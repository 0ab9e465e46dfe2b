"""`python -m benchmarks.cluster`: mpslice on a whole cluster of simulated nodes, measured.

Apart from the other benchmarks because it takes a control plane, many agents and minutes.
"""
