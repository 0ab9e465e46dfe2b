"""One random life of a cluster: the planner's real decisions, carried out in logical time."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from mpslice.slices import SliceSize
from planner.decide import decide
from planner.gate.leaving import Leaving
from planner.model.constraints import Constraints, Resources
from planner.model.nodes import Node
from planner.model.plan import Placement
from planner.model.pods import GATE, Pod, SliceClaim
from planner.progress.machine import Progress, Refused
from planner.state.absence import Absences
from planner.view import Decision, View
from planner.writes.actions import Evict, Inform, Nominate, Ungate, WriteSpec
from planner.writes.setbacks import SPARED
from tests.planner.lives.scheduler import Scheduler
from tests.planner.lives.world import LABEL, START, World, a_world

SIZES = (5, 10, 10, 20, 20, 33, 40, 60, 80)
_ROUNDS = 60  # of deciding at one moment: far more than ever needed


@dataclass(frozen=True, slots=True)
class Kind:
    """What goes on in a life, besides pods that come and end."""

    steps: int = 7
    broken: bool = False  # pods with claims that do not exist, volumes of one zone
    faults: bool = False  # agents that hang, refuse, are away
    denied: bool = False  # gates that another admission plugin keeps
    held: bool = False  # pods with other people's gates
    clears: bool = False  # as Scheduler's
    restarts: bool = False  # the planner forgets all at any moment
    calm: float = 0.5  # the share of long steps
    preemption: bool = False
    spread: bool = False  # many groups, most of them to be spread over GPUs


@dataclass(slots=True)
class Planner:
    """What the controller remembers between decisions."""

    planned: Mapping[str, Placement] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)
    leaving: Leaving = field(default_factory=Leaving)
    nodes: dict[str, Node] = field(default_factory=dict)
    refused: dict[str, Refused] = field(default_factory=dict)
    freed: dict[str, object] = field(default_factory=dict)
    absences: Absences = field(default_factory=Absences)
    spared: dict[str, datetime] = field(default_factory=dict)
    preemption: bool = False

    def view(self, world: World) -> View:
        layouts = {name: agent.layout() for name, agent in world.agents.items()}
        nodes = world.seen_nodes()
        for node in nodes:
            self.leaving.changed(self.nodes.get(node.name), node, world.now, ())
            self.nodes[node.name] = node
        return View(
            nodes,
            layouts,
            tuple(world.pods.values()),
            LABEL,
            away=self.absences.watch(nodes, layouts, world.now),
            now=world.wall,
            planned=self.planned,
            progress=self.progress,
            leaving=self.leaving.seen_still(world.now, ()),
            refused=dict(self.refused),
            freed=dict(self.freed),  # type: ignore[arg-type]  # moments
            preemption=self.preemption,
            budgets=world.budgets(),
            spared=dict(self.spared),
        )

    def dues(self, world: World) -> list[float]:
        """When to decide again though nothing happens, besides what the decision says."""
        dues = self.absences.due(), self.leaving.due(world.now, ())
        return [due for due in dues if due is not None]


def _quietly(_text: str) -> None:
    pass


def told(action: object) -> str:
    """An action in a line."""
    facts = getattr(action, "facts", {})
    return " ".join(f"{key}={value}" for key, value in facts.items())


class Life:
    """A seed's life. `problems` are broken invariants, `seen` counts what was covered."""

    def __init__(
        self,
        seed: int,
        kind: Kind,
        judge: Callable[["Life", Decision], None],
        world: World | None = None,
    ) -> None:
        self.dice = random.Random(seed)
        self.kind = kind
        self.world: World = world or a_world(self.dice)
        self.planner = Planner(preemption=kind.preemption)
        self.scheduler = Scheduler(self.world, self.dice, self._objects, clears=kind.clears)
        self.problems: list[str] = []
        self.seen: Counter[str] = Counter()
        self.writes = 0
        self.tell: Callable[[str], None] = _quietly
        self.decision = Decision()
        self._judge = judge
        self.evictions: list[tuple[Pod, Pod]] = []  # since the last judgement: whom, and for whom
        self._count = 0
        self.mended = False
        self._face: object = None  # of the world when it was last decided upon

    def run(self) -> None:
        """All of it, and the calm at its end."""
        for _ in range(self.kind.steps):
            self._happen()
            self.pass_time(
                self.dice.choice(
                    (1, 5, 20, 60, 300) if self.dice.random() < self.kind.calm else (0.01, 0.5, 2)
                )
            )
            if self.problems:
                return
        self._mend()
        self.pass_time(24 * 3600.0)  # every pod that waits may have its reservation once
        before = self.writes
        self.pass_time(3600.0)
        if self.writes > before:
            self.problem(f"{self.writes - before} writes in half an hour in which nothing happened")

    def problem(self, text: str) -> None:
        self.problems.append(f"at {self.world.now:.2f} s: {text}")

    def pass_time(self, seconds: float) -> None:
        """Lets everything happen that is due in that time, one moment after the other."""
        end = self.world.now + seconds
        while True:
            self._settle()
            if self.problems:
                return
            dues = [self.world.events[0][0]] if self.world.events else []
            if self.decision.due is not None:
                dues.append((self.decision.due - START).total_seconds())
            dues += self.planner.dues(self.world)
            due = min((max(at, self.world.now + 0.001) for at in dues), default=end)
            if due >= end:
                self.world.advance(end)
                self._settle()
                return
            self.world.advance(due)

    def _settle(self) -> None:
        """Planner and scheduler, in either order, until neither does anything more."""
        for _ in range(_ROUNDS):
            if self.dice.random() < 0.5:
                moved = self.scheduler.turn() | self._plan()
            else:
                moved = self._plan() | self.scheduler.turn()
            if self.problems or not moved:
                break
        else:
            names = [type(action).__name__ for action in self.decision.actions]
            self.problem(f"still deciding after {_ROUNDS} rounds: {names[:4]}")
        if not self.problems:
            self._judge(self, self.decision)

    def _plan(self) -> bool:
        if self.kind.restarts and self.dice.random() < 0.05:
            self.planner, self._face = Planner(preemption=self.kind.preemption), None
            self.seen["restarts"] += 1
        planner = self.planner
        due = self.decision.due
        face = self.world.face()
        is_due = (due is not None and due <= self.world.wall) or any(
            at <= self.world.now for at in planner.dues(self.world)
        )
        if face == self._face and not is_due:
            return False
        self._face = face
        decision = self.decision = decide(planner.view(self.world))
        self._note_phases(planner.progress, decision.progress)
        planner.planned, planner.progress = decision.planned, decision.progress
        for name, problem in decision.overdue.items():
            planner.absences.overdue(name, problem, self.world.now)
            self.seen["carves overdue"] += 1
        self.seen["decisions"] += 1
        for action in decision.actions:
            self._perform(action)
        return bool(decision.actions)

    def _note_phases(self, old: Mapping[str, Progress], new: Mapping[str, Progress]) -> None:
        for uid, progress in new.items():
            before = old.get(uid)
            if before is None or before.phase is not progress.phase:
                self.seen[f"{before.phase if before else 'new'} -> {progress.phase}"] += 1

    def _perform(self, action: object) -> None:
        world = self.world
        self.tell(f"{world.now:9.2f}  {told(action)}")
        self.writes += 1
        match action:
            case WriteSpec(layout=layout, spec=spec):
                world.agents[layout.name].write(spec)
                world.work(layout.name)
            case Nominate(pod=pod, node=node, note=note):
                pod = world.pods[pod.key]
                world.put(replace(pod, nominated=node, progress=note))
                world.version += bool(pod.nominated)
            case Ungate(pod=pod):
                if self.kind.denied and pod.name.endswith("d") and not self.mended:
                    before = self.planner.refused.get(pod.uid)
                    self.planner.refused[pod.uid] = Refused(
                        before.count + 1 if before else 1, "denied"
                    )
                    world.touched += 1  # the writer asks for another decision
                    return
                world.put(replace(world.pods[pod.key], gates=()))
            case Inform(pod=pod, note=note, available=available):
                pod = world.pods[pod.key]
                pod = replace(pod, available=available or pod.available)
                world.put(replace(pod, progress=pod.progress if note is None else note))
                self.seen["informed"] += 1
            case Evict(pod=pod, by=by):
                self._evict(pod.key, by)
            case _:
                self.problem(f"an action that is not expected: {action}")

    def _evict(self, key: str, by: Pod) -> None:
        """The Eviction API; whoever made the pod makes it anew at once."""
        world, pod = self.world, self.world.pods[key]
        self.evictions.append((pod, by))
        if world.forbids(pod) or self.dice.random() < 0.05:
            self.seen["evictions refused"] += 1
            self.planner.spared[pod.uid] = world.wall + SPARED
            world.touched += 1  # the controller asks for another decision
            return
        self.seen["evictions"] += 1
        world.end_soon(key)
        if self.dice.random() < 0.7:
            self._count += 1
            name = f"r{self._count:03}"
            gates = (GATE,)
            world.add(
                replace(
                    pod,
                    name=name,
                    uid=name,
                    node="",
                    gates=gates,
                    nominated="",
                    progress="",
                    available=None,
                    unschedulable="",
                    terminating=False,
                )
            )

    def _objects(self, pod: Pod, node: str) -> str:
        if self.mended:
            return ""
        if pod.name.endswith("x") and not node:
            return f'persistentvolumeclaim "{pod.name}" not found'
        if pod.name.endswith("z") and node and self.world.nodes[node].labels["zone"] == "a":
            return "node(s) had volume node affinity conflict"
        return ""

    def _happen(self) -> None:
        """Something of what people, jobs and machines do."""
        dice, world = self.dice, self.world
        for _ in range(dice.randint(0, 3)):
            self._create()
        running = [pod for pod in world.pods.values() if pod.node]
        for pod in running:
            if dice.random() < 0.25:
                world.at(dice.random(), lambda key=pod.key: world.end(key))  # type: ignore[misc]
        if self.kind.faults and dice.random() < 0.4:
            self._break(dice.choice(list(world.agents)))
        for pod in list(world.pods.values()):
            if len(pod.gates) > 1 and dice.random() < 0.3:
                world.put(replace(pod, gates=(GATE,)))
                self.planner.freed[pod.uid] = world.wall

    def _break(self, name: str) -> None:
        agent, dice = self.world.agents[name], self.dice
        agent.fault = dice.choice(("hung", "refusing", "away", "", ""))
        agent.delay = dice.choice((0.03, 0.03, 5.0, 50.0))
        self.seen[f"agent {agent.fault or 'slow'}"] += 1
        self.world.at(dice.choice((3.0, 40.0, 200.0, 900.0)), lambda: self._repair(name))

    def _repair(self, name: str) -> None:
        agent = self.world.agents[name]
        agent.fault, agent.delay = "", 0.03
        self.world.work(name)

    def _mend(self) -> None:
        """Nothing is wrong any more: claims are there, policies are gone, agents work."""
        self.mended = True
        self.world.version += 1
        for name in self.world.agents:
            self._repair(name)

    def _create(self) -> None:
        dice = self.dice
        self._count += 1
        name = f"p{self._count:03}" + self._suffix()
        sizes = [dice.choice(SIZES)]
        if dice.random() < 0.12:
            sizes = [dice.choice((5, 10, 20)) for _ in range(2)]
        options: dict[str, object] = {}
        if dice.random() < 0.25:
            options["priority"] = dice.choice((0, 5, 5))
        if self.kind.preemption:
            options |= {
                "priority": dice.choice((0, 0, 0, 3, 5, 9)),
                "preempts": dice.random() < 0.9,
                "labels": {"budget": dice.choice(("yes", "no"))},
            }
        if dice.random() < 0.15:
            host = dice.choice(list(self.world.nodes))
            options["constraints"] = Constraints(node_selector=(("host", host),))
        if dice.random() < 0.4:
            options["requests"] = Resources(dice.choice((500, 2_000, 5_000)))
        gates: tuple[str, ...] = (GATE,)
        if dice.random() < 0.1:
            gates = ()
        elif self.kind.held and dice.random() < 0.2:
            gates = (GATE, "example.com/quota")
        if dice.random() < (0.4 if self.kind.spread else 0.12):
            options |= {"group": f"g{self._count}", "min_member": 2}
            members = dice.randint(2, 3)
            if self.kind.spread and dice.random() < 0.8:
                options |= {"spread": True, "min_member": dice.randint(1, members)}
            for k in range(members):
                self.add(f"{name[:4]}g{k}{name[4:]}", sizes, (GATE,), options)
        else:
            self.add(name, sizes, gates, options)

    def _suffix(self) -> str:
        if self.kind.broken and self.dice.random() < 0.15:
            return self.dice.choice("xz")
        if self.kind.denied and self.dice.random() < 0.15:
            return "d"
        return ""

    def add(
        self, name: str, sizes: list[int], gates: tuple[str, ...], options: dict[str, object]
    ) -> None:
        claims = tuple(
            SliceClaim(f"c{seat}", SliceSize(size), seat) for seat, size in enumerate(sizes)
        )
        self.world.add(Pod("default", name, uid=name, claims=claims, gates=gates, **options))  # type: ignore[arg-type]
        self.seen["pods"] += 1
