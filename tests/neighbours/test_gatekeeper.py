"""Gatekeeper's webhooks beside mpslice's: mutators that add to slice pods and that take from them,
before mpslice and after it, constraints, and many pods."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from hack.cluster import network, programs
from hack.cluster.api import NotAnswered
from hack.cluster.programs import GATE
from hack.cluster.progress import to_stderr
from hack.cluster.waiting import wait_until
from planner.words.condition import AVAILABLE
from tests.neighbours import gatekeeper
from tests.neighbours.gatekeeper import MUTATES, Engine, Json
from tests.neighbours.policies import ADDING, CONTAINERS, LABEL, constraint, mutator
from tests.waiting import DEADLINE
from tests.webhook.cases import SLICE, container, pod
from tests.webhook.cluster import Installation, Replica, called
from tests.webhook.load import Record
from tests.webhook.test_real_scope import LATE

_PODS = "/api/v1/namespaces/default/pods"
_EVENTS = "/api/v1/namespaces/default/events"
_MANY = 200
TAKING = mutator("takes-ipc", "spec.hostIPC", False)
OF_CONTAINERS = mutator("container-user", f"{CONTAINERS}.securityContext.runAsUser", 3000)
OF_PODS = mutator("pod-user", "spec.securityContext.runAsUser", 3000)
SLICING = mutator("slices-pods", f'{CONTAINERS}.resources.limits."{SLICE}"', "1")


@dataclass(frozen=True)
class Way:
    """How Gatekeeper's MutatingWebhookConfiguration is installed."""

    name: str = MUTATES
    reinvocation: str = "Never"

    @property
    def first(self) -> bool:
        """Whether it is called before mpslice's."""
        return self.name < "mpslice-pods"

    def __str__(self) -> str:
        return f"{'before' if self.first else 'after'} ours, {self.reinvocation}"


DEFAULT = Way()
WAYS = (
    *(Way("zz-gatekeeper", reinvocation) for reinvocation in ("Never", "IfNeeded")),
    *(Way(MUTATES, reinvocation) for reinvocation in ("IfNeeded", "Never")),
)
every_way = pytest.mark.parametrize("way", WAYS, indirect=True, ids=str)
as_installed = pytest.mark.parametrize("way", [DEFAULT], indirect=True, ids=str)


@pytest.fixture(scope="module")
def serving(beside: Installation) -> Iterator[Replica]:
    """mpslice's chart and one replica of its webhook."""
    beside.install()
    with beside.serving() as replica:
        yield replica


@pytest.fixture(scope="module")
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture(scope="module")
def engine(
    beside: Installation, serving: Replica, way: Way, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("gatekeeper") / "run"
    with gatekeeper.running(
        beside.plane, folder, name=way.name, reinvocation=way.reinvocation
    ) as program:
        yield Engine(beside)
        assert program.running, program.last_lines()


@every_way
def test_what_mutators_add_to_a_slice_pod_and_what_we_add_are_both_there(engine: Engine) -> None:
    made = engine.changed(pod(), *ADDING)
    assert made["metadata"]["labels"]["team"] == "a"
    spec = made["spec"]
    assert {"key": "gpu"} in spec["tolerations"]
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    (main,) = spec["containers"]
    assert main["env"] == [{"name": "TEAM", "value": "a"}]
    assert main["imagePullPolicy"] == "IfNotPresent"
    assert main["securityContext"] == {
        "capabilities": {"drop": ["ALL"]},
        "runAsUser": 1000,
        "allowPrivilegeEscalation": False,
    }
    is_complete(spec)


def is_complete(spec: Json) -> None:
    assert spec["hostIPC"] is True
    assert spec["schedulingGates"] == [{"name": GATE}]
    assert spec["containers"][0]["resources"] == {"limits": {SLICE: "1"}, "requests": {SLICE: "1"}}
    assert spec["containers"][0]["securityContext"]["runAsUser"] == 1000


@every_way
def test_host_ipc_that_a_mutator_takes_away_is_given_back_unless_it_is_called_last(
    engine: Engine, way: Way
) -> None:
    """Ours is called again once another webhook has changed the pod, the other one only if it wants
    to be."""
    body = pod(hostIPC=True)  # so that there is something to take away before ours is called
    if way == Way("zz-gatekeeper", "IfNeeded"):
        assert "HostIPCRequired: " in (told := engine.refused(body, TAKING))
        assert "or find the admission webhook that takes it away again" in told
    else:
        is_complete(engine.changed(body, TAKING)["spec"])


@every_way
def test_mutator_that_gives_containers_another_user_makes_the_pod_be_refused(
    engine: Engine,
) -> None:
    told = engine.refused(pod(), OF_CONTAINERS)
    assert "RunAsUserMismatch: " in told
    assert "securityContext.runAsUser is 3000, but MPS serves user 1000 only" in told


@every_way
def test_user_that_a_mutator_gives_the_pod_counts_where_the_container_has_none_yet(
    engine: Engine, way: Way
) -> None:
    if way.first:
        told = engine.refused(pod(), OF_PODS)
        assert "RunAsUserMismatch: " in told
        assert "runAsUser is 3000, set by the pod in spec.securityContext" in told
    else:
        spec = engine.changed(pod(), OF_PODS)["spec"]
        assert spec["securityContext"]["runAsUser"] == 3000
        is_complete(spec)


@every_way
def test_slice_that_a_mutator_adds_is_completed_if_it_comes_first_and_else_refused(
    engine: Engine, way: Way
) -> None:
    body = pod(container({}))
    if way.first:
        is_complete(engine.changed(body, SLICING)["spec"])
    else:
        assert engine.refused(body, SLICING).rstrip().endswith(LATE)


_PLAIN = pod(container({}), hostIPC=True)


@as_installed
def test_constraint_on_host_ipc_refuses_slice_pods_in_its_own_words(engine: Engine) -> None:
    told = engine.refused(pod(), constraint(engine.plane, "strict", slices=False))
    assert 'admission webhook "validation.gatekeeper.sh" denied the request: ' in told
    assert "[strict] spec.hostIPC is not allowed" in told


@as_installed
def test_exception_of_a_constraint_is_for_slice_pods_and_for_host_ipc_alone(
    engine: Engine,
) -> None:
    said = "[lenient] spec.hostIPC is not allowed"
    assert said in engine.refused(_PLAIN, constraint(engine.plane, "lenient", slices=True))
    none = pod(container({SLICE: 0}), hostIPC=True)
    assert said in engine.created(none, "lenient")[1]
    told = engine.created(pod(hostPID=True), "lenient")[1]
    assert "[lenient] spec.hostPID is not allowed" in told
    assert said not in told
    made, told = engine.created(pod(), "lenient")
    assert told == ""
    is_complete(made["spec"])


@as_installed
def test_many_slice_pods_pass_mutators_constraint_and_our_webhook(
    engine: Engine, record_property: Record
) -> None:
    engine.refused(_PLAIN, constraint(engine.plane, "adds", slices=True))
    engine.changed(pod(), *ADDING)

    def create(number: int) -> tuple[Json, str]:
        body = called(pod(), f"many-{number}", labels={LABEL: "adds"})
        try:
            return engine.plane.api.request("POST", _PODS, body), ""
        except NotAnswered as error:
            return {}, str(error)

    started = time.monotonic()
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(create, range(_MANY)))
    seconds = time.monotonic() - started
    failed = [told for _, told in answers if told]
    said = f"{_MANY} created in {seconds:.1f} s, {len(failed)} failed"
    record_property("beside Gatekeeper", said)
    to_stderr(said)
    remove(engine, "adds")
    assert failed == []
    for made, _ in answers:
        assert made["metadata"]["labels"]["team"] == "a"
        is_complete(made["spec"])


def remove(engine: Engine, label: str) -> None:
    which = f"--selector={LABEL}={label}"
    engine.plane.kubectl("delete", "pods", which, "--grace-period=0", "--force", "--wait=false")


@as_installed
@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("before", ("spec.hostIPC", False), "HostIPC"),
        ("after", (f"{CONTAINERS}.env[name:TEAM].value", "a"), "Env"),
    ],
    ids=["takes hostIPC away", "made while the pod waits"],
)
def test_mutator_that_changes_pods_on_update_keeps_the_gate_and_the_pod_says_so(
    engine: Engine, name: str, change: tuple[str, object], field: str
) -> None:
    """No node can hold it, so the planner takes the gate away at once where it may."""
    body = pod(hostIPC=True)
    made = f"{name}-pods"

    def stored() -> Json:
        found: Json = engine.plane.api.get(f"{_PODS}/{name}")
        return found

    def condition() -> str:
        conditions = stored()["status"].get("conditions", ())
        return "".join(each["message"] for each in conditions if each["type"] == AVAILABLE)

    def backing_off() -> str:
        events = engine.plane.api.get(_EVENTS)["items"]
        about = (each["message"] for each in events if each["involvedObject"]["name"] == name)
        return "".join(each for each in about if "Backoff" in each)

    if name == "before":
        engine.changed(body, mutator(made, *change))
    engine.plane.api.request("POST", _PODS, called(body, name, labels={LABEL: name}))
    engine.changed(body, mutator(made, *change))
    with planning(engine):
        wait_until(
            lambda: "Backoff" in condition() and backing_off(),
            "it backs off",
            seconds=DEADLINE,
            details=condition,
        )
        for told in (condition(), backing_off()):
            _, _, changes = told.partition("let it leave updates of pods alone. It changes: ")
            assert field in changes
        is_complete(stored()["spec"])
        engine.installation.apply([mutator(made, *change, operations=["CREATE"])])
        wait_until(
            lambda: "schedulingGates" not in stored()["spec"],
            "the planner takes the gate away",
            seconds=DEADLINE,
            details=condition,
        )
        assert stored()["spec"]["hostIPC"] is True
    remove(engine, name)


@contextmanager
def planning(engine: Engine) -> Iterator[None]:
    """While inside, mpslice's planner runs; there is no node that it could plan on."""
    (ops,) = network.free_ports(1)
    planner = programs.program_of(engine.plane, "planner", ops)
    planner.start()
    try:
        yield
    finally:
        planner.stop()
