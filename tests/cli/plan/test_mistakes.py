"""Input that cannot be used ends with one sentence: what is wrong, where, and what to do."""

import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import settings
from hypothesis import strategies as st

from cli.errors import UnusableInput
from cli.reading.manifests import read_manifests
from tests.cli.conftest import Given
from tests.cli.plan.given import Run, node, pod, workload

PIECES = (
    *(
        "kind: Pod",
        "metadata:",
        "  name: p",
        "spec: {",
        "}",
        "---",
        "- a",
        "&a",
        "*a",
        "{{ x }}",
        "0x",
    ),
    *("\t", "\n", ": ", "kind: List", "items: [", "]", '"', "'", "<<: *a", "!!binary x", "? ", "|"),
)
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4))).map("\n".join)

EMPTY_COUNT = """\
kind: Pod
metadata: {name: p}
spec:
  containers:
  - name: c
    resources:
      limits: {nvidia.com/gpu-10gb: }
"""
BAD = {
    "missing file": ("/no/such/file.yaml", None, ": cannot be read: No such file or directory"),
    "a URL": ("https://example.com/pod.yaml", None, "; only files are read: curl -sSL https://"),
    "a quoted pattern": ("/no/such/*.yaml", None, "without quotes, so that the shell expands it"),
    "an open bracket": (None, "kind: Pod\nspec: {a: [1, 2}\n", ":2: has a bracket that is not"),
    "an open brace": (None, "kind: Pod\nspec: {a: {b: 1}\n", "has a bracket that is not closed"),
    "an open quote": (None, 'kind: Pod\nspec: {a: "b}\n', "has a quote or a bracket that is not"),
    "indentation": (None, "kind: Pod\na:\n - b: 1\n   c: 2\n  d: 3\n", ":5: is indented unlike"),
    "a key without colon": (None, "kind: Pod\na:\n  b 1\n  c: 2\n", ":4: has a colon too many"),
    "a backslash": (None, 'kind: Pod\na: "C:\\windows"\n', "backslash in double quotes"),
    "an asterisk": (None, "kind: Pod\na: *b\n", "a word that begins with *; write it in quotes"),
    "an at sign": (None, "kind: Pod\na: @b\n", "a word that begins with @, ` or %"),
    "kubectl get --no-headers": (
        None,
        "n1   Ready   <none>   1d   v1.33.1\n",
        "is the table that kubectl get prints for people",
    ),
    "gcloud's error": (
        None,
        "ERROR: (gcloud.container) no\n",
        "is an error message, not a manifest",
    ),
    "a TOML": (None, '[[pods]]\nname = "a"\n', ":2: "),
    "an empty count": (
        None,
        EMPTY_COUNT,
        ":7: Pod p: spec.containers[0].resources.limits.nvidia.com/gpu-10gb is empty; write a",
    ),
    "bad JSON": ("bad.json", '{"kind": "Pod",\n "metadata": }', ":2: is not JSON: Expecting value"),
    "cut off": ("bad.json", '{"kind": "Pod",\n "spec": {"a": ', "ends in the middle of a JSON"),
    "no kind": (None, "a: 1\n", ":1: is not a Kubernetes object: it has no kind"),
    "a text": (None, "hello\n", ":1: is not a Kubernetes object"),
    "values": (None, "admission: {}\nmps: {}\n", "a chart's values are given with --values"),
    "no name": (None, "kind: Pod\nmetadata: {}\n", ":1: this Pod has no metadata.name"),
    "no containers": (
        None,
        "kind: Pod\nmetadata: {name: p}\nspec: {}\n",
        ":3: Pod p: spec.containers is missing",
    ),
    "a tab": (None, "kind: Pod\nmetadata:\n\tname: p\n", ":3: is indented with a tab; YAML is"),
    "a tab after a key": (None, "kind:\t{Pod\nmetadata:\n", "a tab where YAML wants spaces"),
    "Helm template": (
        None,
        "kind: Pod\nmetadata:\n  name: {{ .Release.Name }}-p\n  {{- if .Values.x }}\n",
        "is a template that is not rendered ({{ .Release.Name }}); render it first: helm template",
    ),
    "Jinja": (None, "{% for p in pods %}\nkind: Pod\n", "is a template that is not rendered"),
    "kubectl get": (
        None,
        "NAME   STATUS   ROLES    AGE   VERSION\nn1     Ready    <none>   1d    v1.33.1\n",
        ":1: is the table that kubectl get prints for people; add -o json",
    ),
    "kubectl get -A": (
        None,
        "NAMESPACE   NAME    READY   STATUS\nml          p:0     1/1     Running: no\n",
        "is the table that kubectl get prints for people",
    ),
    "kubectl get -o name": (None, "node/n1\nnode/n2\n", "-o json instead of -o name"),
    "kubectl describe": (
        None,
        "Name:               n1\nRoles:              <none>\nTaints: a: b\n",
        "is what kubectl describe prints for people",
    ),
    "an error": (
        None,
        'Error from server (Forbidden): nodes is forbidden: User "x" cannot list\n',
        "is an error message, not a manifest (Error from server (Forbidden)",
    ),
    "nothing found": (None, "No resources found in ml namespace.\n", "says that there are no"),
    "HTML": (None, "<!DOCTYPE html>\n<html><body>Log in</body></html>\n", "is an HTML page"),
    "conflict": (
        None,
        "kind: Pod\n<<<<<<< HEAD\nmetadata: {name: a}\n=======\nmetadata: {name: b}\n",
        "holds the marks of a merge conflict",
    ),
    "typographic quotes": (
        None,
        "kind: Pod\nmetadata:\n  name: “a” b: c\n",
        "has typographic quotes",
    ),
    "a variable": (None, "kind: Pod\nmetadata: {name: ${NAME}}\n", "run envsubst first"),
    "a key without value in braces": (
        None,
        "kind: Pod\nspec:\n  limits: {nvidia.com/gpu-10gb:}\n",
        ":3: has no value after the colon of a key",
    ),
    "two colons": (None, "kind: Pod\nmetadata:\n  name: a: b\n", "has two colons"),
    "deep": ("bad.json", '{"kind": ' + "[" * 100_000, "is nested too deeply"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_input_is_one_line_with_file_and_line(run: Run, tmp_path: Path, case: str) -> None:
    name, text, complaint = BAD[case]
    path = name if name and text is None else str(tmp_path / (name or "bad.yaml"))
    if text is not None:
        Path(path).write_text(text)
    run("plan", "-f", path)
    assert run.status == 2
    assert run.out == ""
    assert run.err.count("\n") == 1
    assert run.err.startswith(f"kubectl mpslice: {path}:")
    assert complaint in run.err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("kind: Pod".encode("utf-16-le"), "is UTF-16 without a byte order mark; save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "is compressed (gzip); unpack it first"),
        (b"PK\x03\x04", "is compressed (zip); unpack it first"),
        (b"kind: P\xf6d", "is not UTF-8 text (byte 7); save it as UTF-8"),
        (b"\x7fELF\x00\x00\xff" + b"x" * 90, "is a binary file; give YAML or JSON"),
    ],
    ids=["UTF-16", "gzip", "zip", "Latin-1", "a program"],
)
def test_bytes_that_are_no_text_are_named(
    run: Run, tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    run("plan", "-f", path)
    assert run.status == 2
    assert run.err == f"kubectl mpslice: {path}: {complaint}\n"


@pytest.mark.parametrize(
    "spec", ["&a [*a]", "&a {limits: *a, b: [*a]}"], ids=["in a list", "in a map"]
)
def test_alias_that_stands_in_itself_is_refused(run: Run, tmp_path: Path, spec: str) -> None:
    path = tmp_path / "circle.yaml"
    path.write_text(f"kind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n")
    run("plan", "-f", path)
    assert run.err == f"kubectl mpslice: {path}:1: has aliases that stand for too much\n"


def test_aliases_that_multiply_are_refused_in_no_time(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "laughs.yaml"
    nine = (", ".join([f"*a{n - 1}"] * 9) for n in range(1, 30))
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{each}]" for n, each in enumerate(nine, start=1))]
    path.write_text("kind: Pod\nmetadata: {name: p}\n" + "\n".join(lines))
    run("plan", "-f", path)
    assert "has aliases that stand for too much" in run.err


def test_aliases_are_read_as_kubectl_reads_them(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "alias.yaml"
    path.write_text(
        yaml.safe_dump(node()) + "---\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n"
        "  - &c {name: a, image: x, resources: {limits: {nvidia.com/gpu-10gb: 1}}}\n"
        "  - {<<: *c, name: b}\n"
    )
    run("plan", "-f", path)
    assert "2 x 10gb on n1 GPU 0" in run.out


@settings(max_examples=200, deadline=None)
@hypothesis.given(text=texts)
def test_any_text_at_all_gets_an_answer(text: str) -> None:
    """Reading raises UnusableInput, of one line, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        said = ""
        try:
            read_manifests([str(path)])
        except UnusableInput as error:
            said = str(error)
        assert "\n" not in said


def test_empty_folder_is_named(run: Run, tmp_path: Path) -> None:
    run("plan", "-f", tmp_path)
    assert run.err == f"kubectl mpslice: {tmp_path}: no .yaml, .yml or .json file in this folder\n"


def test_negative_count_of_a_workload_is_named_with_its_line(run: Run, given: Given) -> None:
    path = given(workload("Deployment", "web", 10, replicas=-2))
    run("plan", "-f", path)
    assert run.status == 2
    assert run.err.startswith(
        f"kubectl mpslice: {path}:7: Deployment team/web: spec.replicas is -2"
    )


def test_bad_flags_are_one_line(run: Run, given: Given) -> None:
    file = given(node(), pod("p", 10))
    for flag, value, complaint in (
        ("--gpu", "gpu=a100", "is not SELECTOR=COUNTxMEMORY; write for example"),
        ("--gpu", "a=b=2x40960", "is not SELECTOR=COUNTxMEMORY"),
        ("--gpu", "a=b=0x40960MiB", "names 0x40960MiB; write 1 to 1024 GPUs"),
        ("--gpu", "a b=2x40960MiB", "is not a label selector; put a comma between its terms"),
        ("--assume-label", "a=b)", "is not a label selector"),
        ("--add-node", "n1=none", "is not NODE or NODE=COUNT with a count from 1 to 10000"),
        ("--output", "xml", "is not one of table, wide, json, yaml, name"),
    ):
        run("plan", "-f", file, flag, value)
        assert run.status == 2
        assert run.err.count("\n") == 1
        assert complaint in run.err
    run("plan", "-f", file, "--add-node", "n9")
    assert run.err == (
        "kubectl mpslice: --add-node: no node n9 in the input; name one that is (n1)\n"
    )


ODD: list[tuple[Any, Any]] = [
    (("spec",), 5),
    (("spec", "containers"), "x"),
    (("spec", "containers", 0), None),
    (("spec", "containers", 0, "name"), 5),
    (("spec", "containers", 0, "resources"), 5),
    (("spec", "containers", 0, "resources", "limits"), "x"),
    (("spec", "containers", 0, "resources", "limits"), {5: 6}),
    (("spec", "containers", 0, "ports"), [{"hostPort": "80"}]),
    (("spec", "initContainers"), 5),
    (("spec", "initContainers"), [[]]),
    (("spec", "nodeSelector"), {"a": 1}),
    (("spec", "nodeName"), ["n1"]),
    (("spec", "tolerations"), ["all"]),
    (("spec", "affinity"), {"nodeAffinity": []}),
    (("spec", "schedulingGates"), [{"name": 1}]),
    (("spec", "priority"), True),
    (("metadata", "labels"), 5),
    (("metadata", "ownerReferences"), [5]),
    (("status",), 5),
    (("status",), {"phase": []}),
]


@pytest.mark.parametrize(("path", "value"), ODD)
def test_field_of_another_kind_is_named_with_what_to_write(
    run: Run, given: Any, path: Any, value: Any
) -> None:
    odd: Any = pod("p", 10)
    place = odd
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    run("plan", "-f", given(node(), odd))
    assert run.status == 2, run.out
    assert run.err.count("\n") == 1
    assert "Pod p: " in run.err
    assert "; write a" in run.err or "is missing" in run.err or "has no name" in run.err


def test_negative_slice_count_is_named_with_its_field(run: Run, given: Any) -> None:
    bad = pod("p", 10)
    bad["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu-10gb"] = -1
    run("plan", "-f", given(node(), bad))
    assert run.status == 2
    assert (
        "Pod p: spec.containers[0].resources.limits.nvidia.com/gpu-10gb is -1; "
        "write a quantity of 0 or more"
    ) in run.err


def test_missing_flag_is_one_line(run: Run) -> None:
    run("plan")
    assert run.status == 2
    assert run.err.startswith("kubectl mpslice: plan: give -f FILE, --live, or both")
    assert run.err.count("\n") == 1
