"""Keeps the Secret, the caBundles and the served certificate in step with `rotation`.

Every replica runs one. They agree because a write carries the resourceVersion that was read, and
because each looks again whenever the Secret or a configuration changes.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from certs.clocks import NEVER, SharedTime, last_written
from certs.errors import BrokenSecret, CannotManage, ForeignSecret, UnusableCertificate
from certs.injection import Hook, Sightings, Target, adoptable, inject, read_hooks, targets
from certs.issue import facts, is_issued_by, load_bundle
from certs.readiness import Trust
from certs.rotation import Step, Terms, next_date, next_step, take
from certs.serving import HotSwap
from certs.state import KEYS, State, decode, encode
from certs.watching import watches
from mpslice.errors import MpsliceError
from mpslice.kube.api import SECRETS, Json, Kube, PatchType
from mpslice.kube.errors import ApiError, Conflict, KubeError, NotFound, Unreachable
from mpslice.kube.reflector import Backoff

_POLL: Final = 60.0  # seconds; for what no watch reports, and for the clock
_LABEL: Final = "app.kubernetes.io/managed-by"
_OURS: Final = "mpslice"
_SOONEST: Final = 0.1  # seconds; what is due and cannot be done must not spin
_MOST_STEPS: Final = 8  # in one go; more would mean that replicas undo each other's steps
_UNREST: Final = 5.0  # seconds until the next look then
_TRUCE: Final = 1 / 2160  # of a leaf's life; of 90 days an hour

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """Where everything is, and how long things last.

    `propagation` is how long, in seconds, every caBundle has to have held a CA before it signs: the
    time that API servers other than the one we read from may lag behind. `patience` is how long, in
    seconds, an API server that does not answer, or refuses us, is waited for at the start.
    """

    namespace: str
    service_name: str
    secret_name: str
    cluster_domain: str
    mutating_configurations: tuple[str, ...]
    validating_configurations: tuple[str, ...]
    authority_life: timedelta = timedelta(days=5 * 365)
    leaf_life: timedelta = timedelta(days=90)
    propagation: float = 30.0
    patience: float = 10.0

    @property
    def terms(self) -> Terms:
        """The names that API servers call the Service by, and the lives of certificates."""
        name = f"{self.service_name}.{self.namespace}.svc"
        names = (name, f"{name}.{self.cluster_domain}")
        return Terms(names, self.authority_life, self.leaf_life)

    @property
    def targets(self) -> tuple[Target, ...]:
        return targets(self.mutating_configurations, self.validating_configurations)


@dataclass(frozen=True, slots=True)
class _Record:
    """The Secret as read: its version ("" when there is none yet), its state when it has one.

    `written` is when the API server wrote it last.
    """

    version: str
    state: State | None
    written: datetime


class CertificateManager:
    """`run` keeps everything in step; `not_ready` is for /readyz, "" when we are trusted.

    `started` is set once the first look has succeeded, and `run` can no longer raise.
    """

    def __init__(
        self,
        kube: Kube,
        settings: ManagerSettings,
        hot_swap: HotSwap,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.started = asyncio.Event()
        self._kube = kube
        self._settings = settings
        self._terms = settings.terms
        self._targets = settings.targets
        self._hot_swap = hot_swap
        self._clock = clock
        self._time = SharedTime(clock, settings.leaf_life * _TRUCE)
        self._trust = Trust(kube, self._targets, self._terms.names[0], hot_swap.context)
        self._woken = asyncio.Event()
        self._last_good: State | None = None
        self._sightings = Sightings()

    def not_ready(self) -> str:
        """Why the API server would not trust us, "" if it would."""
        return self._trust.not_ready()

    async def run(self) -> None:
        """Runs until cancelled. Raises CannotManage when the first look fails, and never later."""
        await self._start()
        self.started.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._trust.run())
            for watch in watches(
                self._kube,
                self._settings.namespace,
                self._settings.secret_name,
                self._targets,
                self._wake,
            ):
                tasks.create_task(watch)

    async def _start(self) -> None:
        loop, backoff = asyncio.get_running_loop(), Backoff(longest=2.0)
        deadline = loop.time() + self._settings.patience
        while True:
            try:
                await self._advance()
            except (KubeError, ForeignSecret, UnusableCertificate) as error:
                if _is_passing(error) and loop.time() < deadline:
                    await asyncio.sleep(backoff.delay())
                    continue
                raise CannotManage(
                    f"cannot keep the certificate in the Secret {self._settings.namespace}/"
                    f"{self._settings.secret_name}: {error}{_remedy(error)}"
                ) from error
            return

    def _wake(self) -> None:
        self._woken.set()
        self._trust.wake()

    async def _follow(self) -> NoReturn:
        backoff = Backoff()
        while True:
            self._woken.clear()
            try:
                pause = await self._advance()
                backoff.reset()
            except (KubeError, ForeignSecret, UnusableCertificate) as error:
                log.warning("certificates could not be looked after", extra={"error": str(error)})
                # Not cut short by a change: what fails again at once must not spin.
                await asyncio.sleep(backoff.delay())
                continue
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _advance(self) -> float:
        """Takes every step that is due; answers in how many seconds to look again at the latest."""
        for _ in range(_MOST_STEPS):
            # The configurations first: a bundle from this Secret, or a later one, is then never
            # written over a bundle from a later Secret still.
            hooks = await read_hooks(self._kube, self._targets)
            record = await self._read()
            self._sightings.note(hooks, asyncio.get_running_loop().time())
            now = self._time.now(record.state, record.written)
            wait = self._until_spread(record.state)
            step = next_step(record.state, now, self._terms, spread=wait == 0)
            if step is None and self._strays(record, hooks):
                step = Step.ADOPT
            if step is not None:
                await self._write(record, self._after(step, record, hooks, now), step)
                continue
            if record.state is not None:
                wait = min(wait, self._use(record.state, hooks) or _POLL)
                if not await self._inject(hooks, record.state):
                    return min(_POLL, wait, _until_due(record.state, now))
        log.warning("the certificate does not come to rest", extra={"looks": _MOST_STEPS})
        return _UNREST

    def _until_spread(self, state: State | None) -> float:
        """Seconds until the upcoming CA may sign; infinity while some caBundle lacks it."""
        if state is None or state.upcoming is None:
            return float("inf")
        return self._until_trusted(state.upcoming.certificate)

    def _until_trusted(self, authority: bytes) -> float:
        since = self._sightings.since(authority)
        now = asyncio.get_running_loop().time()
        return max(0.0, since + self._settings.propagation - now)

    def _after(self, step: Step, record: _Record, hooks: tuple[Hook, ...], now: datetime) -> State:
        good = self._last_good
        if record.state is None and good and facts(good.authority.certificate).lives(now):
            return good  # the Secret was lost or spoilt, but we know what it said
        if step is Step.ADOPT:  # by our own time, as what we serve is alive by it
            strays = self._strays(record, hooks)
            return take(step, record.state, self._clock(), self._terms, strays)
        return take(step, record.state, now, self._terms, adoptable(hooks, now))

    def _strays(self, record: _Record, hooks: tuple[Hook, ...]) -> tuple[bytes, ...]:
        """The CA of the living leaf in service, where the Secret does not trust it."""
        leaf = self._living_leaf()
        if leaf is None or record.state is None:
            return ()
        bundles = [hook.bundle for hook in hooks]
        if self._last_good is not None:
            bundles.append(self._last_good.bundle)
        known = frozenset[Certificate]().union(*map(load_bundle, bundles))
        lost = known - load_bundle(record.state.bundle)
        return tuple(ca.public_bytes(Encoding.PEM) for ca in lost if is_issued_by(leaf, ca))

    def _use(self, state: State, hooks: tuple[Hook, ...]) -> float:
        """Serves the state's leaf; answers in how many seconds, 0 when it does."""
        self._last_good = state
        if state.leaf is None:
            return 0
        wait = self._until_trusted(state.authority.certificate)
        if wait and self._serves_well(hooks):
            return wait  # other replicas started over: our leaf is trusted, theirs is not yet
        if self._hot_swap.serve(state.leaf):
            self._trust.wake()
            log.info("serving the certificate", extra={"expires": self._hot_swap.expires})
        return 0

    def _serves_well(self, hooks: tuple[Hook, ...]) -> bool:
        """Whether what is served is alive and trusted by every caBundle."""
        leaf = self._living_leaf()
        return leaf is not None and all(hook.accepts(leaf) for hook in hooks)

    def _living_leaf(self) -> bytes | None:
        """The certificate in service, unless it has expired."""
        pair, ends = self._hot_swap.pair, self._hot_swap.expires
        if pair is None or ends is None or ends <= self._clock():
            return None
        return pair.certificate

    async def _read(self) -> _Record:
        try:
            secret = await self._kube.read(
                SECRETS, self._settings.secret_name, namespace=self._settings.namespace
            )
        except NotFound:
            return _Record("", None, NEVER)
        data = secret.get("data") or {}
        try:
            state = decode(data)
        except BrokenSecret as error:
            if data:
                log.warning("the Secret holds no certificates of ours", extra={"error": str(error)})
            state = None
        if data and not self._is_ours(secret, state):
            raise ForeignSecret(
                f"it holds somebody else's data, for it has no label {_LABEL}={_OURS}; "
                "choose another name with --tls-secret, or delete it"
            )
        version = str(secret["metadata"]["resourceVersion"])
        return _Record(version, state, last_written(secret))

    def _is_ours(self, secret: Json, state: State | None) -> bool:
        """By its label or, where that was lost, by a leaf for our Service."""
        labelled = (secret["metadata"].get("labels") or {}).get(_LABEL) == _OURS
        if labelled or state is None or state.leaf is None:
            return labelled
        return self._terms.names[0] in facts(state.leaf.certificate).names

    async def _write(self, record: _Record, state: State, step: Step) -> None:
        name, namespace = self._settings.secret_name, self._settings.namespace
        data = encode(state)
        try:
            if record.version:
                body = {
                    "metadata": {"resourceVersion": record.version, "labels": {_LABEL: _OURS}},
                    "data": {key: data.get(key) for key in KEYS},
                }
                await self._kube.patch(
                    SECRETS, name, body, type=PatchType.MERGE, namespace=namespace
                )
            else:
                await self._kube.create(SECRETS, _secret(name, data), namespace=namespace)
        except Conflict:  # another replica was first; its state is as good
            return
        self._time.issued(state)
        log.info("wrote the Secret", extra={"secret": name, "reason": str(step)})

    async def _inject(self, hooks: tuple[Hook, ...], state: State) -> bool:
        try:
            written = await inject(self._kube, hooks, state.bundle)
        except Conflict:  # somebody else was first: look again
            return True
        for target in written:
            log.info("wrote the caBundle", extra={"configuration": str(target)})
        return bool(written)


def _until_due(state: State, now: datetime) -> float:
    return max(_SOONEST, (next_date(state) - now).total_seconds())


def _secret(name: str, data: Json) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {_LABEL: _OURS}},
        "type": "Opaque",
        "data": data,
    }


def _is_passing(error: MpsliceError) -> bool:
    """Whether the same request may succeed in a moment.

    An API server that has just started refuses everybody until it has read accounts and roles.
    """
    if isinstance(error, ApiError):
        return error.status in (401, 403, 429) or error.status >= 500
    return isinstance(error, Unreachable)


def _remedy(error: MpsliceError) -> str:
    if isinstance(error, ForeignSecret):
        return ""
    if isinstance(error, UnusableCertificate):
        return "; set this machine's clock, or delete the Secret: it is made anew"
    if isinstance(error, ApiError) and error.status == 422:
        return "; delete the Secret if it is immutable, it is made anew"
    if isinstance(error, ApiError) and error.status in (401, 403):
        return (
            "; grant the service account get, create and patch on that Secret and get and patch on "
            "the webhook configurations, or give --tls-cert-file and --tls-private-key-file"
        )
    return "; check that the API server can be reached and that the namespace exists"
