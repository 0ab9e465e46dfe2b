"""The node with the image is that of the chart's own tests."""

from tests.helm.conftest import place

__all__ = ["place"]
