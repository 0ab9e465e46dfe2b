"""The certificate manager on a real API server: several replicas, faults, and whole rotations."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509

from certs.errors import CannotManage
from hack.cluster.controlplane import ControlPlane
from mpslice.kube.api import (
    MUTATING_WEBHOOKS,
    SECRETS,
    VALIDATING_WEBHOOKS,
    Json,
    Kube,
    PatchType,
    Resource,
)
from mpslice.kube.errors import Conflict, Unreachable
from mpslice.kube.session import Session
from tests.certs.replicas import (
    SECRET,
    Place,
    Replica,
    handshake,
    place,
    replica,
    short_lives,
    verifying,
)
from tests.waiting import eventually

CONFIGURATIONS = (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)


@pytest.fixture
async def here(control_plane: ControlPlane) -> AsyncIterator[Place]:
    """A namespace and webhook configurations of the test's own."""
    async with (
        await Session.connect("test", str(control_plane.kubeconfig)) as kube,
        place(kube, f"certs-{uuid4().hex[:8]}") as made,
    ):
        yield made


class Delegate:
    """A Kube whose calls a test can hold up or fail; the rest goes to the real one."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kube, name)


async def test_first_start_makes_a_certificate_that_every_ca_bundle_verifies(here: Place) -> None:
    async with replica(here) as one, asyncio.timeout(20):
        await one.ready()
        bundles = await here.bundles()
        assert len(bundles) == 3
        assert len(set(bundles)) == 1
        leaf = await handshake(one.address, here.server_name, bundles[0])
        await handshake(one.address, f"{here.server_name}.cluster.local", bundles[0])
    days = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days
    assert 89 <= days <= 91
    assert one.hot_swap.expires == leaf.not_valid_after_utc


async def test_restart_serves_the_same_certificate_and_writes_nothing(here: Place) -> None:
    async with replica(here) as one:
        await one.ready()
        before = await here.secret()
        first = await handshake(one.address, here.server_name, (await here.bundles())[0])
    async with replica(here) as one:
        await one.ready()
        second = await handshake(one.address, here.server_name, (await here.bundles())[0])
    assert second == first
    assert await here.secret() == before


async def test_replicas_that_start_at_once_serve_one_certificate(here: Place) -> None:
    async with replica(here) as one, replica(here) as two, replica(here) as three:
        for each in (one, two, three):
            await each.ready()
        bundle = (await here.bundles())[0]
        leaves = {
            await handshake(each.address, here.server_name, bundle) for each in (one, two, three)
        }
    assert len(leaves) == 1


async def test_no_handshake_fails_while_the_ca_is_rotated(here: Place) -> None:
    lives = short_lives(authority=20, leaf=9, propagation=0.5)
    async with replica(here, **lives) as one, replica(here, **lives) as two:
        await one.ready()
        await two.ready()
        first = x509.load_pem_x509_certificate((await here.bundles())[0])

        async def old_ca_is_gone() -> bool:
            found = [x509.load_pem_x509_certificates(pem) for pem in await here.bundles()]
            return all(first not in trusted for trusted in found)

        async with verifying(here, (one, two)) as tally:
            await eventually(old_ca_is_gone, "the first CA has left every caBundle", seconds=60)
    logging.getLogger(__name__).info("%s", tally)
    assert not tally.failures, (len(tally.failures), tally.handshakes, tally.failures[:5])
    assert len(tally.issuers) >= 2
    assert len(tally.leaves) >= 3  # renewals by one CA, and the promotion
    assert tally.handshakes > 50


async def _leaf(here: Place, one: Replica) -> x509.Certificate:
    """What a replica serves; any of the caBundles may verify it."""
    return await handshake(one.address, here.server_name, b"".join(await here.bundles()))


def _garbage(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "spoil",
    [
        dict.fromkeys,
        lambda data: {key: None for key in data if key.endswith(".key")},
        lambda data: {"tls.crt": data["tls.crt"][:400]},
        lambda data: {"tls.key": _garbage("no key at all")},
        lambda data: dict.fromkeys(data, _garbage("nonsense")),
    ],
    ids=["emptied", "keys-gone", "half-a-certificate", "wrong-key", "nonsense"],
)
async def test_broken_secret_is_repaired_without_a_failed_handshake(
    here: Place, spoil: Callable[[Json], Json]
) -> None:
    async with replica(here) as one, replica(here) as two:
        await one.ready()
        await two.ready()
        async with verifying(here, (one, two)) as tally:
            secret = await here.secret()
            assert secret is not None
            await here.kube.patch(
                SECRETS,
                SECRET,
                {"data": spoil(secret["data"])},
                type=PatchType.MERGE,
                namespace=here.name,
            )
            await eventually(lambda: _is_whole(here), "the Secret is whole again")
            # A chain that was swapped in later must not fail either.
            await asyncio.gather(one.ready(), two.ready())
        async with replica(here) as third:
            await third.ready()
    assert not tally.failures, tally.failures[:5]


async def _is_whole(here: Place) -> bool:
    """Whether tls.crt verifies against what the caBundles hold, and has its key."""
    data = ((await here.secret()) or {}).get("data") or {}
    try:
        leaf = x509.load_pem_x509_certificate(base64.b64decode(data.get("tls.crt") or ""))
        keyed = b"PRIVATE KEY" in base64.b64decode(data.get("tls.key") or "")
    except ValueError:
        return False
    for pem in await here.bundles():
        names = [ca.subject for ca in x509.load_pem_x509_certificates(pem)]
        if leaf.issuer not in names:
            return False
    return keyed


async def test_deleted_secret_is_made_again_without_a_failed_handshake(here: Place) -> None:
    async with replica(here) as one, replica(here) as two:
        await one.ready()
        await two.ready()
        async with verifying(here, (one, two)) as tally:
            await here.kube.delete(SECRETS, SECRET, namespace=here.name)
            await eventually(lambda: _is_whole(here), "there is a Secret again")
        async with replica(here) as third:
            await third.ready()
    assert not tally.failures, tally.failures[:5]


@pytest.mark.parametrize("resource", CONFIGURATIONS, ids=lambda resource: resource.plural)
async def test_emptied_ca_bundle_is_filled_again(here: Place, resource: Resource) -> None:
    async with replica(here) as one:
        await one.ready()
        before = await here.bundles()
        await here.empty_bundle(resource)

        async def filled() -> bool:
            return await here.bundles() == before

        await eventually(filled, "the caBundle is back", seconds=5)
        await one.ready()


async def test_configuration_that_is_made_anew_gets_the_ca_bundle(here: Place) -> None:
    async with replica(here) as one:
        await one.ready()
        before = await here.bundles()
        made = await here.kube.read(VALIDATING_WEBHOOKS, here.name)
        await here.kube.delete(VALIDATING_WEBHOOKS, here.name)
        del made["webhooks"][0]["clientConfig"]["caBundle"]
        made["metadata"] = {"name": here.name}
        await here.kube.create(VALIDATING_WEBHOOKS, made)

        async def filled() -> bool:
            return await here.bundles() == before

        await eventually(filled, "the caBundle is back", seconds=5)


class _StallingPatch(Delegate):
    """Holds up the first patch of a webhook configuration until `go`, and keeps its outcome."""

    def __init__(self, kube: Kube) -> None:
        super().__init__(kube)
        self.armed = False
        self.go = asyncio.Event()
        self.stalled = asyncio.Event()
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def patch(self, resource: Resource, *args: Any, **kwargs: Any) -> Json:
        if resource not in CONFIGURATIONS or not self.armed or self.stalled.is_set():
            return await self._kube.patch(resource, *args, **kwargs)
        self.stalled.set()
        await self.go.wait()
        try:
            answer = await self._kube.patch(resource, *args, **kwargs)
        except Conflict:
            self.outcome.set_result("refused")
            raise
        self.outcome.set_result("written")
        return answer


async def test_stalled_replica_cannot_write_an_old_ca_bundle_over_a_newer_one(
    here: Place,
) -> None:
    stalling = _StallingPatch(here.kube)
    lives = short_lives(authority=12, leaf=30, propagation=0.2)
    async with replica(here, stalling, **lives) as slow:
        await slow.ready()
        first = (await _leaf(here, slow)).issuer
        stalling.armed = True
        await here.empty_bundle(VALIDATING_WEBHOOKS)
        async with asyncio.timeout(10):
            await stalling.stalled.wait()  # with a patch in hand that knows one CA
        async with replica(here, **lives) as quick:
            await quick.ready()

            async def promoted() -> bool:
                return (await _leaf(here, quick)).issuer != first

            await eventually(promoted, "the next CA signs", seconds=20)
            async with verifying(here, (quick,)) as tally:
                stalling.go.set()
                async with asyncio.timeout(10):
                    assert await stalling.outcome == "refused"
    assert not tally.failures


class _FrozenSecret(Delegate):
    """A Kube to which the Secret cannot be read while `frozen`."""

    def __init__(self, kube: Kube) -> None:
        super().__init__(kube)
        self.frozen = False

    async def read(self, resource: Resource, *args: Any, **kwargs: Any) -> Json:
        if self.frozen and resource == SECRETS:
            raise Unreachable("GET the Secret: the test has cut the line")
        return await self._kube.read(resource, *args, **kwargs)


async def test_replica_keeps_its_certificate_until_the_ca_of_a_new_secret_is_trusted(
    here: Place,
) -> None:
    of_old, of_new = _StallingPatch(here.kube), _StallingPatch(here.kube)
    frozen = _FrozenSecret(of_old)
    async with replica(here, frozen) as old:
        await old.ready()
        async with verifying(here, (old,)) as tally:
            frozen.frozen = of_old.armed = of_new.armed = True
            await here.kube.delete(SECRETS, SECRET, namespace=here.name)
            async with replica(here, of_new) as new:  # knows nothing of the Secret that was
                await of_new.stalled.wait()
                frozen.frozen = False  # now the old one reads a leaf whose CA nobody trusts yet
                async with asyncio.timeout(20):
                    await of_old.stalled.wait()
                before = tally.handshakes

                async def verified_since() -> bool:
                    return tally.handshakes > before + 10

                await eventually(verified_since, "the old leaf verifies on")
                of_new.go.set()
                of_old.go.set()

                async def agree() -> bool:
                    return await _leaf(here, old) == await _leaf(here, new)

                await eventually(agree, "the old replica serves the new certificate", seconds=20)
                await new.ready()
                await old.ready()
    assert not tally.failures, (tally.handshakes, tally.failures[:5])
    assert len(tally.issuers) == 2


class _AwayAtFirst(Delegate):
    """A Kube whose first calls find nobody."""

    def __init__(self, kube: Kube, calls: int) -> None:
        super().__init__(kube)
        self.left = calls

    async def read(self, *args: Any, **kwargs: Any) -> Json:
        if self.left > 0:
            self.left -= 1
            raise Unreachable("GET: connection refused")
        return await self._kube.read(*args, **kwargs)


async def test_start_outlives_an_api_server_that_is_away(here: Place) -> None:
    async with replica(here, _AwayAtFirst(here.kube, 3)) as one:
        await one.ready()


async def _ending(one: Replica) -> str:
    """With which words the replica's `run` ends."""
    done, _ = await asyncio.wait({one.task}, timeout=10)
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
    data = {key: ours["data"].get(key, _garbage("hunter2")) for key in keys}
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
