"""A machine without a component skips with the reason, or fails where it is required."""

from __future__ import annotations

import pytest

from hack.cluster.errors import Unavailable
from tests.cluster import plugin


def _lacking() -> None:
    raise Unavailable("no bridge can be made here")


def test_missing_component_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPSLICE_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no node on this machine: no bridge"):
        plugin._get("node", _lacking)


def test_required_component_fails_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPSLICE_REQUIRE", "cluster, node")
    with pytest.raises(pytest.fail.Exception, match=r"node is required .*: no bridge"):
        plugin._get("node", _lacking)
    with pytest.raises(pytest.skip.Exception):
        plugin._get("mpslice", _lacking)
