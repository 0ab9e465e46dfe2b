"""A real Kubernetes cluster on one machine, for tests and for `make cluster`.

Apart from mpslice itself because nothing here is installed: it only obtains, starts
and stops other people's programs, and ours as processes beside them.
"""
