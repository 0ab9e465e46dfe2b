"""News of a directory, without polling."""

import asyncio
import errno
from pathlib import Path

import pytest

from nodeagent.errors import BadSettings, DirectoryVanished
from nodeagent.linux import inotify
from nodeagent.linux.inotify import DirectoryWatch, Names
from tests.waiting import DEADLINE


async def test_made_written_moved_and_deleted_names_are_told(tmp_path: Path) -> None:
    with DirectoryWatch(tmp_path) as watch:
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "b").unlink()
        names = await asyncio.wait_for(watch.next(), DEADLINE)
    assert names.changed == {"a", "b"}
    assert names.made == {"a", "b"}


async def test_writing_is_not_making(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with DirectoryWatch(tmp_path) as watch:
        (tmp_path / "a").write_text("x")
        names = await asyncio.wait_for(watch.next(), DEADLINE)
    assert names.touches("a")
    assert not names.makes("a")


async def test_next_waits_for_news(tmp_path: Path) -> None:
    with DirectoryWatch(tmp_path) as watch:
        waiting = asyncio.create_task(watch.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        (tmp_path / "a").touch()
        assert (await asyncio.wait_for(waiting, DEADLINE)).makes("a")


async def test_deleted_directory_is_an_error(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    with DirectoryWatch(directory) as watch:
        directory.rmdir()
        with pytest.raises(DirectoryVanished, match="was deleted"):
            await asyncio.wait_for(watch.next(), DEADLINE)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="gone cannot be watched: No such file"):
        DirectoryWatch(tmp_path / "gone")


def test_lost_count_touches_everything() -> None:
    assert Names(all=True).touches("anything")
    assert Names(all=True).makes("anything")


def test_instances_that_are_used_up_are_named_with_their_sysctl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(function: str, *_: int | bytes) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(inotify, "call", exhausted)
    with pytest.raises(BadSettings, match=r"fs\.inotify\.max_user_instances"):
        DirectoryWatch(tmp_path)
