"""A real API server keeps the contract of the API model, which other tests stand on."""

import pytest

from mpslice.kube.api import LEASES, list_all
from mpslice.kube.session import Session
from tests.api.contract import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_api_server_keeps(kube: Session, case: Case) -> None:
    own = case.__name__.replace("_", "-")[:40].rstrip("-")
    try:
        await case(kube, own)
    finally:
        for lease in await list_all(kube, LEASES, namespace="default"):
            await kube.delete(LEASES, lease["metadata"]["name"], namespace="default")
