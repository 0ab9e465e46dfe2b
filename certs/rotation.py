"""When which certificate is renewed: a state machine over (state, time), without any I/O.

Invariant: *a leaf in service, while it lives, is verified by every caBundle that we wrote.* Let T
be the CAs that the Secret trusts; each caBundle that we write is the T of a Secret that was read
after the configuration was, and the write fails if the configuration has changed since.

1. So no caBundle of an older Secret is ever written over one of a newer Secret.
2. Only the `authority` signs, and a CA becomes that (PROMOTE) only after every caBundle has held it
   for the propagation time; by 1 they go on holding it while T does. So a new leaf verifies.
3. The CA before is `retired` in the same write, and stays in T until its last leaf is dead.
4. START_OVER alone signs with a CA that nobody trusts yet. It adopts the CAs of the caBundles as
   retired, and no replica gives up a leaf that verifies for one that does not yet (`manager`).
5. A Secret may be put back to what it was (a backup). Whoever serves a leaf of a CA that it does
   not trust adopts that CA (ADOPT) before it writes any caBundle.
6. What a replica with a fast clock issues is valid later only. It is no use to the others, who
   issue anew before they serve it; the fast one then takes theirs, and their time (`clocks`).
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from certs.issue import Facts, Pair, facts, issue_authority, issue_leaf
from certs.state import Retired, State


class Step(StrEnum):
    """What is due; the value is the reason that the log gives."""

    START_OVER = "there is no CA that works"
    RENEW_LEAF = "the serving certificate is due"
    PREPARE = "the CA is due: the next one is made known"
    PROMOTE = "the next CA is known everywhere: it signs from now on"
    FORGET = "the last certificate of a retired CA is dead"
    ADOPT = "the Secret does not trust the certificate in service: its CA is trusted again"


@dataclass(frozen=True, slots=True)
class Terms:
    """For which DNS names, and for how long."""

    names: tuple[str, ...]
    authority_life: timedelta = timedelta(days=5 * 365)
    leaf_life: timedelta = timedelta(days=90)


def next_step(state: State | None, now: datetime, terms: Terms, *, spread: bool) -> Step | None:
    """The one step that is due now, or None; ADOPT is for `manager` to say.

    `spread` says that every caBundle has held the upcoming CA for long enough to be in use.
    """
    if state is None:
        return Step.START_OVER
    authority = facts(state.authority.certificate)
    alive = authority.lives(now)
    upcoming = state.upcoming is not None and facts(state.upcoming.certificate).lives(now)
    if upcoming and (spread or not alive):
        return Step.PROMOTE
    if not alive:
        return Step.START_OVER
    if state.leaf is None or _is_due(facts(state.leaf.certificate), authority, now, terms):
        return Step.RENEW_LEAF
    if not upcoming and now >= authority.renewal:
        return Step.PREPARE
    if any(item.until <= now for item in state.retired):
        return Step.FORGET
    return None


def _is_due(leaf: Facts, authority: Facts, now: datetime, terms: Terms) -> bool:
    # Only the name that API servers call decides: replicas that disagree about another would
    # renew against each other for ever.
    missing = terms.names[0] not in leaf.names
    return missing or now < leaf.not_before or now >= _leaf_renewal(leaf, authority)


def _leaf_renewal(leaf: Facts, authority: Facts) -> datetime:
    # A leaf that ends with its CA cannot be had any longer-lived from it.
    return leaf.renewal if leaf.not_after < authority.not_after else authority.not_after


def next_date(state: State) -> datetime:
    """When the next step is due by the clock alone."""
    authority = facts(state.authority.certificate)
    dates = [authority.renewal if state.upcoming is None else authority.not_after]
    if state.leaf is not None:
        dates.append(_leaf_renewal(facts(state.leaf.certificate), authority))
    return min(*dates, *(item.until for item in state.retired), dates[0])


def take(
    step: Step, state: State | None, now: datetime, terms: Terms, adopted: tuple[bytes, ...] = ()
) -> State:
    """The state after a step.

    `adopted` are CA certificates that the Secret has lost: replicas may still serve their leaves,
    so they stay trusted for a leaf's life.
    """
    orphans = tuple(Retired(certificate, now + terms.leaf_life) for certificate in adopted)
    if step is Step.START_OVER or state is None:
        return _fresh(issue_authority(now=now, life=terms.authority_life), orphans, now, terms)
    match step:
        case Step.RENEW_LEAF:
            return replace(state, leaf=_leaf(state.authority, now, terms))
        case Step.PREPARE:
            return replace(state, upcoming=issue_authority(now=now, life=terms.authority_life))
        case Step.PROMOTE if state.upcoming is not None:
            retired = (*state.retired, _retire(state, now, terms))
            return _fresh(state.upcoming, retired, now, terms)
        case Step.FORGET:
            return replace(state, retired=tuple(r for r in state.retired if r.until > now))
        case Step.ADOPT:
            return replace(state, retired=(*state.retired, *orphans))
    return state


def _fresh(authority: Pair, retired: tuple[Retired, ...], now: datetime, terms: Terms) -> State:
    return State(authority, _leaf(authority, now, terms), None, retired)


def _leaf(authority: Pair, now: datetime, terms: Terms) -> Pair:
    return issue_leaf(authority, terms.names, now=now, life=terms.leaf_life)


def _retire(state: State, now: datetime, terms: Terms) -> Retired:
    # A leaf that the Secret has lost may be in service all the same; none was issued after now.
    ends = facts(state.leaf.certificate).not_after if state.leaf else now + terms.leaf_life
    return Retired(state.authority.certificate, ends)
