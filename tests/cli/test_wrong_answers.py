"""Answers of Prometheus and of node agents that are none: `top` says so and shows what is known."""

from typing import Any

import pytest
from aiohttp import web

from cli.errors import UnusableInput
from cli.terminal import text_of
from cli.top.show import draw
from tests.cli.test_top import a_cluster, prometheus, top

NONE = "HTTP 200, and no result of a query; is it a Prometheus?"
LABELS = {"namespace": "team-a", "pod": "train", "node": "n1", "gpu": "0"}


def success(*series: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "vector", "result": list(series)}}


def page(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status)


UNUSABLE: dict[str, tuple[Any, str]] = {
    "a parse error": ({"status": "error", "error": "parse error"}, "parse error"),
    "an error without words": ({"status": "error"}, "an error without words"),
    "a list": ([1], NONE),
    "a number": (5, NONE),
    "null": (None, NONE),
    "an empty object": ({}, NONE),
    "no status": ({"data": {}}, NONE),
    "no data": ({"status": "success"}, NONE),
    "no result": ({"status": "success", "data": {}}, NONE),
    "data that is a list": ({"status": "success", "data": [1]}, NONE),
    "a result that is a number": ({"status": "success", "data": {"result": 5}}, NONE),
    "a scalar": ({"status": "success", "data": {"result": [1.0, "5"]}}, NONE),
    "series without labels": (success({"value": [1.0, "5"]}), NONE),
    "series without a value": (success({"metric": LABELS}), NONE),
    "a range instead of a value": (success({"metric": LABELS, "values": [[1.0, "5"]]}), NONE),
    "a value that is a word": (success({"metric": LABELS, "value": [1.0, "many"]}), NONE),
    "a value that is cut off": (success({"metric": LABELS, "value": [1.0]}), NONE),
    "a page": (page("<html>Log in</html>"), NONE),
    "a page of a proxy": (
        page("<html>", 502),
        "HTTP 502, and no result of a query; is it a Prometheus?",
    ),
    "a path that is not there": (
        page("404 page not found", 404),
        "HTTP 404, and no result of a query; is it a Prometheus?",
    ),
    "nothing": (page(""), NONE),
    "half an object": (page('{"status": "succ'), NONE),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_answer_of_no_prometheus_is_one_sentence(case: str) -> None:
    answer, said = UNUSABLE[case]
    async with prometheus(lambda _: answer) as (address, _):
        with pytest.raises(UnusableInput) as raised:
            await top(a_cluster(), prometheus=address)
    assert str(raised.value) == f"--prometheus {address}: {said}"


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1"])
async def test_value_that_is_no_amount_was_not_measured(value: str) -> None:
    answer = success({"metric": LABELS, "value": [1.0, value]})
    async with prometheus(lambda _: answer) as (address, _):
        shown = await top(a_cluster(), prometheus=address)
    assert {row.used for row in shown.rows} == {None}


@pytest.mark.parametrize(
    "text",
    [
        "<html>Log in</html>",
        "mpslice_slice_memory_used_bytes{namespace=",
        'mpslice_slice_memory_used_bytes{namespace="a"} many',
        "\x00\x01",
        '{"status": "success"}',
    ],
)
async def test_agent_that_answers_something_else_is_named_and_hides_nobody(text: str) -> None:
    cluster = a_cluster()
    before = await top(cluster)
    agents = sorted(cluster.metrics)
    cluster.metrics[agents[0]] = text
    shown = await top(cluster)
    assert "did not answer: its answer is not in the format of metrics" in text_of(draw(shown))
    assert {row.name for row in shown.rows} == {row.name for row in before.rows}
