"""Writes: one of an object at a time, none waiting for another, urgent ones first, not too fast."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import pytest

from mpslice.nodelayout import LayoutSpec, NodeLayout
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.writes.actions import Action, Key, SetManaged, Ungate, WriteSpec
from planner.writes.bucket import TokenBucket
from planner.writes.writer import AT_ONCE, Writer
from tests.waiting import eventually


def spec(name: str, version: str = "1") -> WriteSpec:
    return WriteSpec(NodeLayout(name, resource_version=version), LayoutSpec())


def ungate(name: str) -> Ungate:
    return Ungate(Pod("default", name, uid=name), carved=True)


class Outside:
    """Takes note of each write, and answers it when told to."""

    def __init__(self) -> None:
        self.begun: list[Action] = []
        self.asked_again = 0
        self.answers: dict[Key, asyncio.Future[bool]] = {}
        self.hold: set[Key] = set()
        self.failing: set[Key] = set()
        self.writer: Writer

    async def write(self, action: Action) -> bool:
        self.begun.append(action)
        if action.key in self.hold:
            answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.answers[action.key] = answer
            return await answer
        return action.key not in self.failing

    def again(self) -> None:
        self.asked_again += 1

    async def until_begun(self, *actions: Action) -> None:
        async def begun() -> bool:
            return all(action in self.begun for action in actions)

        await eventually(begun, f"{actions} are begun", every=0.001)

    async def settled(self) -> None:
        """Every write that may begin has begun, and every answer that is there was taken."""
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def writing(bucket: TokenBucket | None = None) -> AsyncIterator[Outside]:
    outside = Outside()
    async with asyncio.TaskGroup() as tasks:
        outside.writer = Writer(
            tasks, outside.write, outside.again, bucket or TokenBucket(1e6, 10_000)
        )
        yield outside
        outside.writer.close()
        for answer in outside.answers.values():
            if not answer.done():
                answer.set_result(True)


async def test_slow_write_holds_up_no_other() -> None:
    async with writing() as outside:
        outside.hold = {spec("n1").key}
        outside.writer.submit([spec("n1"), spec("n2")])
        await outside.until_begun(spec("n1"), spec("n2"))
        outside.writer.submit([spec("n1"), spec("n3"), ungate("p")])
        await outside.until_begun(spec("n3"), ungate("p"))


async def test_object_is_written_once_at_a_time_and_decided_upon_again_if_more_is_wanted() -> None:
    async with writing() as outside:
        outside.hold = {spec("n1").key}
        outside.writer.submit([spec("n1", "1")])
        await outside.until_begun(spec("n1", "1"))
        outside.writer.submit([spec("n1", "1")])
        outside.writer.submit([spec("n1", "2")])
        await outside.settled()
        assert outside.begun == [spec("n1", "1")]
        outside.answers[spec("n1").key].set_result(True)
        await outside.settled()
        assert outside.asked_again == 1
        outside.writer.submit([spec("n1", "2")])
        await outside.until_begun(spec("n1", "2"))


async def test_same_write_decided_again_while_it_is_under_way_needs_no_other_decision() -> None:
    async with writing() as outside:
        outside.hold = {spec("n1").key}
        outside.writer.submit([spec("n1")])
        await outside.until_begun(spec("n1"))
        outside.writer.submit([spec("n1")])
        outside.answers[spec("n1").key].set_result(True)
        await outside.settled()
        assert outside.asked_again == 0


async def test_decision_replaces_what_has_not_begun() -> None:
    async with writing() as outside:
        first = [ungate(f"p{i}") for i in range(AT_ONCE + 1)]
        outside.hold = {action.key for action in first}
        outside.writer.submit(first)
        await outside.until_begun(*first[:AT_ONCE])
        outside.writer.submit([*first[:AT_ONCE], ungate("newer")])
        outside.answers[first[0].key].set_result(True)
        await outside.until_begun(ungate("newer"))
        assert first[AT_ONCE] not in outside.begun


async def test_gates_go_on_going_while_the_next_decision_is_made() -> None:
    async with writing() as outside:
        gates = [ungate(f"p{i}") for i in range(AT_ONCE + 1)]
        layouts = [spec(f"n{i}") for i in range(AT_ONCE + 1)]
        actions: list[Action] = [*gates, *layouts]
        outside.hold = {action.key for action in actions}
        outside.writer.submit(actions)
        await outside.until_begun(*gates[:AT_ONCE], *layouts[:AT_ONCE])
        last = gates[AT_ONCE]
        assert outside.writer.going == {last.pod.uid}
        outside.answers[gates[0].key].set_result(True)
        outside.answers[layouts[0].key].set_result(True)
        await outside.until_begun(last, layouts[AT_ONCE])
        assert outside.writer.going == frozenset()


async def test_layout_that_is_not_written_yet_stays_intended() -> None:
    async with writing() as outside:
        layouts = [spec(f"n{i}") for i in range(AT_ONCE + 2)]
        outside.hold = {action.key for action in layouts}
        outside.writer.submit([*layouts, SetManaged(Node("n0"), True)])
        await outside.until_begun(*layouts[:AT_ONCE])
        newer = spec(f"n{AT_ONCE}", "2")
        outside.writer.submit([newer])
        assert list(outside.writer.intended) == [*layouts[:AT_ONCE], newer, layouts[-1]]
        for action in layouts[:AT_ONCE]:
            outside.answers[action.key].set_result(True)
        await outside.until_begun(newer, layouts[-1])
        assert len(outside.begun) == AT_ONCE + 2


async def test_write_that_the_watch_has_not_shown_yet_is_not_repeated_at_once() -> None:
    async with writing() as outside:
        managed = SetManaged(Node("n1"), True)
        outside.writer.submit([managed])
        await outside.until_begun(managed)
        await outside.settled()
        outside.writer.submit([managed])
        await outside.settled()
        assert outside.begun == [managed]

        async def asked() -> bool:
            return outside.asked_again > 0

        await eventually(asked, "it is looked at again", every=0.01)
        outside.writer.submit([managed])
        await outside.until_begun(managed)
        await outside.settled()
        assert outside.begun == [managed, managed]


async def test_gate_that_is_being_taken_away_is_known() -> None:
    async with writing() as outside:
        action = Ungate(Pod("default", "p", uid="u"), carved=True)
        outside.hold = {action.key}
        outside.writer.submit([action])
        assert outside.writer.ungating == {"u"}
        await outside.until_begun(action)
        outside.answers[action.key].set_result(True)
        await outside.settled()
        assert outside.writer.ungating == frozenset()


async def test_gates_go_first_and_slow_layouts_leave_them_room() -> None:
    async with writing(TokenBucket(rate=1e6, burst=10_000)) as outside:
        layouts = [spec(f"n{i}") for i in range(3 * AT_ONCE)]
        outside.hold = {action.key for action in layouts}
        outside.writer.submit([*layouts, ungate("p")])
        await outside.until_begun(ungate("p"), *layouts[:AT_ONCE])
        assert outside.begun[0] == ungate("p")
        assert len(outside.begun) == 1 + AT_ONCE


async def test_failed_write_rests_and_is_decided_upon_again_while_others_go_on() -> None:
    async with writing() as outside:
        bad, good = spec("bad"), spec("good")
        outside.failing = {bad.key}
        outside.writer.submit([bad])
        await outside.until_begun(bad)
        await outside.settled()
        outside.writer.submit([bad, good])
        await outside.until_begun(good)
        assert outside.begun == [bad, good]

        async def asked() -> bool:
            return outside.asked_again > 0

        await eventually(asked, "a new decision is asked for", every=0.001)
        outside.writer.submit([bad])
        await outside.settled()
        assert outside.begun == [bad, good, bad]


async def test_writes_wait_for_tokens_and_go_on_by_themselves() -> None:
    async with writing(TokenBucket(rate=4.0, burst=2)) as outside:
        actions = [SetManaged(Node(f"n{i}"), True) for i in range(4)]
        outside.writer.submit(actions)
        await outside.settled()
        assert outside.begun == actions[:2]
        await outside.until_begun(*actions)


async def test_write_that_raises_ends_all_and_nothing_more_is_begun() -> None:
    troubles: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: troubles.append(context))
    first, second = spec("n1"), spec("n2")

    async def lead() -> Outside:
        with suppress(ExceptionGroup):
            async with writing(TokenBucket(rate=4.0, burst=1)) as outside:
                outside.hold = {first.key}
                outside.writer.submit([first, second])
                await outside.settled()
                outside.answers[first.key].set_exception(RuntimeError("a defect"))
                await asyncio.Event().wait()  # it is cancelled
        return outside

    outside = await lead()
    await asyncio.sleep(0.3)  # past the moment at which the second would get its token
    assert outside.begun == [first]
    assert troubles == []


def takes(bucket: TokenBucket, times: Iterable[float]) -> list[float]:
    return [round(bucket.take(now), 3) for now in times]


def test_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10.0, burst=2)
    assert takes(bucket, [0.0, 0.0, 0.0, 0.05, 0.1, 0.1]) == [0, 0, 0.1, 0.05, 0, 0.1]


def test_bucket_never_holds_more_than_a_burst() -> None:
    bucket = TokenBucket(rate=10.0, burst=2)
    assert takes(bucket, [0.0, 100.0, 100.0, 100.0]) == [0, 0, 0, pytest.approx(0.1)]
