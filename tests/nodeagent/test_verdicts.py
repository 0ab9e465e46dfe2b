"""What a proof has left becomes the condition Verified, if it is about a GPU of the node."""

import asyncio
import json
from typing import Any

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.hardware import ComputeCapability, Gpu
from nodeagent.verdicts import Verdict, leave, parse, verified
from tests.nodeagent.conftest import Machine, gpu

H200 = Gpu(GpuUuid(gpu(1)), 0, "NVIDIA H200", 143771, 626, ComputeCapability(9, 0))
T4 = Gpu(GpuUuid(gpu(2)), 1, "Tesla T4", 15360, 400, ComputeCapability(7, 5))
HOLDS = Verdict(H200.uuid, "580.1", "2026-11-29")
FAILS = Verdict(T4.uuid, "580.1", "2026-11-29", ("the limit holds: 15000 of 900 MiB",))


def report(uuid: str, *, holds: bool) -> dict[str, Any]:
    """What `verify` prints as JSON, as far as it matters here."""
    findings = [
        {"claim": "daemon and server start", "holds": True, "figure": "1.2 s"},
        {"claim": "its limit and no more", "holds": holds, "figure": "9 of 9 MiB"},
        {"claim": "client 49 gets", "holds": None, "figure": "served"},
    ]
    return {"uuid": uuid, "driver": "580.1", "date": "2026-11-29", "findings": findings}


def test_gpu_on_which_every_claim_holds_is_named_with_its_driver() -> None:
    condition = verified([HOLDS], [H200, T4])
    assert condition is not None
    assert (condition.status, condition.reason) == (True, "Verified")
    assert condition.message == "GPU 0 (NVIDIA H200, driver 580.1, 2026-11-29): every claim holds"


def test_one_refuted_claim_makes_it_false_and_is_told_alone() -> None:
    condition = verified([HOLDS, FAILS], [H200, T4])
    assert condition is not None
    assert (condition.status, condition.reason) == (False, "Refuted")
    assert condition.message == (
        "GPU 1 (Tesla T4, driver 580.1, 2026-11-29): the limit holds: 15000 of 900 MiB"
    )


def test_verdict_on_a_gpu_that_is_not_here_says_nothing() -> None:
    assert verified([HOLDS], [T4]) is None
    assert verified([], [T4]) is None


def test_claims_that_are_only_told_refute_nothing() -> None:
    assert parse_of(report(gpu(1), holds=True)).refuted == ()
    assert parse_of(report(gpu(1), holds=False)).refuted == ("its limit and no more: 9 of 9 MiB",)


def parse_of(what: dict[str, Any]) -> Verdict:
    return parse(json.dumps(what))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"findings": [1]}'])
def test_what_is_no_report_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


async def test_agent_reports_a_proof_that_was_there_and_one_that_comes(machine: Machine) -> None:
    root = machine.settings.mps_root
    await asyncio.to_thread(leave, root, report(gpu(1), holds=True))
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.until(lambda: status_of(machine) == ("True", "Verified"), "it was there")
        await asyncio.to_thread(leave, root, report(gpu(2), holds=False))
        await machine.until(lambda: status_of(machine) == ("False", "Refuted"), "another came")
        assert machine.condition("Applied")["status"] == "True"


async def test_agent_goes_on_beside_a_proof_that_it_cannot_read(machine: Machine) -> None:
    root = machine.settings.mps_root
    await asyncio.to_thread(leave, root, {"uuid": "GPU-x"})
    async with machine.agent():
        await machine.applied({"10gb": 1})
        assert machine.condition("Verified") == {}
        await asyncio.to_thread(leave, root, report(gpu(1), holds=True))
        await machine.until(lambda: status_of(machine) == ("True", "Verified"), "the next can be")


async def test_agent_goes_on_where_proofs_cannot_be_looked_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nodeagent.verdicts.os.makedirs", refuse)
    async with machine.agent() as running:
        await machine.applied({"10gb": 1})
        assert not running.done()


def status_of(machine: Machine) -> tuple[str, str]:
    condition = machine.condition("Verified")
    return condition.get("status", ""), condition.get("reason", "")
