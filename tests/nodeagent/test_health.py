"""Which Xid makes a GPU sick, and what makes it well."""

from dataclasses import replace

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.errors import DriverHangs, GpuLost
from nodeagent.gpus.health import (
    CALM_SECONDS,
    IgnoredXids,
    Look,
    SeenXid,
    judge,
    parse_ignored_xids,
    still_ailing,
)
from nodeagent.hardware import Gpu
from tests.nodeagent.conftest import AMPERE

A = Gpu(GpuUuid("GPU-a"), 0, "A100", 81920, 626, AMPERE)
B = Gpu(GpuUuid("GPU-b"), 1, "A100", 81920, 626, AMPERE)
NOW = 1000.0


def reasons(look: Look, **xids: float) -> list[str | None]:
    seen = {GpuUuid(f"GPU-{name}"): SeenXid(79, at) for name, at in xids.items()}
    return [gpu.reason for gpu in judge((A, B), look, seen, NOW)]


def looked(*gpus: Gpu, recovery: bool | None = None) -> Look:
    return Look(gpus, recovery={gpu.uuid: recovery for gpu in gpus})


def test_gpus_that_answer_are_healthy() -> None:
    assert judge((A, B), looked(A, B), {}, NOW) == (A, B)


def test_xid_makes_its_gpu_sick_and_no_other() -> None:
    judged = judge((A, B), looked(A, B), {B.uuid: SeenXid(48, NOW)}, NOW)
    assert judged == (A, replace(B, reason="XidError", detail="Xid 48"))


@pytest.mark.parametrize(
    ("recovery", "after", "reason"),
    [
        (False, CALM_SECONDS - 1, "XidError"),
        (False, CALM_SECONDS, None),
        (None, 100 * CALM_SECONDS, "XidError"),
        (True, 100 * CALM_SECONDS, "ResetRequired"),
    ],
)
def test_gpu_is_well_when_the_driver_says_so_and_a_minute_was_calm(
    recovery: bool | None, after: float, reason: str | None
) -> None:
    assert reasons(looked(A, B, recovery=recovery), a=NOW - after)[0] == reason


def test_gpu_that_the_driver_wants_reset_is_sick_without_any_xid() -> None:
    """An agent that starts anew knows no Xid from before."""
    assert reasons(looked(A, B, recovery=True)) == ["ResetRequired"] * 2


def test_vanished_gpu_is_lost_and_keeps_its_place() -> None:
    assert reasons(looked(B)) == ["Lost", None]
    assert reasons(Look((B,), {0: GpuLost("gone")})) == ["Lost", None]


def test_new_gpu_is_taken_in() -> None:
    assert judge((A,), looked(A, B), {}, NOW) == (A, B)


def test_driver_that_says_nothing_makes_every_gpu_sick_and_forgets_none() -> None:
    assert reasons(Look(failure=DriverHangs("hangs"))) == ["DriverHangs"] * 2


def test_xid_is_over_once_its_gpu_is_healthy() -> None:
    xids = {A.uuid: SeenXid(94, NOW), B.uuid: SeenXid(94, NOW)}
    assert still_ailing((A, replace(B, reason="XidError")), xids).keys() == {B.uuid}


@pytest.mark.parametrize(
    ("text", "ignored", "counts"),
    [
        ("", [13, 31, 43, 45, 68, 109, 154], [48, 79]),
        ("48, 63", [13, 48, 63], [79]),
        ("all", [13, 48, 79], []),
        ("xids", [79], []),
    ],
)
def test_list_of_ignored_xids_adds_to_nvidias(
    text: str, ignored: list[int], counts: list[int]
) -> None:
    parsed = parse_ignored_xids(text)
    assert all(xid in parsed for xid in ignored)
    assert not any(xid in parsed for xid in counts)


def test_what_is_no_xid_is_refused() -> None:
    with pytest.raises(ValueError, match="write for example 48,63, or all"):
        parse_ignored_xids("48,ecc")


def test_two_lists_add_up() -> None:
    both = parse_ignored_xids("48") | IgnoredXids(all=True)
    assert 48 in both
    assert 79 in both
