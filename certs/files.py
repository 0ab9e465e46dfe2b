"""A certificate that somebody else keeps in files (cert-manager, a mounted Secret), followed.

Files are compared by content, because a mounted Secret changes by a symbolic link; a pair that is
half written is not served, and tried again.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from certs.errors import UnusableCertificate
from certs.issue import Pair, facts
from certs.serving import HotSwap

_POLL: Final = 5.0  # seconds; inotify sees no change behind the links of a mounted Secret

log = logging.getLogger(__name__)


class FileWatcher:
    """Serves what two PEM files hold, looking every `poll` seconds."""

    def __init__(
        self,
        certificate: str,
        key: str,
        hot_swap: HotSwap,
        *,
        poll: float = _POLL,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clock = clock
        self._certificate = Path(certificate)
        self._key = Path(key)
        self._hot_swap = hot_swap
        self._poll = poll

    def load(self) -> bool:
        """Serves what the files hold now; True when that is new.

        Raises UnusableCertificate, naming the files and the remedy; what was served still is.
        """
        pair = Pair(
            _read(self._certificate, "--tls-cert-file"), _read(self._key, "--tls-private-key-file")
        )
        try:
            self._refuse_dead(pair)
            return self._hot_swap.serve(pair)
        except UnusableCertificate as error:
            raise UnusableCertificate(
                f"--tls-cert-file {self._certificate} and --tls-private-key-file {self._key}: "
                f"{error}; give a PEM certificate that is alive and its own key, without a password"
            ) from error

    def _refuse_dead(self, pair: Pair) -> None:
        found, now = facts(pair.certificate), self._clock()
        if found.not_after <= now:
            raise UnusableCertificate(
                f"the certificate has expired on {found.not_after:%Y-%m-%d %H:%M}"
            )
        if now < found.not_before:
            raise UnusableCertificate(
                f"the certificate is not valid before {found.not_before:%Y-%m-%d %H:%M} UTC, and "
                f"this machine's clock says {now:%Y-%m-%d %H:%M}"
            )

    async def run(self) -> NoReturn:
        """Follows the files until cancelled."""
        await _follow(self.load, "the certificate", self._poll)


class ClientAuthorityWatcher:
    """Lets clients connect whose certificate comes from a CA in a PEM file, looking likewise."""

    def __init__(self, path: str, hot_swap: HotSwap, *, poll: float = _POLL) -> None:
        self._path = Path(path)
        self._hot_swap = hot_swap
        self._poll = poll

    def load(self) -> bool:
        """Goes by what the file holds now; True when that is new.

        Raises UnusableCertificate, naming the file; what was gone by still is.
        """
        content = _read(self._path, "--client-ca-file")
        try:
            return self._hot_swap.trust_clients(content)
        except UnusableCertificate as error:
            raise UnusableCertificate(
                f"--client-ca-file {self._path}: {error}; give the CA certificates in PEM form"
            ) from error

    async def run(self) -> NoReturn:
        """Follows the file until cancelled."""
        await _follow(self.load, "the CA of clients", self._poll)


async def _follow(load: Callable[[], bool], what: str, poll: float) -> NoReturn:
    """Loads again every `poll` seconds; what cannot be used is logged once."""
    complained = ""
    while True:
        await asyncio.sleep(poll)
        try:
            # In a thread, because a network file system may block for long.
            changed = await asyncio.to_thread(load)
        except UnusableCertificate as error:
            if str(error) != complained:
                log.warning("%s stays as it was", what, extra={"error": str(error)})
            complained = str(error)
            continue
        complained = ""
        if changed:
            log.info("%s is new, and served from now on", what)


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableCertificate(
            f"{flag} {path} cannot be read ({error.strerror}); "
            "give a PEM file that this user may read"
        ) from error
