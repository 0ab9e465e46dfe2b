"""The files between agent and supervisor, the logs, the control program's answers, the sweep."""

import errno
import os
from pathlib import Path

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.mps import logs
from nodeagent.mps.answers import parse_limit, parse_pids, parse_status, printed_limit
from nodeagent.mps.decision import ServerStatus
from nodeagent.mps.errors import SelinuxRefuses, UnreadableRecord
from nodeagent.mps.records import (
    MpsState,
    Status,
    Wanted,
    parse_wanted,
    read_statuses,
    read_wanted,
    remove_record,
    write_record,
)
from nodeagent.mps.selinux import label_for_containers, mount_option
from nodeagent.mps.shm import Sweeper

GPU = GpuUuid("GPU-1")


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    wanted = Wanted(9533, used=True, check="a")
    status = Status(MpsState.FAULT, "why", 9533, "a", restarts=2, at=1.5, shm="1:2")
    write_record(tmp_path / "wanted", GPU, wanted)
    write_record(tmp_path / "status", GPU, status)
    assert read_wanted(tmp_path / "wanted") == ({GPU: wanted}, [])
    assert read_statuses(tmp_path / "status") == ({GPU: status}, [])
    remove_record(tmp_path / "wanted", GPU)
    remove_record(tmp_path / "wanted", GPU)
    assert read_wanted(tmp_path / "wanted") == ({}, [])


def test_nothing_is_wanted_where_there_is_no_directory(tmp_path: Path) -> None:
    assert read_wanted(tmp_path / "none") == ({}, [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"limit_mib": "9G", "used": false, "check": ""}',
        '{"limit_mib": true, "used": false, "check": ""}',
        '{"limit_mib": 0, "used": false, "check": ""}',
        '{"limit_mib": 1, "used": 1, "check": ""}',
    ],
)
def test_record_that_cannot_be_read_names_its_gpu(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnreadableRecord):
        parse_wanted(text)
    (tmp_path / GPU).write_text(text)
    found, (problem,) = read_wanted(tmp_path)
    assert found == {}
    assert problem.gpu == GPU


@pytest.mark.parametrize(
    ("mib", "printed"), [(1, "1M"), (1023, "1023M"), (1024, "1G"), (9533, "9G"), (10240, "10G")]
)
def test_limits_are_printed_rounded_down(mib: int, printed: str) -> None:
    assert printed_limit(mib) == printed


def test_answers_are_read_past_messages() -> None:
    assert parse_pids("") == ()
    assert parse_pids("12\n345") == (12, 345)
    assert parse_pids("Server 12 not found!\n7") == (7,)
    assert parse_limit("9G") == "9G"
    assert parse_limit("Server 12 is <busy>") == ""
    assert parse_status("FAULT") is ServerStatus.FAULT
    assert parse_status('Unknown command "get_server_status"') is ServerStatus.UNKNOWN


def test_log_that_grows_too_large_is_shortened_under_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LARGEST", 1000)
    monkeypatch.setattr(logs, "_KEPT", 100)
    with (tmp_path / "server.log").open("a") as writer:
        for number in range(200):
            writer.write(f"line {number}\n")
        writer.flush()
        logs.bound_logs(tmp_path)
        writer.write("the next\n")
    assert (tmp_path / "server.log").read_text() == "the next\n"
    kept = (tmp_path / "server.log.1").read_text()
    assert len(kept) == 100
    assert kept.endswith("line 199\n")


def test_newest_complaint_is_found(tmp_path: Path) -> None:
    assert logs.last_complaint(tmp_path) == ""
    (tmp_path / "server.log").write_text("[t Other 1] Startup\n[t Other 1] Failed: a\n[t] Done\n")
    (tmp_path / "control.log").write_text("[t Control 1] Invalid b\n")
    assert logs.last_complaint(tmp_path) == "Failed: a"


def test_sweep_deletes_what_nobody_has_used_twice_in_a_row(tmp_path: Path) -> None:
    for name in ("forgotten", "open"):
        (tmp_path / name).write_bytes(bytes(4096))
    sweeper = Sweeper(tmp_path)
    with (tmp_path / "open").open():
        assert sweeper.sweep() == 0
        (tmp_path / "new").touch()
        assert sweeper.sweep() == 1
        assert sorted(os.listdir(tmp_path)) == ["new", "open"]


def test_sweep_deletes_what_is_in_folders_after_a_longer_time(tmp_path: Path) -> None:
    """Programs keep there what they open by name when they need it."""
    folder = tmp_path / "joblib_memmapping_folder_77"
    folder.mkdir()
    (folder / "x.pkl").touch()
    sweeper = Sweeper(tmp_path)
    assert sum(sweeper.sweep() for _ in range(11)) == 0
    assert sweeper.sweep() == 1
    assert not any(folder.iterdir())
    assert sum(sweeper.sweep() for _ in range(12)) == 1
    assert not folder.exists()


def test_sweep_keeps_what_is_mapped(tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "mapped"
    path.write_bytes(bytes(4096))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    sweeper = Sweeper(tmp_path)
    sweeper.sweep()
    assert sweeper.sweep() == 0
    mapped.close()
    sweeper.sweep()
    assert sweeper.sweep() == 1


def test_selinux_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(SelinuxRefuses, match="SELinux lets nobody label"):
        label_for_containers(tmp_path, tmp_path)


def test_selinux_gets_its_label_where_there_is_selinux(tmp_path: Path) -> None:
    selinux = tmp_path / "selinux"
    assert mount_option(selinux) == ""
    label_for_containers(tmp_path, selinux)
    selinux.mkdir()
    assert mount_option(selinux) == ',context="system_u:object_r:container_file_t:s0"'
    if os.geteuid() == 0:
        label_for_containers(tmp_path, selinux)
        label = os.getxattr(tmp_path, "security.selinux")
        assert label == b"system_u:object_r:container_file_t:s0"
