"""The shared kernel: what a slice, a GPU and a NodeLayout are, and how to talk to Kubernetes.

It imports none of the other packages, so that each of them can be read with this one alone.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mpslice")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
