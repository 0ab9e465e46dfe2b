"""`kubectl mpslice check`: what it makes of the API server's answers."""

import asyncio
import copy

import pytest

from cli.check import Finding, completed, refused
from mpslice.kube.api import Json, Resource
from mpslice.kube.errors import Forbidden
from mpslice.slices import SliceSize

SIZE = SliceSize(10)
SLICE = "nvidia.com/gpu-10gb"


class ApiServer:
    """Defaults a pod as the real one does, and asks a webhook of the test's choice."""

    def __init__(self, *, completes: bool = True, refuses: str = "", rbac: bool = True) -> None:
        self._completes, self._refuses, self._rbac = completes, refuses, rbac

    async def create(
        self, resource: Resource, body: Json, *, namespace: str | None = None, dry_run: bool = False
    ) -> Json:
        assert dry_run
        if not self._rbac:
            text = 'pods is forbidden: User "x" cannot create resource "pods" in API group ""'
            raise Forbidden(text, status=403)
        made = copy.deepcopy(body)
        made["spec"] |= {"restartPolicy": "Always", "tolerations": [{"operator": "Exists"}]}
        (container,) = made["spec"]["containers"]
        amounts = container.get("resources", {}).get("limits", {})
        if amounts.get(SLICE) == "2" and self._refuses:
            raise Forbidden(self._refuses, status=403)
        if amounts and self._completes:
            container["resources"]["requests"] = dict(amounts)
            container["securityContext"] = {"runAsUser": 1000}
            made["spec"]["schedulingGates"] = [{"name": "mpslice.io/carve"}]
        return made


def ask(server: ApiServer) -> tuple[Finding, Finding]:
    async def both() -> tuple[Finding, Finding]:
        return await completed(server, "a", SIZE), await refused(server, "a", SIZE)

    return asyncio.run(both())


def test_what_a_pod_gets_is_listed_without_what_every_pod_gets() -> None:
    good, bad = ask(ApiServer(refuses="MultipleSlices: spec.containers[0] …"))
    assert good == Finding(
        True,
        (
            "a pod that asks for nvidia.com/gpu-10gb is taken, and gets:",
            "  spec.containers[0].securityContext.runAsUser: 1000",
            "  spec.schedulingGates[0].name: mpslice.io/carve",
        ),
    )
    assert bad.good
    assert bad.lines[1].startswith("  MultipleSlices")


def test_a_pod_that_nobody_completes_is_a_failure_that_says_where_to_look() -> None:
    found, _ = ask(ApiServer(completes=False))
    assert not found.good
    assert "admission.excludedNamespaces" in found.lines[1]


def test_a_wrong_pod_that_is_taken_is_a_failure() -> None:
    _, found = ask(ApiServer())
    assert not found.good
    assert "should have been refused" in found.lines[0]


def test_a_refusal_for_another_reason_is_a_failure() -> None:
    _, found = ask(ApiServer(refuses="exceeded quota"))
    assert not found.good
    assert found.lines[1] == "  exceeded quota"


def test_an_account_that_may_not_create_pods_is_told_so() -> None:
    with pytest.raises(Forbidden, match="cannot create resource"):
        ask(ApiServer(rbac=False))
