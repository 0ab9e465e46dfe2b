"""Two replicas behind a real API server under a steady load: what is lost when one goes."""

import base64
import signal
from datetime import UTC, datetime, timedelta

from certs.issue import Pair, facts, issue_leaf
from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE
from tests.webhook.cluster import NAMESPACE, Installation
from tests.webhook.load import Record, loaded, some_more, tell, two

SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/mpslice-webhook-tls"
DRAIN = ("--shutdown-delay=5s",)


def test_rolling_both_replicas_fails_nothing(
    installation: Installation, record_property: Record
) -> None:
    """As a Deployment with maxUnavailable 0 does it."""
    with (
        two(installation, *DRAIN) as replicas,
        installation.following(replicas),
        loaded(installation) as load,
    ):
        for old in list(replicas):
            new = installation.replica(*DRAIN)
            new.start()
            replicas.append(new)
            new.wait_ready()
            assert old.stop() == 0
    tell(record_property, "rolling both replicas", load)
    assert load.failed == 0, load


def test_killing_one_of_two_costs_no_more_than_what_is_sent_until_it_is_noticed(
    installation: Installation, record_property: Record
) -> None:
    with (
        two(installation) as replicas,
        installation.following(replicas),
        loaded(installation) as load,
    ):
        replicas[0].stop(signal.SIGKILL)

        def noticed() -> bool:
            before = load.failed
            some_more(load)
            return load.failed == before

        wait_until(noticed, "nothing fails any more", seconds=DEADLINE)
    tell(record_property, "kill -9 of one of two", load)
    assert load.failed < load.sent / 2, load


def test_rotation_of_certificates_and_authorities_fails_nothing(
    installation: Installation, record_property: Record
) -> None:
    installation.plane.kubectl("delete", "secret", "mpslice-webhook-tls", "-n", NAMESPACE)
    short = ("--tls-ca-lifetime=24s", "--tls-cert-lifetime=9s", "--tls-propagation=1s")
    with two(installation, *short) as replicas, loaded(installation) as load:
        first = _secret(installation)
        wait_until(
            lambda: _secret(installation)["ca.crt"] != first["ca.crt"], "a new CA", seconds=DEADLINE
        )
        second = _secret(installation)
        wait_until(
            lambda: _secret(installation)["tls.crt"] != second["tls.crt"],
            "a new leaf",
            seconds=DEADLINE,
        )
        assert all(replica.ready for replica in replicas)
    installation.plane.kubectl("delete", "secret", "mpslice-webhook-tls", "-n", NAMESPACE)
    tell(record_property, "rotation of CA and leaves", load)
    assert load.failed == 0, load


def test_expired_leaf_in_the_secret_is_replaced_and_fails_nothing(
    installation: Installation, record_property: Record
) -> None:
    with two(installation), loaded(installation) as load:
        state = _secret(installation)
        authority = Pair(*(base64.b64decode(state[key]) for key in ("ca.crt", "ca.key")))
        names = sorted(facts(base64.b64decode(state["tls.crt"])).names)
        past = datetime.now(UTC) - timedelta(minutes=30)
        dead = issue_leaf(authority, names, now=past, life=timedelta(minutes=10))
        data = {"tls.crt": dead.certificate, "tls.key": dead.key}
        patch = {"data": {key: base64.b64encode(value).decode() for key, value in data.items()}}
        installation.plane.api.request("PATCH", SECRET, patch, "application/merge-patch+json")
        spoilt = patch["data"]["tls.crt"]
        wait_until(
            lambda: _secret(installation)["tls.crt"] != spoilt, "a living leaf", seconds=DEADLINE
        )
    tell(record_property, "expired leaf in the Secret", load)
    assert load.failed == 0, load


def _secret(installation: Installation) -> dict[str, str]:
    data: dict[str, str] = installation.plane.api.get(SECRET)["data"]
    return data
