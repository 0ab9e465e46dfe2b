"""NVIDIA's driver on the node: where its files lie, and when it is asked to be left alone."""
