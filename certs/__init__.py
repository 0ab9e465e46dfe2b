"""The webhook's certificates: issued, kept in a Secret, rotated with overlap, swapped live.

`issue`, `state` and `rotation` are pure; `manager` and `injection` act on the cluster.
"""
