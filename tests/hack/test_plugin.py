"""The plugin alone: krew takes its manifest, and it runs for a new user, packed and by pip."""

import copy
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.image.install import NotInstalled, copy_project
from hack.plugin import CHECKOUT, MANIFEST, _pack, build, manifest
from tests.cluster.plugin import do_without
from tests.waiting import DEADLINE

Json = dict[str, Any]
URL = "https://files.example.com/kubectl-mpslice.tar.gz"
UV = str(Path(sys.executable).parent / "uv")
RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{name}{n}" for name in ("com", "lpt") for n in "123456789"),
}


def faults(plugin: Json, archive: Path) -> list[str]:
    """What krew finds wrong (its internal/index/validation/validate.go, and of
    cmd/validate-krew-manifest what concerns the archive)."""
    spec, name = plugin.get("spec", {}), plugin.get("metadata", {}).get("name", "")
    summary = spec.get("shortDescription", "")
    found = {
        "apiVersion": plugin.get("apiVersion") == "krew.googlecontainertools.github.com/v1alpha2",
        "kind": plugin.get("kind") == "Plugin",
        "name": re.fullmatch(r"[\w-]+", name, re.ASCII) and name.lower() not in RESERVED,
        "file name": f"{name}.yaml" == MANIFEST,
        "shortDescription": summary and not re.search(r"[\r\n]", summary),
        "version": re.fullmatch(r"v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", spec.get("version", "")),
        "platforms": spec.get("platforms"),
    }
    return [what for what, good in found.items() if not good] + [
        f"platform: {fault}" for each in spec.get("platforms", []) for fault in _of(each, archive)
    ]


def _of(platform: Json, archive: Path) -> list[str]:
    selector = platform.get("selector", {})
    expressions = selector.get("matchExpressions", [])
    keys = {*selector.get("matchLabels", {}), *(each["key"] for each in expressions)}
    with tarfile.open(archive) as packed:
        names = packed.getnames()
        executable = platform.get("bin") in names and packed.getmember(platform["bin"]).mode & 0o111
    found = {
        "uri": platform.get("uri"),
        "sha256": platform.get("sha256") == hashlib.sha256(archive.read_bytes()).hexdigest(),
        "bin": executable,
        "files": platform.get("files") != [],
        "selector": keys and keys <= {"os", "arch"},
        "license": "LICENSE" in names,
    }
    return [what for what, good in found.items() if not good]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("plugin"), UV)
    except NotInstalled as error:
        do_without("image", str(error))


@pytest.fixture
def unpacked(archive: Path, tmp_path: Path) -> Path:
    """The archive where krew puts it, with krew's link on the PATH."""
    store = tmp_path / "store"
    with tarfile.open(archive) as packed:
        packed.extractall(store, filter="data")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl-mpslice").symlink_to(store / "kubectl-mpslice")
    return store


def run(folder: Path, *command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A command of a new user: nothing of this environment but the system's programs."""
    environment = {"PATH": f"{folder}:{home}:/usr/bin:/bin", "HOME": str(home), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )


def assert_plans_and_completes(folder: Path, completer: tuple[str, ...], home: Path) -> None:
    planned = run(folder, "kubectl-mpslice", "plan", "-f", "examples", home=home)
    assert planned.returncode == 1, planned.stderr  # one pod is refused, one is too large
    shown = (CHECKOUT / "README.md").read_text().partition("\nPlaced\n")[2].partition("```")[0]
    assert shown.count(": ") >= 4
    assert all(line in planned.stdout for line in shown.splitlines())
    completed = run(folder, *completer, "plan", "--output=", home=home)
    assert completed.stdout.splitlines() == ["table", "wide", "json", "yaml", "name", ":4"]
    for command in ("status", "why", "top", "check", "holders", "ungate"):
        words = (command, "pod-0") if command == "why" else (command,)
        done = run(folder, "kubectl-mpslice", *words, home=home)
        assert (done.returncode, done.stdout) == (2, "")
        assert "does not exist" in done.stderr  # all was imported, and there is not a kubeconfig


def test_krew_finds_nothing_wrong_with_the_manifest(archive: Path) -> None:
    made = yaml.safe_load(yaml.safe_dump(manifest(archive, URL)))
    assert faults(made, archive) == []


@pytest.mark.parametrize(
    ("fault", "spoil"),
    [
        ("apiVersion", lambda plugin: plugin.update(apiVersion="v1")),
        ("name", lambda plugin: plugin["metadata"].update(name="kubectl mpslice")),
        ("version", lambda plugin: plugin["spec"].update(version="0.1.0")),
        ("shortDescription", lambda plugin: plugin["spec"].update(shortDescription="a\nb")),
        ("platforms", lambda plugin: plugin["spec"].update(platforms=[])),
        ("platform: sha256", lambda plugin: plugin["spec"]["platforms"][0].update(sha256="0" * 64)),
        ("platform: bin", lambda plugin: plugin["spec"]["platforms"][0].update(bin="mpslice")),
        ("platform: uri", lambda plugin: plugin["spec"]["platforms"][0].update(uri="")),
        ("platform: selector", lambda plugin: plugin["spec"]["platforms"][0].update(selector={})),
    ],
)
def test_rules_find_what_is_wrong(fault: str, spoil: Callable[[Json], None], archive: Path) -> None:
    made = copy.deepcopy(manifest(archive, URL))
    spoil(made)
    assert fault in faults(made, archive)


def test_archive_serves_every_processor_and_has_the_manual(archive: Path) -> None:
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
    assert all(member.isfile() for member in members)
    names = [member.name for member in members]
    assert [name for name in names if name.endswith((".so", ".pyd", ".dylib"))] == []
    assert "man/man1/kubectl-mpslice.1" in names


def test_same_files_are_packed_into_the_same_bytes(tmp_path: Path) -> None:
    for name, time in (("a", 1), ("b", 2)):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "lib" / "x.py").write_text("pass\n")
        os.utime(tmp_path / name / "lib" / "x.py", (time, time))
    assert _pack(tmp_path / "a") == _pack(tmp_path / "b")


def test_archive_runs_for_a_new_user(unpacked: Path, tmp_path: Path) -> None:
    python = Path(sys.base_prefix) / "bin" / Path(sys.executable).resolve().name
    home = tmp_path / "home"
    home.mkdir()
    (home / "python3").symlink_to(python)  # without this environment's packages
    completer = ("kubectl-mpslice", "__complete")
    assert_plans_and_completes(tmp_path / "bin", completer, home)


def test_archive_says_which_python_it_needs(unpacked: Path, tmp_path: Path) -> None:
    launcher = (unpacked / "kubectl-mpslice").read_text()
    old = launcher.replace("import sys\n", "import sys\nsys.version_info = (3, 9)\n", 1)
    done = subprocess.run(
        [sys.executable, "-c", old], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 1
    assert done.stderr.startswith("kubectl mpslice needs Python 3.11 or later; python3 is 3.")


def test_fresh_environment_of_the_plugin_has_nothing_of_the_programs(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    command = [UV, "pip", "install", "--quiet", f"--python={python}"]
    lock = ["--require-hashes", f"--requirements={CHECKOUT / 'requirements.lock'}"]
    done = subprocess.run([*command, *lock], capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode:
        do_without("image", done.stderr.strip())
    copy_project(tmp_path / "source")
    building = [
        UV,
        "build",
        "--quiet",
        "--wheel",
        f"--out-dir={tmp_path}",
        str(tmp_path / "source"),
    ]
    subprocess.run(building, check=True, timeout=DEADLINE)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*command, "--no-deps", str(wheel)], check=True, timeout=DEADLINE)
    assert_plans_and_completes(python.parent, ("kubectl_complete-mpslice",), tmp_path)
    absent = "import importlib.util as u; print(*map(u.find_spec, ('grpc', 'cryptography')))"
    assert run(python.parent, str(python), "-c", absent, home=tmp_path).stdout == "None None\n"
    written = run(
        python.parent, str(python), "-P", "-m", "cli.manual", str(tmp_path), home=tmp_path
    )
    first, *pages = written.stdout.splitlines()
    assert first.startswith("the plugin's page alone: mpslice[programs] is not installed")
    assert pages == [str(tmp_path / "man1" / "kubectl-mpslice.1")]
    for words in (["mpslice-webhook"], ["mpslice-nodeagent", "--node-name=n"]):
        done = run(python.parent, *words, home=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{words[0]}: not installed: ")
        assert done.stderr.endswith("; pip install mpslice[programs]\n")
