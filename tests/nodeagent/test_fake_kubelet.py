"""The stand-in for the kubelet does what the kubelet does."""

import asyncio

import pytest

from tests.nodeagent.fake_kubelet import AdmissionError, asked


async def test_call_of_a_connection_that_closes_fails_and_ends_nobody() -> None:
    call = asyncio.get_running_loop().create_future()
    call.cancel()
    with pytest.raises(AdmissionError, match="closing"):
        await asked(call)
