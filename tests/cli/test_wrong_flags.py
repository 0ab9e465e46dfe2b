"""Words and flags that are wrong end with one line: which, what is wrong with it, what to write."""

import pytest

from tests.cli.conftest import Given
from tests.cli.plan.given import Run, node, pod

NAMES = "names have lowercase letters, digits, - and ."
WRONG = {
    "plan -f p.yaml --filename": "--filename needs a value",
    "plan p.yaml": "unexpected argument 'p.yaml'; give files with -f",
    "plan -f p.yaml --asume-label=a=b": "unknown flag --asume-label; did you mean --assume-label?",
    "plan -f p.yaml --output json yaml": "unexpected argument 'yaml'; give files with -f",
    "plan -f p.yaml -o": "--output needs a value",
    "plan -f p.yaml --live=yes": "--live takes no value",
    "plan -f p.yaml --max-slices-per-gpu=0": (
        "--max-slices-per-gpu: '0' is not a whole number above 0"
    ),
    "plan -f p.yaml --max-slices-per-gpu=49": (
        "--max-slices-per-gpu: '49' is more than the 48 clients that MPS serves"
    ),
    "plan -f p.yaml --mps-user=root": (
        "--mps-user: 'root' is not a numeric user id; write for example 1000"
    ),
    "plan -f p.yaml --memory-unit=MB": "--memory-unit: 'MB' is not one of GB, GiB",
    "plan -f p.yaml --node-label=mps": "--node-label: 'mps' is not a label; write KEY=VALUE",
    "plan -f p.yaml --namespace=Team_A": f"--namespace: 'Team_A' is not a valid name; {NAMES}",
    "plan -f p.yaml --assume-empty=maybe": "--assume-empty: 'maybe' is neither true nor false",
    "plan -f p.yaml --add-node =2": (
        "--add-node: '=2' is not NODE or NODE=COUNT with a count from 1 to 10000"
    ),
    "status pod": "unexpected argument 'pod'",
    "status --watch=5": "--watch takes no value",
    "status -o yaml": "--output: 'yaml' is not one of table, wide, json",
    "status --name-space a": "unknown flag --name-space; did you mean --namespace?",
    "why": "NAME|KIND/NAME is missing",
    "why a b": "unexpected argument 'b'",
    "why a --output=yaml": "--output: 'yaml' is not one of table, wide, json",
    "why a --node-label=x": "--node-label: 'x' is not a label; write KEY=VALUE",
    "top --by=node": "--by: 'node' is not one of pod, workload, namespace",
    "top --by": "--by needs a value",
    "top --prometheus=localhost:9090": (
        "--prometheus: 'localhost:9090' is not a URL; write for example http://localhost:9090"
    ),
    "top --prometheus=ftp://a": (
        "--prometheus: 'ftp://a' is not a URL; write for example http://localhost:9090"
    ),
    "top --window 1.5h": "--window: '1.5h' is not a duration; write for example 24h or 7d",
    "top --agents-namespace=A": f"--agents-namespace: 'A' is not a valid name; {NAMES}",
    "holders --node": "--node needs a value",
    "check --size=10": "--size: '10' is not the size of a slice; write for example 10gb",
    "check --enforcement=no": "--enforcement: 'no' is not one of deny, warn",
    "ungate --dry-run=maybe": "--dry-run takes no value",
    "version --short": "unknown flag --short",
    "completion bash": "unexpected argument 'bash'",
}


@pytest.mark.parametrize("typed", WRONG)
def test_wrong_word_or_flag_of_a_command_is_one_line(run: Run, typed: str) -> None:
    run(*typed.split())
    name = f"kubectl mpslice {typed.split(maxsplit=1)[0]}"
    assert (run.status, run.out) == (2, "")
    assert run.err == f"{name}: {WRONG[typed]}; see {name} --help\n"


COMMANDS = (
    *("plan", "status", "why", "top", "node-template", "holders", "ungate"),
    *("kueue-config", "check", "completion", "version"),
)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("statsu", "unknown command 'statsu'; did you mean status?"),
        ("plna", "unknown command 'plna'; did you mean plan?"),
        ("help", f"unknown command 'help'; write one of {', '.join(COMMANDS)}"),
        ("-v", f"COMMAND is missing; write one of {', '.join(COMMANDS)}"),
        ("", f"COMMAND is missing; write one of {', '.join(COMMANDS)}"),
    ],
)
def test_wrong_command_is_one_line(run: Run, typed: str, said: str) -> None:
    run(*typed.split())
    assert (run.status, run.out) == (2, "")
    assert run.err == f"kubectl mpslice: {said}; see kubectl mpslice --help\n"


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--context", "prod"), ("--kubeconfig", "k"), ("--as", "jane"), ("--as-group", "devs")],
)
def test_flag_about_a_cluster_that_is_not_read_is_warned_of(
    run: Run, given: Given, flag: str, value: str
) -> None:
    run("plan", "-f", given(node(), pod("p", 10)), flag, value)
    assert run.status == 0
    said = f"{flag} changes nothing: without --live no cluster is read"
    assert run.err == f"kubectl mpslice: {said}\n"


def test_groups_without_a_user_are_refused(run: Run) -> None:
    run("status", "--as-group", "devs")
    assert run.status == 2
    assert run.err == "kubectl mpslice: --as-group needs --as; say whose groups they are\n"
