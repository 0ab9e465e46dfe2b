"""The real `Kube`: kubernetes-asyncio's ApiClient for configuration, credentials and TLS.

Its own watch and model layers are not used: no deadlines, 410 retried at the same version, 780 µs
an event. What is added here is a deadline on every call and errors in our terms.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.http_exceptions import LineTooLong

from mpslice import __version__
from mpslice.kube.api import PODS, Json, PatchType, Query, Resource
from mpslice.kube.client import ApiClient, ConfigException
from mpslice.kube.credentials import Credentials
from mpslice.kube.errors import (
    ApiError,
    BadCredentials,
    Cut,
    Gone,
    KubeError,
    TooLarge,
    Unreachable,
    from_status,
)

_CONNECT: Final = 5.0  # seconds
_IDLE: Final = 75.0
"""Seconds that an idle connection is kept, 15 by default: the pod that comes next would wait for a
handshake. The API server ends it after 90 (apiserver/pkg/server/secure_serving.go, IdleTimeout)."""

_REQUEST: Final = 15.0  # seconds for a whole request but a list
_LIST: Final = 60.0
_WATCH_ANSWER = 15.0  # seconds until a watch is at least accepted
_WATCH_QUIET = 150.0  # the server sends a bookmark a minute (storage/cacher, bookmarkFrequency)
_WATCH_SLACK: Final = 15.0  # on top of the timeoutSeconds that the server was asked for
_WATCH_DEFAULT: Final = 300.0

_LONGEST: Final = 12 * 2**20
"""Bytes of a watch event or of an answer that are taken into memory. An object may have 1.5 MiB in
etcd, and the API server writes `<`, `>` and `&` as six bytes each. Decoded, a page may take 30
times as much (dicts of one short key), and an agent has 512 MiB."""

_DEEPEST: Final = 100
"""Levels of JSON that are read when there are too many for Python. We look at some twenty; the
creator of a pod may nest its `managedFields` 10,000 deep."""

_BRACKET: Final = re.compile(
    rb'(?:[^][{}"]++|\{\}|\[\]|"(?:[^"\\]++|\\.)*+"?)*+([][{}]|\Z)', re.DOTALL
)
"""What comes before the next bracket, pairs with nothing between them included, and the bracket.
Nothing is tried twice (`+` after a quantifier), so the time is linear for any text."""


class Session:
    """A connection pool to one API server; close it, or use it as an async context manager."""

    def __init__(self, client: ApiClient, credentials: Credentials | None = None) -> None:
        self._client = client
        self._credentials = credentials or Credentials(client.configuration)

    @property
    def namespace(self) -> str:
        """The namespace of the kubeconfig's context, `default` where it names none."""
        return self._credentials.namespace

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return str(self._client.configuration.host)

    @classmethod
    async def connect(
        cls,
        component: str,
        kubeconfig: str | None = None,
        *,
        context: str = "",
        user: str = "",
        groups: Sequence[str] = (),
    ) -> "Session":
        """A session with the in-cluster credentials, or those of kubeconfig files.

        `context` is one of the kubeconfig's. `user` and `groups` are impersonated (kubectl's --as
        and --as-group). Raises BadCredentials, saying what to do. Nothing is sent yet.
        """
        credentials = await Credentials.load(kubeconfig, context)
        configuration = credentials.configuration
        # Our own test clusters' CAs are strict, other people's may lack an AKI.
        configuration.disable_strict_ssl_verification = True
        try:
            configuration.proxy = configuration.proxy or _proxy_from_environment(
                configuration.host or ""
            )
            client = ApiClient(configuration)
        except (OSError, ValueError, TypeError) as error:
            raise credentials.unusable(error) from error
        client.user_agent = f"mpslice-{component}/{__version__}"
        named = [("Impersonate-User", user)] if user else []
        _exchange_session(client, [*named, *(("Impersonate-Group", each) for each in groups)])
        return cls(client, credentials)

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.close()

    async def read(self, resource: Resource, name: str, *, namespace: str | None = None) -> Json:
        return await self._request("GET", resource.path(name, namespace=namespace))

    async def list_page(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> Json:
        path = resource.path(namespace=namespace)
        while True:
            try:
                return await self._request("GET", path, query=query, deadline=_LIST)
            except TooLarge:
                limit = int(query.get("limit") or 0)
                if limit <= 1:
                    raise
                query = {**query, "limit": str(limit // 2)}

    async def proxied_text(self, namespace: str, pod: str, port: int, path: str) -> str:
        """What a pod answers to a GET that the API server passes on to it; any text.

        Raises a KubeError, also for what the pod refuses.
        """
        target = PODS.path(f"{pod}:{port}", namespace=namespace, subresource="proxy")
        what = f"GET {target}{path}"
        await self._credentials.renew()
        timeout = aiohttp.ClientTimeout(total=_REQUEST, sock_connect=_CONNECT)
        try:
            response = await self._send(
                "GET", f"{target}{path}", None, None, "text/plain", timeout, accept="*/*"
            )
            async with response:
                text = await response.text()
                if response.status >= 400:
                    raise self._refusal(response, _decode(text.encode()), what)
                return text
        except KubeError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(f"{what}: {_describe(error)}") from error

    async def create(
        self, resource: Resource, body: Json, *, namespace: str | None = None, dry_run: bool = False
    ) -> Json:
        """In dry run the API server answers what it would have made, and makes nothing."""
        query = {"dryRun": "All"} if dry_run else None
        return await self._request(
            "POST", resource.path(namespace=namespace), body=body, query=query
        )

    async def replace(
        self, resource: Resource, name: str, body: Json, *, namespace: str | None = None
    ) -> Json:
        return await self._request("PUT", resource.path(name, namespace=namespace), body=body)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Json | Sequence[Json],
        *,
        type: PatchType,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        path = resource.path(name, namespace=namespace, subresource=subresource)
        return await self._request("PATCH", path, body=body, content_type=type)

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        grace_seconds: int | None = None,
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        path = resource.path(name, namespace=namespace)
        given = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in given.items() if value}
        options: Json = {
            **({} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}),
            **({"preconditions": preconditions} if preconditions else {}),
        }
        await self._request("DELETE", path, body=options or None)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Json | Sequence[Json] | None = None,
        content_type: str = "application/json",
        deadline: float = _REQUEST,
    ) -> Json:
        what = f"{method} {path}"
        await self._credentials.renew()
        timeout = aiohttp.ClientTimeout(total=deadline, sock_connect=_CONNECT)
        try:
            response = await self._send(method, path, query, body, content_type, timeout)
            async with response:
                payload = _decode(await _body(response, what))
                if response.status >= 400 or payload is None:
                    raise self._refusal(response, payload, what)
                return payload
        except KubeError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{what}: {_describe(error)}") from error

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        path = resource.path(namespace=namespace)
        what = f"WATCH {path}"
        await self._credentials.renew()
        silence = float(query.get("timeoutSeconds") or _WATCH_DEFAULT) + _WATCH_SLACK
        timeout = aiohttp.ClientTimeout(
            total=silence, sock_connect=_CONNECT, sock_read=_WATCH_QUIET
        )
        watching = {**query, "watch": "true"}
        try:
            async with asyncio.timeout(_WATCH_ANSWER):
                response = await self._send(
                    "GET", path, watching, None, "application/json", timeout
                )
            async with response:
                if response.status >= 400:
                    raise self._refusal(response, _decode(await response.read()), what)
                try:
                    async for line in response.content:
                        yield _watch_event(line, what)
                except TimeoutError:
                    raise  # here nothing was heard for too long
                except (aiohttp.ClientError, OSError) as error:
                    raise Cut(f"{what}: {_describe(error)}") from error
                finally:
                    _abort(response)
        except KubeError:
            raise
        except LineTooLong as error:  # neither a ClientError nor a ValueError
            raise Unreachable(f"{what}: an event of more than {_LONGEST} bytes") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(f"{what}: {_describe(error)}") from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Json | Sequence[Json] | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
        accept: str = "application/json",
    ) -> aiohttp.ClientResponse:
        try:
            # call_api is untyped; without _preload_content it hands out aiohttp's own response.
            response: aiohttp.ClientResponse = await self._client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": accept, "Content-Type": str(content_type)},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout,
            )
        except aiohttp.ClientError:  # one of a URL is a ValueError, too
            raise
        except (ConfigException, ValueError) as error:
            # Of the token: its file is read again every minute, and it has to be one line of text.
            raise BadCredentials(f"{method} {path}: {error}") from error
        return response

    def _refusal(
        self, response: aiohttp.ClientResponse, payload: Json | None, what: str
    ) -> ApiError:
        if response.status == 401:
            self._credentials.refused()
        return from_status(response.status, payload, what=what, retry_after=_retry_after(response))


def _proxy_from_environment(host: str) -> str | None:
    """The proxy that HTTPS_PROXY and NO_PROXY choose for the API server, as for other clients."""
    url = urlsplit(host)
    if proxy_bypass(url.hostname or ""):
        return None
    return getproxies().get(url.scheme)


def _exchange_session(client: ApiClient, headers: Sequence[tuple[str, str]] = ()) -> None:
    """Takes the look into environment and netrc out of every request: two thread hops each.

    `headers` go with every request; one may be there several times. Connections are kept for _IDLE.
    """
    session = client.rest_client.pool_manager
    connector = session.connector
    session.detach()
    if connector is not None:  # the client makes it, and passes no such option on
        connector._keepalive_timeout = _IDLE
    # A line may have twice this, which also is what is buffered for a slow reader. It is a bound:
    # nothing is allocated before it comes.
    client.rest_client.pool_manager = aiohttp.ClientSession(
        connector=connector, read_bufsize=_LONGEST // 2, headers=headers
    )


async def _body(response: aiohttp.ClientResponse, what: str) -> bytes:
    """The whole answer; raises TooLarge as soon as it has more than _LONGEST bytes."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > _LONGEST:
            _abort(response)
            raise TooLarge(f"{what}: an answer of more than {_LONGEST} bytes")
        parts.append(part)
    return b"".join(parts)


def _abort(response: aiohttp.ClientResponse) -> None:
    """Drops a stream that has more to say, without waiting for the other side to agree."""
    connection = response.connection  # None once the stream has come to its end
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


def _watch_event(line: bytes, what: str) -> Json:
    if not line.endswith(b"\n"):
        raise Unreachable(f"{what}: the stream was cut in the middle of an event")
    event = _decode(line)
    if event is None or "type" not in event:
        raise Unreachable(f"{what}: the stream carries something that is not a watch event")
    if event["type"] == "ERROR":
        error = from_status(0, event.get("object"), what=what)
        raise error if error.status != 0 else Gone(str(error), status=410)
    return event


def _decode(data: bytes) -> Json | None:
    try:
        try:
            value = json.loads(data)
        except RecursionError:
            value = json.loads(_without_depths(data))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _without_depths(data: bytes) -> bytes:
    """The same JSON, in which what has more than _DEEPEST levels above it is empty."""
    kept: list[bytes] = []
    depth, begun = 0, 0
    for found in _BRACKET.finditer(data):
        bracket = found[1]
        if bracket in (b"{", b"["):
            depth += 1
            if depth == _DEEPEST + 1:
                kept.append(data[begun : found.end()])
        elif bracket:
            if depth == _DEEPEST + 1:
                begun = found.start(1)
            depth -= 1
    return b"".join([*kept, data[begun:]])


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
