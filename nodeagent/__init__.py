"""The node agent: makes the slices of a NodeLayout exist for the kubelet, and says who holds them.

Its first rule: nothing it does ends a container that is running, or lies about one.
"""
