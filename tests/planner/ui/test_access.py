"""Who may read the page, and how seldom the API server is asked."""

import asyncio

import pytest

from planner.ui.access import (
    KEPT,
    KNOWN,
    MOST_NAMESPACES,
    READ_LAYOUTS,
    REFUSED,
    Access,
    Busy,
    Reader,
    list_pods,
)
from tests.planner.ui.reviews import READER, TableOfReviews, admitting


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


STRANGER = Reader("stranger")


def table() -> TableOfReviews:
    return TableOfReviews(
        {"good": READER, "stranger": STRANGER},
        {READER.name: frozenset({READ_LAYOUTS}), STRANGER.name: frozenset({list_pods("")})},
    )


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("good", 200),
        ("stranger", 403),
        ("unknown", 401),
        ("", 401),
        ("good stranger", 401),
        ("góod", 401),
        ("x" * 8001, 401),
    ],
)
async def test_who_is_admitted(token: str, status: int) -> None:
    answer = await Access(table()).admit(token)
    assert answer.status == status
    assert (answer.reader == READER) is (status == 200)


@pytest.mark.parametrize("token", ["", "good stranger", "góod", "x" * 8001])
async def test_what_cannot_be_a_token_is_not_sent_to_the_api_server(token: str) -> None:
    reviews = table()
    await Access(reviews).admit(token)
    assert not reviews.asked


async def test_an_open_page_asks_once_in_a_while() -> None:
    reviews, clock = table(), Clock()
    access = Access(reviews, clock)
    for second in range(int(KEPT)):
        clock.now = second
        await access.admit("good")
    assert reviews.asked == {"owner": 1, "may": 1}
    clock.now = KEPT
    await access.admit("good")
    assert reviews.asked == {"owner": 2, "may": 2}


async def test_a_token_that_expires_or_loses_its_right_is_refused_once_the_answer_is_old() -> None:
    reviews, clock = table(), Clock()
    access = Access(reviews, clock)
    assert (await access.admit("good")).status == 200
    reviews.rights[READER.name] = frozenset()
    clock.now = KEPT
    assert (await access.admit("good")).status == 403
    reviews.owners.clear()
    clock.now = 2 * KEPT
    assert (await access.admit("good")).status == 401


async def test_a_right_that_is_granted_helps_soon() -> None:
    reviews, clock = table(), Clock()
    access = Access(reviews, clock)
    assert (await access.admit("stranger")).status == 403
    reviews.rights[STRANGER.name] = frozenset({READ_LAYOUTS})
    assert (await access.admit("stranger")).status == 403
    clock.now = REFUSED
    assert (await access.admit("stranger")).status == 200


async def test_many_pages_of_one_token_ask_once() -> None:
    reviews = table()
    access = Access(reviews)
    answers = await asyncio.gather(*(access.admit("good") for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert reviews.asked["owner"] <= 4  # as many as may ask at once


async def test_an_api_server_that_is_away_admits_nobody() -> None:
    reviews, clock = table(), Clock()
    access = Access(reviews, clock)
    assert (await access.admit("good")).status == 200
    reviews.away = True
    assert (await access.admit("good")).status == 200  # not asked yet
    clock.now = KEPT
    with pytest.raises(Busy):
        await access.admit("good")


async def test_a_flood_of_tokens_does_not_reach_the_api_server() -> None:
    reviews, clock = table(), Clock()
    access = Access(reviews, clock)
    refused = 0
    for number in range(3 * KNOWN):
        try:
            await access.admit(f"flood-{number}")
        except Busy:
            refused += 1
    assert reviews.asked["owner"] == 3 * KNOWN - refused
    assert reviews.asked["owner"] <= 200


async def test_answers_are_kept_in_bounded_memory() -> None:
    reviews, clock = table(), Clock()
    access = Access(reviews, clock)
    for number in range(KNOWN + 50):
        clock.now += 1.0 / 20
        await access.admit(f"t{number}")
    assert len(access._owners._answers) == KNOWN


async def test_waiting_pods_are_shown_of_namespaces_whose_pods_the_reader_may_list() -> None:
    reviews = table()
    access = Access(reviews)
    reviews.rights[READER.name] |= {list_pods("team-a")}
    assert await access.visible(READER, {"team-a", "team-b"}) == {"team-a"}
    assert await access.visible(STRANGER, {"team-a", "team-b"}) == {"team-a", "team-b"}


async def test_a_reader_of_all_pods_costs_one_question() -> None:
    reviews = admitting()
    visible = await Access(reviews).visible(READER, {f"ns-{n}" for n in range(1000)})
    assert len(visible) == 1000
    assert reviews.asked == {"may": 1}


async def test_a_reader_of_some_namespaces_costs_a_bounded_number_of_questions() -> None:
    reviews = table()
    await Access(reviews).visible(READER, {f"ns-{n}" for n in range(1000)})
    assert reviews.asked["may"] == 1 + MOST_NAMESPACES


async def test_what_is_not_known_is_not_shown() -> None:
    reviews = table()
    reviews.away = True
    assert await Access(reviews).visible(READER, {"team-a"}) == frozenset()
