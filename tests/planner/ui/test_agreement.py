"""Whoever applies the events in order has what a reader that comes late is sent at once."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from planner.ui.changes import changes, restricted
from planner.ui.history import Sample
from planner.ui.picture import Picture, picture
from planner.ui.seen import Seen
from tests.planner.ui.cluster import layout, seen, waiting

NODES = [layout(f"n{number}", gpus=2, held=held) for number in range(4) for held in ("", "b/p")]
PODS = [
    waiting(f"p{number}", size, namespace=namespace, ago=number)
    for number in range(3)
    for size in (10, 90)
    for namespace in ("team-a", "team-b")
]
CLUSTERS = st.builds(
    lambda nodes, pods: seen(list({n.name: n for n in nodes}.values()), list(pods)),
    st.lists(st.sampled_from(NODES), max_size=4),
    st.lists(st.sampled_from(PODS), unique_by=lambda pod: pod.key),
)
STEPS = st.lists(
    st.tuples(CLUSTERS, st.frozensets(st.sampled_from(["team-a", "team-b"])), st.booleans()),
    min_size=1,
    max_size=5,
)


def apply(state: dict[str, Any], event: str) -> dict[str, Any]:
    """What the page does with an event."""
    told = json.loads(event)
    if told.pop("first", False):
        state = {"nodes": {}, "queue": {}}
    for part in ("nodes", "queue"):
        rows = {**state[part], **told.pop(part, {})}
        state[part] = {key: row for key, row in rows.items() if row is not None}
    return {**state, **told}


@given(STEPS)
def test_events_add_up(steps: list[tuple[Seen, frozenset[str], bool]]) -> None:
    drawn, sent = Picture(), None
    state: dict[str, Any] = {}
    for number, (what, namespaces, read) in enumerate(steps):
        drawn = picture(what, (Sample(number, number, 0, 0),), drawn)
        if not read and number < len(steps) - 1:
            continue  # a reader that is slow misses pictures
        shown = restricted(drawn, namespaces)
        event = changes(sent, shown)
        if event is not None:
            state = apply(state, event)
        sent = shown
    assert sent is not None
    whole = changes(None, sent)
    assert whole is not None
    assert state == apply({}, whole)
