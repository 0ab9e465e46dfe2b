"""Certificates that others keep in files: what is new is served, what is half written is not."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.errors import UnusableCertificate
from certs.files import FileWatcher
from certs.issue import Pair, issue_authority, issue_leaf
from certs.serving import HotSwap
from tests.waiting import eventually

NOW = datetime.now(UTC)
AUTHORITY = issue_authority(now=NOW - timedelta(days=5), life=timedelta(days=14))


def new_pair() -> Pair:
    return issue_leaf(AUTHORITY, ("w.n.svc",), now=NOW, life=timedelta(days=1))


class Folder:
    """A mounted Secret: files behind a link that is exchanged as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.certificate, self.key = path / "tls.crt", path / "tls.key"
        self._generation = 0

    def mount(self, pair: Pair) -> None:
        self._generation += 1
        data = self.path / f"data-{self._generation}"
        data.mkdir()
        (data / "tls.crt").write_bytes(pair.certificate)
        (data / "tls.key").write_bytes(pair.key)
        link = self.path / "new"
        link.symlink_to(data)
        link.rename(self.path / "data")
        for name in ("tls.crt", "tls.key"):
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(self.path / "data" / name)

    def watcher(self, swap: HotSwap, poll: float = 0.01) -> FileWatcher:
        return FileWatcher(str(self.certificate), str(self.key), swap, poll=poll)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def test_a_renewed_certificate_is_served_without_being_told(folder: Folder) -> None:
    swap, first, second = HotSwap(), new_pair(), new_pair()
    folder.mount(first)
    watcher = folder.watcher(swap)
    watcher.load()
    task = asyncio.create_task(watcher.run())

    async def serves_second() -> bool:
        return swap.pair == second

    folder.mount(second)
    await eventually(serves_second, "the second certificate is served")
    task.cancel()


async def test_a_half_written_pair_is_passed_over_complained_of_once_and_served_when_whole(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    swap, first, second = HotSwap(), new_pair(), new_pair()
    folder.mount(first)
    watcher = folder.watcher(swap)
    watcher.load()
    folder.certificate.unlink()
    folder.certificate.write_bytes(second.certificate)
    task = asyncio.create_task(watcher.run())

    def complaints() -> int:
        return sum(record.levelno == logging.WARNING for record in caplog.records)

    async def complained() -> int:
        return complaints()

    await eventually(complained, "a complaint")
    assert swap.pair == first
    folder.key.unlink()
    folder.key.write_bytes(second.key)

    async def serves_second() -> bool:
        return swap.pair == second

    await eventually(serves_second, "the second certificate is served")
    assert complaints() == 1
    task.cancel()


def test_a_file_that_is_missing_is_named_with_its_flag(folder: Folder) -> None:
    with pytest.raises(UnusableCertificate, match=r"--tls-cert-file .*tls\.crt cannot be read"):
        folder.watcher(HotSwap()).load()


def test_an_expired_certificate_is_refused_and_the_one_in_service_kept(folder: Folder) -> None:
    swap, good = HotSwap(), new_pair()
    folder.mount(good)
    folder.watcher(swap).load()
    long_ago = NOW - timedelta(days=3)
    folder.mount(issue_leaf(AUTHORITY, ("w.n.svc",), now=long_ago, life=timedelta(days=1)))
    with pytest.raises(UnusableCertificate, match="has expired on"):
        folder.watcher(swap).load()
    assert swap.pair == good


def test_a_certificate_that_is_not_valid_yet_is_refused_and_the_one_in_service_kept(
    folder: Folder,
) -> None:
    swap, good = HotSwap(), new_pair()
    folder.mount(good)
    folder.watcher(swap).load()
    later = NOW + timedelta(days=3)
    folder.mount(issue_leaf(AUTHORITY, ("w.n.svc",), now=later, life=timedelta(days=1)))
    with pytest.raises(UnusableCertificate, match=r"is not valid before .* clock says .*; give"):
        folder.watcher(swap).load()
    assert swap.pair == good


def test_a_key_of_another_certificate_is_named_with_both_flags(folder: Folder) -> None:
    folder.mount(Pair(new_pair().certificate, new_pair().key))
    with pytest.raises(
        UnusableCertificate, match=r"--tls-private-key-file .* does not belong .*; give"
    ):
        folder.watcher(HotSwap()).load()
