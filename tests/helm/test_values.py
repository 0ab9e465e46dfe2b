"""The chart's values: commented, held by the schema, and each one a flag that the program knows."""

import argparse
import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import nodeagent.main
import nodeagent.mps.main
import planner.main
import webhook.main
from hack.cluster.parts import Parts
from mpslice.flags import Address, FlagParser
from mpslice.gpus import GpuUuid
from nodeagent.mps.paths import LONGEST_SOCKET, UUID_LENGTH, MpsRoot
from nodeagent.settings import SOCKET_PATH_BYTES
from tests.chart import CHART, render
from tests.waiting import DEADLINE

Json = dict[str, Any]

PROGRAMS = {
    "webhook": webhook.main.flags,
    "planner": planner.main.flags,
    "nodeagent": nodeagent.main.parser,
    "mps": nodeagent.mps.main.parser,
}
NEVER_SET = {
    "--help": "a person's",
    "--version": "a person's",
    "--kubeconfig": "pods have an account",
    "--standalone": "there is a cluster",
    "--leader-elect": "there are two planners",
    "--node-name": "MPSLICE_NODE_NAME, from the pod's own spec",
}
SIMULATED = "--set=simulatedGPUs[0].uuid=GPU-1,simulatedGPUs[0].memoryMiB=81920"
OTHER_MODES = (
    "--set=tls.mode=secret,driverRoot=/run/nvidia/driver",
    "--set=mps.hostIPC=false,mps.shmSize=8Gi,mps.computeMode=keep,mps.onFault=report",
    "--set=nodeAgent.cdi=false",
    "--set=mps.podRuntimeClassName=nvidia,admission.allowedSizes={10gb},nodeAgent.ignoredXids={63,64}",
    "--set=webhook.clientCA=-----BEGIN CERTIFICATE-----,webhook.clientNames={kube-apiserver}",
    "--set=planner.ui.enabled=true,quota.enabled=true",
)


def container(documents: list[Json], name: str) -> Json:
    """The one container of that name among the workloads."""
    (found,) = [
        each
        for document in documents
        if document["kind"] in ("Deployment", "DaemonSet")
        for each in document["spec"]["template"]["spec"]["containers"]
        if each["name"] == name
    ]
    return dict(found)


def parsed(documents: list[Json], program: str) -> argparse.Namespace:
    """What the program makes of the flags that the chart gives it."""
    parser = PROGRAMS[program]()
    return parser.parse(container(documents, program)["args"], {})


def flags_of(parser: FlagParser) -> set[str]:
    return {o for action in parser._actions for o in action.option_strings if o.startswith("--")}


def leaves(values: Json, path: str = "") -> Iterator[str]:
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if (
            isinstance(value, dict)
            and value
            and key not in ("resources", "labels", "podAnnotations")
        ):
            yield from leaves(value, here)
        else:
            yield here


def schema_leaves(schema: Json, definitions: Json, path: str = "") -> Iterator[str]:
    for key, value in schema["properties"].items():
        here = f"{path}.{key}" if path else key
        value = definitions.get(value.get("$ref", "").removeprefix("#/$defs/"), value)
        if "properties" in value and key != "issuerRef":
            yield from schema_leaves(value, definitions, here)
        else:
            yield here


def test_lint_has_nothing_to_say(cluster_parts: Parts) -> None:
    command = [str(cluster_parts.helm), "lint", "--strict", str(CHART)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout


def test_schema_knows_each_value_and_no_other() -> None:
    values = set(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema_leaves(schema, schema["$defs"])) - {"global"} == values


def test_every_value_has_a_comment_of_its_own() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        key = re.match(r"^( *)([A-Za-z]+):(.*)$", line)
        if key is None or (not key[3] and not before.strip().startswith("#")):
            continue  # a line within a value, or a group whose members have comments
        if key[2] in ("requests", "limits", "type", "rollingUpdate"):
            continue  # Kubernetes' own fields, below a value that has one
        assert before.strip().startswith("#"), f"no comment above {line.strip()!r}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mps.userID=abc", "at '/mps/userID': got string, want integer"),
        ("mps.userID=-5", "at '/mps/userID': minimum: got -5, want 0"),
        ("planner.batchIdle=-1", "at '/planner/batchIdle': got number, want string"),
        ("planner.batchIdle=-1s", "at '/planner/batchIdle': '-1s' does not match pattern"),
        ("tls.mode=magic", "at '/tls/mode': value must be one of 'self-managed', 'cert-manager'"),
        ("mps.memoryUnit=MB", "at '/mps/memoryUnit': value must be one of 'GB', 'GiB'"),
        ("mps.reservedMemory=some", "at '/mps/reservedMemory': 'some' does not match pattern"),
        ("quota.enabled=maybe", "at '/quota/enabled': got string, want boolean"),
        ("admission.allowedSizes={10GB}", "at '/admission/allowedSizes/0': '10GB' does not match"),
        ("webhook.securePort=443", "at '/webhook/securePort': minimum: got 443, want 1,024"),
        ("webhook.repicas=3", "at '/webhook': additional properties 'repicas' not allowed"),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
        ("nodeLabel.key=not a label", "at '/nodeLabel/key': 'not a label' does not match pattern"),
        ("mps.maxSlicesPerGPU=60", "at '/mps/maxSlicesPerGPU': maximum: got 60, want 48"),
        ("tls.certLifetime=0s", "at '/tls/certLifetime': '0s' does not match pattern"),
        ("tls.certLifetime=1s", "at '/tls/certLifetime': '1s' does not match pattern"),
        ("tls.secretName=Bad_Name", "at '/tls/secretName': 'Bad_Name' does not match pattern"),
        ("tls.issuerRef.kind=Issuer", "at '/tls/issuerRef': "),
        (f"nodeAgent.mpsRoot=/{'x' * 42}", "at '/nodeAgent/mpsRoot': maxLength: got 43, want 42"),
        (
            "nodeAgent.updateStrategy.rollingUpdate.maxUnavailable=0",
            "at '/nodeAgent/updateStrategy/rollingUpdate/maxUnavailable': minimum: got 0, want 1",
        ),
        ("commonLabels.app\\.kubernetes\\.io/name=x", "at '/commonLabels/app."),
        ("jobs.ttlSecondsAfterFinished=0", "at '/jobs/ttlSecondsAfterFinished': minimum"),
        ("mps.podRuntimeClassName=N", "at '/mps/podRuntimeClassName'"),
        (
            "planner.serviceAccount.name=mpslice-webhook",
            "webhook.serviceAccount.name and planner.serviceAccount.name are both mpslice-webhook",
        ),
        ("webhook.opsPort=8443", "webhook.securePort and webhook.opsPort are both 8443"),
        (
            "planner.ui.enabled=true,planner.ui.port=8080",
            "planner.ui.port and planner.opsPort are both 8080",
        ),
        (
            "webhook.timeoutSeconds=20",
            "webhook.shutdownDelay (10s) and webhook.timeoutSeconds (20)",
        ),
        ("webhook.timeoutSeconds=0", "at '/webhook/timeoutSeconds': minimum: got 0, want 1"),
        ("webhook.timeoutSeconds=31", "at '/webhook/timeoutSeconds': maximum: got 31, want 30"),
        (
            "admission.privilegeEscalation=allow",
            "at '/admission/privilegeEscalation': value must be one of 'warn', 'deny'",
        ),
        (
            "admission.excludedNamespaces={Kube}",
            "at '/admission/excludedNamespaces/0': 'Kube' does not match pattern",
        ),
        (
            "admission.matchConditions[0].name=mentions-a-slice",
            "at '/admission/matchConditions/0': missing property 'expression'",
        ),
        ("mps.podRuntimeClassName=a b", "at '/mps/podRuntimeClassName': 'a b' does not match"),
        (
            "webhook.shutdownDelay=25s",
            "make it more than webhook.shutdownDelay (25s) and webhook.timeoutSeconds (5)",
        ),
        ("webhook.clientCA=ca.crt", "at '/webhook/clientCA': 'ca.crt' does not match pattern"),
        ("webhook.clientNames={a}", "webhook.clientNames needs webhook.clientCA"),
    ],
)
def test_bad_value_is_refused_by_its_name(cluster_parts: Parts, value: str, message: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(cluster_parts.helm, f"--set={value}")
    assert message in refused.value.stderr


@pytest.mark.parametrize(
    "value",
    [
        "runtimeClassName=1",
        "webhook.priorityClassName=yes",
        "planner.serviceAccount.name=1000",
        "tls.secretName=12.5",
        'nodeAgent.mpsRoot=/run/"mpslice',
    ],
)
def test_text_that_yaml_or_cel_would_read_as_something_else_is_refused(
    cluster_parts: Parts, value: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(cluster_parts.helm, f"--set-string={value}")
    assert f"at '/{value.partition('=')[0].replace('.', '/')}'" in refused.value.stderr


@pytest.mark.parametrize(
    "lifetime",
    [
        *("4s", "5s", "99s", "0h4s", "0m5s", "0h", "10s", "1m", "1h30m", "2160h", "0.5h", "-5s"),
        *("874999h", "876000h", "876001h", "900000h", "9999999h", "5", "h", ""),
    ],
)
def test_schema_takes_no_lifetime_that_the_program_refuses(lifetime: str) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["$defs"]["lifetime"]
    matches = bool(re.search(schema["pattern"], lifetime)) and any(
        re.search(each["pattern"], lifetime) for each in schema["anyOf"]
    )
    try:
        webhook.main.flags().parse([f"--tls-cert-lifetime={lifetime}"], {})
    except SystemExit:
        assert not matches
    else:
        # The schema knows whole numbers alone.
        assert matches or "." in lifetime


def test_longest_mps_root_leaves_room_for_its_sockets() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    bounds = schema["properties"]["nodeAgent"]["properties"]["mpsRoot"]["allOf"]
    longest = Path("/" + "x" * (bounds[1]["maxLength"] - 1))
    pipe = MpsRoot(longest).pipe(GpuUuid("G" * UUID_LENGTH))
    assert len(bytes(pipe / LONGEST_SOCKET)) == SOCKET_PATH_BYTES


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_of_a_program_is_set_by_the_chart(cluster_parts: Parts, program: str) -> None:
    modes = [(), OTHER_MODES] + ([(SIMULATED,)] if program == "nodeagent" else [])
    given = {
        argument.partition("=")[0]
        for mode in modes
        for argument in container(render(cluster_parts.helm, *mode), program)["args"]
    }
    known = flags_of(PROGRAMS[program]())
    assert given <= known
    assert known - given - set(NEVER_SET) == set()


def test_simulated_gpus_need_no_mps_daemons(cluster_parts: Parts) -> None:
    documents = render(cluster_parts.helm, SIMULATED)
    assert "mpslice-mps" not in {document["metadata"]["name"] for document in documents}
    agent = container(documents, "nodeagent")
    assert "--simulated-gpus=/etc/mpslice/gpus/gpus.yaml" in agent["args"]


def daemon_set(documents: list[Json], name: str) -> Json:
    (found,) = [
        document["spec"]
        for document in documents
        if (document["kind"], document["metadata"]["name"]) == ("DaemonSet", name)
    ]
    return dict(found)


@pytest.mark.parametrize(
    ("value", "runtime", "mounted"),
    [
        ("runtimeClassName=", None, False),
        ("runtimeClassName=nvidia", "nvidia", False),
        ("driverRoot=/run/nvidia/driver", None, True),
    ],
)
def test_agents_and_daemons_get_the_driver(
    cluster_parts: Parts, value: str, runtime: str | None, mounted: bool
) -> None:
    documents = render(cluster_parts.helm, f"--set={value}")
    for name in ("nodeagent", "mps"):
        pod = daemon_set(documents, f"mpslice-{name}")["template"]["spec"]
        (main,) = pod["containers"]
        assert pod.get("runtimeClassName") == runtime
        assert bool(main["securityContext"].get("privileged")) == (mounted or name == "mps")
        variables = {each["name"]: each.get("value") for each in main.get("env", [])}
        assert variables.get("NVIDIA_VISIBLE_DEVICES") == (None if mounted else "all")
        assert ("driver-root" in {each["name"] for each in main["volumeMounts"]}) == mounted


def test_an_upgrade_never_ends_an_mps_daemon(cluster_parts: Parts) -> None:
    daemons = daemon_set(render(cluster_parts.helm), "mpslice-mps")
    assert daemons["updateStrategy"] == {"type": "OnDelete"}
    pod = daemons["template"]["spec"]
    assert pod["tolerations"] == [{"operator": "Exists"}]
    (main,) = pod["containers"]
    assert "limits" not in main["resources"]
    assert not {"livenessProbe", "readinessProbe", "startupProbe"} & set(main)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("values", [(), OTHER_MODES], ids=["default", "other-modes"])
def test_flags_are_such_as_the_program_takes(
    cluster_parts: Parts, program: str, values: tuple[str, ...]
) -> None:
    assert parsed(render(cluster_parts.helm, *values), program)


def test_defaults_of_chart_and_programs_are_the_same(cluster_parts: Parts) -> None:
    """But that pods listen on the addresses of both IP families, and that the chart writes all."""
    documents = render(cluster_parts.helm)
    for program, parser in PROGRAMS.items():
        ours, theirs = vars(parsed(documents, program)), vars(parser().parse([], {}))
        del ours["given"]
        for name in ("listen", "ops_listen"):
            if name in theirs:
                theirs[name] = Address("::", theirs[name].port)
        assert {k: v for k, v in ours.items() if v != theirs[k]} == {}


def test_values_reach_the_programs(cluster_parts: Parts) -> None:
    documents = render(
        cluster_parts.helm,
        "--set=mps.userID=2000,mps.hostIPC=false,mps.compute=proportional,mps.memoryUnit=GiB",
        "--set=mps.reservedMemory=1Gi,mps.maxSlicesPerGPU=10,mps.pipe=sealed",
        "--set=planner.batchIdle=1s,planner.batchMax=5s,planner.gate=false",
        "--set=admission.enforcement=warn,admission.devShm=strip,admission.tooLarge=deny",
        "--set=nodeLabel.key=example.org/gpu,nodeLabel.value=shared,logLevel=debug",
        "--set=webhook.clientCA=-----BEGIN CERTIFICATE-----,webhook.clientNames={a b,c}",
        "--set=planner.logLevel=error,webhook.extraArgs={--shutdown-delay=1s}",
    )
    webhook_, planner_, agent, mps = (parsed(documents, name) for name in PROGRAMS)
    assert (webhook_.mps_user, agent.mps_user, mps.mps_user) == (2000, 2000, 2000)
    assert (webhook_.host_ipc, agent.host_ipc, mps.host_ipc) == (False, False, False)
    assert (webhook_.compute, agent.compute) == ("proportional", "proportional")
    assert (webhook_.gate, planner_.gate) == (False, False)
    assert (webhook_.enforcement, webhook_.dev_shm, webhook_.too_large) == ("warn", "strip", "deny")
    assert agent.pipe == "sealed"
    assert (agent.memory_unit, agent.reserved_memory) == ("GiB", 1024)
    assert planner_.memory_unit == "GiB"
    assert (planner_.batch_idle, planner_.batch_max) == (1.0, 5.0)
    assert planner_.node_label == ("example.org/gpu", "shared")
    assert planner_.max_slices_per_gpu == 10
    assert [p.log_level for p in (webhook_, planner_, agent)] == ["debug", "error", "debug"]
    assert webhook_.shutdown_delay == 1.0
    assert webhook_.client_names == ("a b", "c")
