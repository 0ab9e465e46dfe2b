"""What a reader of the page is sent: what is new in the part of a picture that the reader may see.

Pure.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from planner.ui.picture import Picture, Row


def restricted(picture: Picture, namespaces: frozenset[str]) -> Picture:
    """Returns the picture without the waiting pods of other namespaces; they are still counted."""
    if picture.namespaces <= namespaces:
        return picture
    queue = {key: row for key, row in picture.queue.items() if row.namespace in namespaces}
    places = {key: place for key, place in picture.places.items() if key in queue}
    return replace(picture, queue=queue, places=places)


def changes(sent: Picture | None, new: Picture) -> str | None:
    """The data of the next event, JSON in one line; None where nothing has changed.

    Rows that are new or have changed come in full, removed ones are null. Without `sent` the
    event has everything and says `"first": true`: the reader forgets what it had before.
    """
    old = sent or Picture()
    parts = [
        *_rows("nodes", old.nodes, new.nodes),
        *_rows("queue", old.queue, new.queue),
        *_values(sent, new),
    ]
    if sent is None:
        parts.insert(0, '"first":true')
    return "{" + ",".join(parts) + "}" if parts else None


def _rows(name: str, old: Mapping[str, Row], new: Mapping[str, Row]) -> Iterator[str]:
    if old is new:
        return
    texts = [
        f"{json.dumps(key)}:{row.text}" for key, row in new.items() if not _same(old.get(key), row)
    ]
    texts += [f"{json.dumps(key)}:null" for key in old.keys() - new.keys()]
    if texts:
        yield f'"{name}":{{{",".join(texts)}}}'


def _same(old: Row | None, new: Row) -> bool:
    return old is new or (old is not None and old.text == new.text)


def _values(old: Picture | None, new: Picture) -> Iterator[str]:
    """`places` are the places in the queue of the pods that are sent, in the same order."""
    known, now = (_shown(picture) if picture else {} for picture in (old, new))
    for key, value in now.items():
        if known.get(key) != value:
            yield f'"{key}":{json.dumps(value, separators=(",", ":"))}'


def _shown(picture: Picture) -> dict[str, object]:
    return {
        "places": list(picture.places.values()),
        "waiting": picture.waiting,
        "history": [[s.at, s.used, s.left, s.stranded] for s in picture.history],
        "label": picture.label,
        "leader": picture.leader,
        "leads": picture.decision is not None,
    }
