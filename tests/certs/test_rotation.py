"""Rotation over years: at every moment the leaf in service is trusted by every caBundle.

docs/design/certificates.md: "No request fails during a rotation."
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.issue import facts, is_issued_by, issue_authority, load_bundle
from certs.rotation import Step, Terms, next_date, next_step, take
from certs.state import State

START = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TERMS = Terms(("w.n.svc", "w.n.svc.cluster.local"), authority_life=300 * DAY, leaf_life=90 * DAY)


def fresh() -> State:
    return take(Step.START_OVER, None, START, TERMS)


def trusted(state: State, bundle: bytes) -> bool:
    assert state.leaf is not None
    leaf = state.leaf.certificate
    return any(is_issued_by(leaf, authority) for authority in load_bundle(bundle))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(0.01, 80), st.booleans()), min_size=20, max_size=40))
def test_the_leaf_in_service_is_always_alive_and_trusted_whenever_anybody_looks(
    looks: list[tuple[float, bool]],
) -> None:
    """Replicas look at odd times, and a caBundle may lag behind the Secret by any of them."""
    state, now, bundle = fresh(), START, b""
    bundle = state.bundle
    for look, (days, bundles_follow) in enumerate(looks):
        now += min(timedelta(days=days), 25 * DAY)  # a third of a leaf's life is 30 days
        for _ in range(4):
            spread = state.upcoming is not None and load_bundle(
                state.upcoming.certificate
            ) <= load_bundle(bundle)
            step = next_step(state, now, TERMS, spread=spread)
            if step is None:
                break
            assert step is not Step.START_OVER
            state = take(step, state, now, TERMS)
        assert state.leaf is not None
        assert now < facts(state.leaf.certificate).not_after
        assert trusted(state, bundle), "a leaf in service that a caBundle does not know"
        if bundles_follow or look % 3 == 2:  # a CA's last third is 100 days
            bundle = state.bundle


def test_a_full_rotation_takes_its_steps_in_order_and_forgets_the_old_ca_last() -> None:
    state, now, steps = fresh(), START, []
    old = state.authority
    while now < START + 420 * DAY:
        step = next_step(state, now, TERMS, spread=state.upcoming is not None)
        if step is None:
            now += DAY
            continue
        steps.append(step)
        state = take(step, state, now, TERMS)
        if step is Step.FORGET:
            break
    assert [step for step in steps if step is not Step.RENEW_LEAF] == [
        Step.PREPARE,
        Step.PROMOTE,
        Step.FORGET,
    ]
    assert old.certificate not in state.bundle
    assert now >= START + 200 * DAY


def test_the_old_ca_stays_trusted_while_a_replica_that_sleeps_serves_its_leaf() -> None:
    state, now = fresh(), START + 201 * DAY
    state = take(Step.RENEW_LEAF, state, START + 190 * DAY, TERMS)
    sleeping = state
    state = take(Step.PROMOTE, take(Step.PREPARE, state, now, TERMS), now, TERMS)
    assert sleeping.leaf is not None
    assert trusted(sleeping, state.bundle)
    dead = facts(sleeping.leaf.certificate).not_after
    assert next_step(state, dead - DAY / 2, TERMS, spread=False) is not Step.FORGET
    forgotten = take(Step.FORGET, state, dead, TERMS)
    assert not trusted(sleeping, forgotten.bundle)


def test_renewal_is_due_at_two_thirds_of_a_life() -> None:
    state = fresh()
    assert next_step(state, START + 59 * DAY, TERMS, spread=False) is None
    assert next_step(state, START + 61 * DAY, TERMS, spread=False) is Step.RENEW_LEAF


def test_a_leaf_for_another_service_is_due_at_once_and_for_another_domain_is_not() -> None:
    state = fresh()
    renamed = replace(TERMS, names=("other.n.svc", "other.n.svc.cluster.local"))
    moved = replace(TERMS, names=("w.n.svc", "w.n.svc.example.org"))
    assert next_step(state, START, renamed, spread=False) is Step.RENEW_LEAF
    assert next_step(state, START, moved, spread=False) is None


def test_a_replica_whose_clock_is_a_little_behind_leaves_healthy_certificates_alone() -> None:
    assert next_step(fresh(), START - 0.9 * DAY, TERMS, spread=False) is None


def test_a_leaf_that_is_not_valid_yet_is_due_and_is_good_for_a_fast_clock_once_renewed() -> None:
    future = take(Step.RENEW_LEAF, fresh(), START + 30 * DAY, TERMS)
    assert next_step(future, START, TERMS, spread=False) is Step.RENEW_LEAF
    renewed = take(Step.RENEW_LEAF, future, START, TERMS)
    for now in (START, START + 30 * DAY):
        assert next_step(renewed, now, TERMS, spread=False) is None


def test_a_ca_that_is_not_valid_yet_signs_nothing_and_is_not_promoted() -> None:
    state = fresh()
    assert next_step(state, START - 5 * DAY, TERMS, spread=False) is Step.START_OVER
    future = replace(state, upcoming=issue_authority(now=START + 200 * DAY, life=300 * DAY))
    assert next_step(future, START, TERMS, spread=True) is None
    assert next_step(future, START + 200 * DAY, TERMS, spread=True) is Step.PROMOTE


def test_a_ca_whose_leaf_the_secret_has_lost_stays_trusted_for_a_leafs_life() -> None:
    lost = replace(fresh(), leaf=None)
    after = take(Step.PROMOTE, take(Step.PREPARE, lost, START, TERMS), START, TERMS)
    assert [item.until for item in after.retired] == [START + TERMS.leaf_life]


@pytest.mark.parametrize("days", [0, 50, 61, 150, 199, 201, 280, 299.9])
def test_the_clock_alone_makes_a_step_due_at_the_date_given_and_not_before(days: float) -> None:
    state, now = fresh(), START + days * DAY
    while (step := next_step(state, now, TERMS, spread=False)) is not None:
        state = take(step, state, now, TERMS)
    due = next_date(state)
    assert due > now
    assert next_step(state, due - timedelta(seconds=1), TERMS, spread=False) is None
    assert next_step(state, due, TERMS, spread=False) is not None


@pytest.mark.parametrize("upcoming", [False, True])
def test_a_dead_ca_is_replaced_at_once_by_the_next_one_where_there_is_one(upcoming: bool) -> None:
    state, late = fresh(), START + 301 * DAY
    if upcoming:
        following = issue_authority(now=START + 250 * DAY, life=300 * DAY)
        state = replace(state, upcoming=following)
    expected = Step.PROMOTE if upcoming else Step.START_OVER
    assert next_step(state, late, TERMS, spread=False) is expected
    after = take(expected, state, late, TERMS)
    assert after.leaf is not None
    assert late < facts(after.leaf.certificate).not_after


def test_starting_over_keeps_trusting_what_the_bundles_held() -> None:
    lost = fresh()
    again = take(Step.START_OVER, None, START, TERMS, adopted=(lost.authority.certificate,))
    assert trusted(lost, again.bundle)
    assert trusted(again, again.bundle)


def test_a_leaf_that_ends_with_its_ca_is_not_renewed_over_and_over() -> None:
    late = START + 280 * DAY
    state = take(Step.RENEW_LEAF, fresh(), late, TERMS)
    preparing = take(Step.PREPARE, state, late, TERMS)
    assert next_step(preparing, START + 299 * DAY, TERMS, spread=False) is None


def test_a_next_ca_that_died_before_it_signed_is_replaced() -> None:
    dead = issue_authority(now=START, life=10 * DAY)
    state = take(Step.RENEW_LEAF, replace(fresh(), upcoming=dead), START + 200 * DAY, TERMS)
    assert next_step(state, START + 201 * DAY, TERMS, spread=True) is Step.PREPARE
