"""A real API server presents its certificate, and is served where the webhook asks for one."""

import socket
import ssl

import pytest

from tests.waiting import DEADLINE
from tests.webhook.cases import SLICE, container, pod
from tests.webhook.cluster import CLIENT_CA, CLIENT_NAME, Installation, Replica, called, create

BAD = called(pod(container({SLICE: 2})), "bad")
GOOD = called(pod(), "good")


def asking(installation: Installation, names: str) -> tuple[str, str]:
    """Flags of a replica that asks its clients for a certificate."""
    authority = installation.folder / f"{CLIENT_CA}.crt"
    return f"--client-ca-file={authority}", f"--client-names={names}"


def is_served(replica: Replica, address: str) -> bool:
    """Whether a client that presents nothing is answered."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((address, replica.port), timeout=DEADLINE) as plain,
        context.wrap_socket(plain) as connection,
    ):
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return bool(connection.recv(100))
        except OSError:
            return False


@pytest.mark.parametrize("names", ["", CLIENT_NAME], ids=["any name", "its name"])
def test_api_server_with_a_certificate_is_served_and_nobody_without(
    installation: Installation, names: str
) -> None:
    installation.install()
    with installation.serving(*asking(installation, names)) as replica:
        assert not is_served(replica, installation.plane.address)
        assert create(installation, GOOD)[1] == ""
        assert "MultipleSlices" in create(installation, BAD)[1]


def test_api_server_whose_name_is_not_served_is_told_so(installation: Installation) -> None:
    installation.install()
    with installation.serving(*asking(installation, "somebody-else")):
        said = create(installation, GOOD)[1]
    assert 'failed calling webhook "mutate.pods.mpslice.io"' in said
    assert f"a client named {CLIENT_NAME} is not served" in said
