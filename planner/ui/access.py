"""Who may read the page: the API server says whose token it is, and what its owner may do.

Answers are kept for a short time, under a digest of the token, so that an open page costs the API
server a few requests a minute and a token that was revoked or has expired stops working soon.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from mpslice.kube.api import Json, Kube, Resource
from mpslice.kube.errors import KubeError
from planner.writes.bucket import TokenBucket

T = TypeVar("T")

TOKEN_REVIEWS: Final = Resource("authentication.k8s.io/v1", "tokenreviews")
ACCESS_REVIEWS: Final = Resource("authorization.k8s.io/v1", "subjectaccessreviews")

KEPT: Final = 30.0
"""Seconds for which an answer that admits is kept."""

REFUSED: Final = 10.0
"""Seconds for which a refusal is kept; a user who is then given the right waits that long."""

MOST_NAMESPACES: Final = 100
"""Namespaces that one reader is asked about; of those beyond, no waiting pod is shown."""

KNOWN: Final = 2048
"""Answers of each kind that are kept at most."""

_RATE: Final = (
    20.0  # questions a second to the API server, which the planner shares with its writes
)
_BURST: Final = 200
_DEADLINE: Final = 5.0  # seconds for one question
_AT_ONCE: Final = 4
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,8000}", re.ASCII)  # b68token of RFC 6750

log = logging.getLogger(__name__)


class Busy(Exception):
    """Too many questions for the API server, or it does not answer."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The owner of a token, in the terms of a UserInfo."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Right:
    """What is to be read: `get` or `list` of a resource, in one namespace or, with "", in all."""

    verb: str
    group: str
    resource: str
    namespace: str = ""


READ_LAYOUTS: Final = Right("get", "mpslice.io", "nodelayouts")


def list_pods(namespace: str) -> Right:
    """The right that shows a waiting pod of the namespace."""
    return Right("list", "", "pods", namespace)


class Reviews(Protocol):
    """The API server's judgement. Raises a KubeError where there is none."""

    async def owner(self, token: str) -> Reader | None:
        """Returns the owner of a token; None if it is expired, revoked, foreign or malformed."""
        ...

    async def may(self, reader: Reader, right: Right) -> bool: ...


@dataclass(frozen=True, slots=True)
class ApiReviews:
    """The real judgement: TokenReview and SubjectAccessReview."""

    kube: Kube

    async def owner(self, token: str) -> Reader | None:
        status = await self._ask(TOKEN_REVIEWS, "TokenReview", {"token": token})
        user = status.get("user") or {}
        if status.get("authenticated") is not True or not user.get("username"):
            return None
        return Reader(
            name=str(user["username"]),
            uid=str(user.get("uid") or ""),
            groups=tuple(user.get("groups") or ()),
            extra={key: tuple(values) for key, values in (user.get("extra") or {}).items()},
        )

    async def may(self, reader: Reader, right: Right) -> bool:
        spec = {
            "user": reader.name,
            "uid": reader.uid,
            "groups": list(reader.groups),
            "extra": {key: list(values) for key, values in reader.extra.items()},
            "resourceAttributes": {
                "verb": right.verb,
                "group": right.group,
                "resource": right.resource,
                "namespace": right.namespace,
            },
        }
        status = await self._ask(ACCESS_REVIEWS, "SubjectAccessReview", spec)
        return status.get("allowed") is True

    async def _ask(self, resource: Resource, kind: str, spec: Json) -> Json:
        body = {"apiVersion": resource.api_version, "kind": kind, "metadata": {}, "spec": spec}
        answer = await self.kube.create(resource, body)
        status = answer.get("status")
        return status if isinstance(status, dict) else {}


@dataclass(frozen=True, slots=True)
class Answer:
    """200 with the reader, 401 for a token without an owner, 403 for a reader without the right."""

    status: int
    reader: Reader | None = None


class Access:
    """Asks `reviews` and keeps the answers. `clock` in seconds, monotonic."""

    def __init__(self, reviews: Reviews, clock: Callable[[], float] = time.monotonic) -> None:
        self._reviews = reviews
        self._clock = clock
        self._owners: _Kept[Reader | None] = _Kept(clock)
        self._rights: _Kept[bool] = _Kept(clock)
        self._bucket = TokenBucket(_RATE, _BURST)
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def admit(self, token: str) -> Answer:
        """Whether the owner of the token may see the page; raises Busy."""
        if _TOKEN.fullmatch(token) is None:
            return Answer(401)
        digest = hashlib.sha256(token.encode()).digest()
        reader = await self._known(self._owners, digest, lambda: self._reviews.owner(token))
        if reader is None:
            return Answer(401)
        if not await self._may(reader, READ_LAYOUTS):
            return Answer(403)
        return Answer(200, reader)

    async def visible(self, reader: Reader, namespaces: Iterable[str]) -> frozenset[str]:
        """Returns the namespaces in which the reader may list pods, of those asked about so far."""
        wanted, seen = sorted(namespaces), set()
        try:
            if not wanted or await self._may(reader, list_pods("")):
                return frozenset(wanted)
            for name in wanted[:MOST_NAMESPACES]:
                if await self._may(reader, list_pods(name)):
                    seen.add(name)
        except Busy as error:
            log.info("not all rights are known yet", extra={"error": str(error)})
        return frozenset(seen)

    async def _may(self, reader: Reader, right: Right) -> bool:
        return await self._known(
            self._rights, (reader, right), lambda: self._reviews.may(reader, right)
        )

    async def _known(self, kept: "_Kept[T]", key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        found = kept.find(key)
        if found is not None:
            return found.value
        async with self._places:
            found = kept.find(key)  # another one may have asked meanwhile
            if found is not None:
                return found.value
            if self._bucket.take(self._clock()) > 0:
                raise Busy("too many questions a second for the API server")
            try:
                async with asyncio.timeout(_DEADLINE):
                    value = await ask()
            except (KubeError, TimeoutError) as error:
                raise Busy(str(error) or "the API server does not answer") from error
            kept.add(key, value)
            return value


@dataclass(frozen=True, slots=True)
class _Found(Generic[T]):
    value: T
    until: float


@dataclass(slots=True)
class _Kept(Generic[T]):
    """Keeps a bounded number of answers for a bounded time; negative answers for a shorter one."""

    clock: Callable[[], float]
    _answers: "OrderedDict[Hashable, _Found[T]]" = field(default_factory=OrderedDict)

    def find(self, key: Hashable) -> _Found[T] | None:
        found = self._answers.get(key)
        return found if found is not None and self.clock() < found.until else None

    def add(self, key: Hashable, value: T) -> None:
        self._answers[key] = _Found(value, self.clock() + (KEPT if value else REFUSED))
        self._answers.move_to_end(key)
        while len(self._answers) > KNOWN:
            self._answers.popitem(last=False)
