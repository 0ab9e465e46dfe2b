"""The committed gRPC code is what its .proto files say, and the two do not collide."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FileDescriptor

from nodeagent import kubelet_api
from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2, podresources_v1_pb2
from tests.waiting import DEADLINE

FOLDER = Path(kubelet_api.__file__).parent
ROOT = FOLDER.parent.parent
PROTOC = Path(sys.prefix) / "protoc" / "bin" / "python"
FILES = {
    "deviceplugin_v1beta1": deviceplugin_v1beta1_pb2.DESCRIPTOR,
    "podresources_v1": podresources_v1_pb2.DESCRIPTOR,
}


def declared(descriptor: Descriptor) -> set[tuple[str, str, int]]:
    return {
        (descriptor.name, field.name, field.number)
        for field in descriptor.fields
        if not descriptor.GetOptions().map_entry
    }


@pytest.mark.parametrize("name", FILES)
def test_code_has_the_messages_fields_and_numbers_of_its_proto(name: str) -> None:
    generated: FileDescriptor = FILES[name]
    in_code = set().union(*map(declared, generated.message_types_by_name.values()))
    in_text = set()
    text = re.sub(r"//.*", "", (FOLDER / f"{name}.proto").read_text())
    for message, body in re.findall(r"message (\w+) \{(.*?)\}", text, re.DOTALL):
        fields = re.findall(r"(\w+) = (\d+);", body)
        in_text |= {(message, field, int(number)) for field, number in fields}
    assert in_code == in_text
    services = re.findall(r"rpc (\w+)\(", text)
    methods = [m.name for s in generated.services_by_name.values() for m in s.methods]
    assert methods == services


@pytest.mark.skipif(not PROTOC.exists(), reason=f"no {PROTOC}; `make test` installs it")
def test_generator_makes_the_same_code(tmp_path: Path) -> None:
    protos = sorted(str(path.relative_to(ROOT)) for path in FOLDER.glob("*.proto"))
    kinds = ("python", "grpc_python", "mypy", "mypy_grpc")
    outputs = [f"--{kind}_out={tmp_path}" for kind in kinds]
    command = [str(PROTOC), "-m", "grpc_tools.protoc", "-I.", *outputs, *protos]
    environment = {**os.environ, "PATH": f"{PROTOC.parent}:{os.environ['PATH']}"}
    subprocess.run(
        command, cwd=ROOT, env=environment, check=True, timeout=DEADLINE, stderr=subprocess.DEVNULL
    )
    made = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*.py*")}
    committed = {path.relative_to(ROOT) for path in FOLDER.glob("*_pb2*.py*")}
    assert made.keys() == committed
    for name, path in made.items():
        assert path.read_text() == (ROOT / name).read_text(), name


def test_paths_differ_because_two_files_of_one_name_collide() -> None:
    assert len({descriptor.name for descriptor in FILES.values()}) == 2
