"""NodeLayouts that say something that cannot be: `status` says what, and shows the other nodes."""

from datetime import UTC, datetime
from typing import Any

import pytest

from cli.observe import Observer, judged
from cli.status.draw import draw
from cli.status.picture import picture
from cli.terminal import ASCII, text_of
from mpslice.kube.api import NODE_LAYOUTS, Json
from tests.cli.fake_api import FakeApi, cluster
from tests.cli.objects import LABEL, gpu, layout, node

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GPU = ("status", "gpus", 0)
SLICE = (*GPU, "slices", 0)
TYPE = "a field has another type than in the CRD ({})"
MISSING = object()
WRONG: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("status",), 5, TYPE.format("'int' object has no attribute 'get'")),
    (("status", "gpus"), 5, TYPE.format("'int' object is not iterable")),
    (("status", "gpus"), [5], TYPE.format("'int' object is not subscriptable")),
    (("status", "conditions"), [5], TYPE.format("'int' object is not subscriptable")),
    (("spec", "gpus"), 5, TYPE.format("'int' object is not iterable")),
    ((*GPU, "uuid"), MISSING, "field 'uuid' is missing"),
    ((*GPU, "index"), MISSING, "field 'index' is missing"),
    ((*GPU, "capacityGB"), MISSING, "field 'capacityGB' is missing"),
    ((*GPU, "memoryMiB"), MISSING, "field 'memoryMiB' is missing"),
    (
        (*GPU, "capacityGB"),
        "much",
        TYPE.format("invalid literal for int() with base 10: 'much'"),
    ),
    ((*GPU, "slices"), 5, TYPE.format("'int' object is not iterable")),
    (
        (*GPU, "uuid"),
        "GPU-new",
        "GPU GPU-new lists the slice GPU-n1-0::20::0 of another GPU",
    ),
    ((*SLICE, "id"), MISSING, "field 'id' is missing"),
    ((*SLICE, "state"), MISSING, "field 'state' is missing"),
    ((*SLICE, "state"), "Busy", TYPE.format("'Busy' is not a valid SliceState")),
    ((*SLICE, "id"), "GPU-x", "device id 'GPU-x' is not <GPU UUID>::<gb>::<number>"),
    (
        (*SLICE, "id"),
        "GPU-n1-0::20::x",
        "device id 'GPU-n1-0::20::x' is not <GPU UUID>::<gb>::<number>",
    ),
    (
        (*SLICE, "id"),
        "GPU-other::20::0",
        "GPU GPU-n1-0 lists the slice GPU-other::20::0 of another GPU",
    ),
    (
        (*SLICE, "limitMiB"),
        "many",
        TYPE.format("invalid literal for int() with base 10: 'many'"),
    ),
    ((*SLICE, "pod"), 5, "pod of slice GPU-n1-0::20::0 is 5, which is no text"),
]


def changed(path: tuple[str | int, ...], value: Any) -> Json:
    whole: Json = layout("n1", gpu("n1", 0, 80, (20, "team-a/p")))
    place: Any = whole
    for step in path[:-1]:
        place = place[step]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return whole


@pytest.mark.parametrize(("path", "value", "said"), WRONG)
async def test_layout_that_cannot_be_is_named_and_hides_no_other_node(
    path: tuple[str | int, ...], value: Any, said: str
) -> None:
    well = cluster(nodes=[node("n1"), node("n2")], layouts=[layout("n2", gpu("n2", 0, 80))])
    kube = FakeApi([*well, (NODE_LAYOUTS, changed(path, value))])
    observed = await Observer(kube, LABEL, "", clock=lambda: NOW).look()
    text = text_of(draw(picture(observed, judged(observed), ""), ASCII, None))
    assert f"\n  n1  its NodeLayout cannot be read: {said}\n" in f"{text}\n"
    assert "n2 GPU 0  80gb" in text
