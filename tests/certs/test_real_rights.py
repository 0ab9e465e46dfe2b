"""What a replica may and may not touch on a real API server: other people's Secrets, and RBAC."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from certs.errors import CannotManage
from hack.cluster.controlplane import ControlPlane
from mpslice.kube.api import MUTATING_WEBHOOKS, SECRETS
from mpslice.kube.session import Session
from tests.certs.replicas import SECRET, Place, Replica, replica
from tests.waiting import DEADLINE, eventually


async def _ending(one: Replica) -> str:
    """With which words the replica's `run` ends."""
    done, _ = await asyncio.wait({one.task}, timeout=DEADLINE)
    assert done, "run goes on"
    with pytest.raises(CannotManage) as caught:
        one.task.result()
    return str(caught.value)


@pytest.mark.parametrize(
    "keys", [("tls.crt", "tls.key"), ("ca.crt", "ca.key"), ("password",)], ids="-".join
)
async def test_secret_of_somebody_else_is_refused_and_left_alone(
    here: Place, keys: tuple[str, ...], control_plane: ControlPlane
) -> None:
    async with replica(here) as one:
        await one.ready()
        ours = await here.secret()
        assert ours is not None
    await here.kube.delete(SECRETS, SECRET, namespace=here.name)
    data = {key: ours["data"].get(key, base64.b64encode(b"hunter2").decode()) for key in keys}
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": here.name},
        "data": data,
    }
    await here.kube.create(SECRETS, theirs, namespace=here.name)
    async with replica(here) as one:
        assert "--tls-secret" in await _ending(one)
    after = await here.secret()
    assert after is not None
    assert after["data"] == data


ROLES = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: certs, namespace: {name}}}
rules:
- {{apiGroups: [""], resources: [secrets], resourceNames: [{secret}],
   verbs: [get, list, watch, patch]}}
- {{apiGroups: [""], resources: [secrets], verbs: [create]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: certs, namespace: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: certs}}
subjects: [{{kind: User, name: "{user}"}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {name}}}
rules:
- {{apiGroups: [admissionregistration.k8s.io], resourceNames: [{name}],
   resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations],
   verbs: [get, list, watch, patch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}
subjects: [{{kind: User, name: "{user}"}}]
"""


@pytest.fixture
async def as_service_account(
    here: Place, control_plane: ControlPlane, tmp_path: Any
) -> AsyncIterator[tuple[Session, str]]:
    """A session of a service account that may do nothing, and its user name."""
    control_plane.kubectl("create", "serviceaccount", "webhook", f"--namespace={here.name}")
    token = control_plane.kubectl(
        "create", "token", "webhook", f"--namespace={here.name}"
    ).stdout.strip()
    config = tmp_path / "kubeconfig"
    config.write_text(control_plane.kubeconfig.read_text())
    control_plane.kubectl(
        f"--kubeconfig={config}", "config", "set-credentials", "sa", f"--token={token}"
    )
    context = control_plane.kubectl(
        f"--kubeconfig={config}", "config", "current-context"
    ).stdout.strip()
    control_plane.kubectl(f"--kubeconfig={config}", "config", "set-context", context, "--user=sa")
    async with await Session.connect("test", str(config)) as session:
        yield session, f"system:serviceaccount:{here.name}:webhook"


async def test_start_without_permissions_ends_with_one_sentence_that_says_what_to_grant(
    here: Place, as_service_account: tuple[Session, str]
) -> None:
    session, _ = as_service_account
    async with replica(here, session) as one:
        message = await _ending(one)
    assert SECRET in message
    assert here.name in message
    assert "grant" in message
    assert "\n" not in message


async def test_least_permissions_are_enough(
    here: Place,
    as_service_account: tuple[Session, str],
    control_plane: ControlPlane,
    caplog: pytest.LogCaptureFixture,
) -> None:
    session, user = as_service_account
    manifest = ROLES.format(name=here.name, secret=SECRET, user=user)
    control_plane.kubectl("apply", "--filename=-", input=manifest)
    try:

        async def granted() -> bool:
            return (
                "yes"
                in control_plane.kubectl(
                    "auth",
                    "can-i",
                    "patch",
                    f"mutatingwebhookconfigurations/{here.name}",
                    f"--as={user}",
                    check=False,
                ).stdout
            )

        await eventually(granted, "the roles are in force")
        async with replica(here, session) as one:
            await one.ready()
            before = await here.bundles()
            await here.empty_bundle(MUTATING_WEBHOOKS)

            async def filled() -> bool:
                return await here.bundles() == before

            await eventually(filled, "the caBundle is back", seconds=5)
    finally:
        for kind in ("clusterrole", "clusterrolebinding"):
            control_plane.kubectl("delete", kind, here.name, check=False)
    assert not [record for record in caplog.records if "forbidden" in str(vars(record)).lower()]
