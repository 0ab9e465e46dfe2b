"""What follows from a write that the API server did not take."""

from datetime import UTC, datetime, timedelta

import pytest

from mpslice.kube.errors import ApiError, KubeError
from planner.progress.machine import Refused
from planner.writes.actions import Evict, Nominate, Ungate
from planner.writes.setbacks import FAULTS, SPARED, Setbacks
from tests.planner.test_packing import pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POD = pod("a", 10)
FORBIDDEN = ApiError("pods is forbidden", status=403)
TROUBLE = ApiError("etcdserver: leader changed", status=500)


def test_nobody_waits_for_a_nomination_that_is_refused() -> None:
    setbacks = Setbacks()
    assert not setbacks.failed(Nominate(POD, "n"), FORBIDDEN, NOW)
    assert setbacks.unnominable == {POD.uid}


@pytest.mark.parametrize("status", [401, 429, 503, 504])
def test_a_nomination_is_tried_again_as_often_as_the_api_server_is_busy(status: int) -> None:
    setbacks = Setbacks()
    for _ in range(3 * FAULTS):
        setbacks.failed(Nominate(POD, "n"), ApiError("busy", status=status), NOW)
    assert not setbacks.unnominable


def test_nobody_waits_for_a_nomination_that_fails_again_and_again() -> None:
    setbacks = Setbacks()
    for _ in range(FAULTS - 1):
        setbacks.failed(Nominate(POD, "n"), TROUBLE, NOW)
    assert not setbacks.unnominable
    setbacks.failed(Nominate(POD, "n"), TROUBLE, NOW)
    assert setbacks.unnominable == {POD.uid}


def test_a_nomination_that_worked_ends_the_count_of_its_failures() -> None:
    setbacks = Setbacks()
    for _ in range(FAULTS):
        setbacks.failed(Nominate(POD, "n"), TROUBLE, NOW)
        setbacks.worked(Nominate(POD, "n"))
    assert not setbacks.unnominable


def test_gates_that_are_kept_are_counted_with_the_last_words() -> None:
    setbacks = Setbacks()
    for word in ("first", "second"):
        assert setbacks.failed(Ungate(POD, carved=True), ApiError(word, status=422), NOW)
    assert setbacks.refused == {POD.uid: Refused(2, "second")}
    assert not setbacks.failed(Ungate(POD, carved=True), KubeError("connection lost"), NOW)
    assert setbacks.refused[POD.uid].count == 2
    setbacks.worked(Ungate(POD, carved=True))
    assert not setbacks.refused


_UNASKED = """PATCH /api/v1/namespaces/a/pods/p: Pod "p" is invalid: spec: Forbidden: pod updates
may not change fields other than `spec.containers[*].image`,`spec.tolerations` (only additions)
""".replace("updates\n", "updates ")
_BY_137 = f"""{_UNASKED}@@ -166,7 +166,7 @@
  "HostPID": false,
- "HostIPC": true,
+ "HostIPC": false,
  "ShareProcessNamespace": null,
"""
_BY_133 = f"""{_UNASKED}\u00a0\u00a0core.PodSpec{{
\u00a0\u00a0\t... // 9 identical fields
-\u00a0\tHostIPC: true,
+\u00a0\tHostIPC: false,
\u00a0\u00a0}}
"""
_ADDED = '+ "Env": "x",'


@pytest.mark.parametrize(
    ("answer", "changed"),
    [
        (_BY_137, '- "HostIPC": true, + "HostIPC": false,'),
        (_BY_133, "- HostIPC: true, + HostIPC: false,"),
        (_UNASKED + f"{_ADDED}\n" * 9, f"{' '.join([_ADDED] * 4)} …"),
    ],
    ids=["newest", "oldest", "much"],
)
def test_a_gate_that_others_keep_by_changing_the_pod_says_what_they_change(
    answer: str, changed: str
) -> None:
    setbacks = Setbacks()
    setbacks.failed(Ungate(POD, carved=True), ApiError(answer, status=422), NOW)
    words = setbacks.refused[POD.uid].words
    assert words.startswith("an admission webhook or policy changes more of the pod than was asked")
    assert words.endswith(f"let it leave updates of pods alone. It changes: {changed}")


def test_a_pod_that_a_disruption_budget_protects_is_passed_over_for_a_while() -> None:
    setbacks = Setbacks()
    evict = Evict(POD, by=pod("b", 10))
    assert not setbacks.failed(evict, ApiError("too many requests", status=429), NOW)
    assert not setbacks.spared
    words = "Cannot evict pod as it would violate the pod's disruption budget."
    assert setbacks.failed(evict, ApiError(words, status=429), NOW)
    assert setbacks.spared == {POD.uid: NOW + SPARED}


def test_nobody_is_spared_longer_because_a_clock_was_ahead() -> None:
    setbacks = Setbacks()
    setbacks.failed(Evict(POD, by=POD), FORBIDDEN, NOW)
    assert setbacks.spared_by(NOW) == {POD.uid: NOW + SPARED}
    assert setbacks.spared_by(NOW - timedelta(minutes=10)) == {}


def test_a_pod_that_is_bound_is_still_spared_and_one_that_is_gone_leaves_nothing() -> None:
    setbacks = Setbacks()
    setbacks.failed(Nominate(POD, "n"), FORBIDDEN, NOW)
    setbacks.failed(Ungate(POD, carved=True), FORBIDDEN, NOW)
    setbacks.failed(Evict(POD, by=POD), FORBIDDEN, NOW)
    setbacks.settled(POD.uid)
    assert (setbacks.unnominable, setbacks.refused, set(setbacks.spared)) == (set(), {}, {POD.uid})
    setbacks.gone(POD.uid)
    assert setbacks == Setbacks()
