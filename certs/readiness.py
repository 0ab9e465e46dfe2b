"""Whether the API server would trust us: a handshake with ourselves against every caBundle it has.

Apart from the manager, because a certificate that others keep in files is proved the same way.
Only a webhook that fails closed takes readiness away: one that fails open lets requests pass
without us, which would be no reason to refuse those of the others.
"""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from typing import Final, NoReturn

from certs.errors import NotTrusted
from certs.injection import Hook, Target, read_hooks
from certs.probe import handshake
from mpslice.kube.api import Kube
from mpslice.kube.errors import KubeError

_POLL: Final = 10.0  # seconds
_SOON: Final = 1.0  # seconds, while we are not trusted

log = logging.getLogger(__name__)


class Trust:
    """`run` keeps looking; `not_ready` says why the API server would not trust us, "" if it would.

    While the API server is away, its caBundles are taken to be what they were.
    """

    def __init__(
        self, kube: Kube, targets: Sequence[Target], name: str, serving: ssl.SSLContext
    ) -> None:
        self._kube = kube
        self._targets = targets
        self._name = name
        self._serving = serving
        self._hooks: tuple[Hook, ...] = ()
        self._reason = "no handshake with ourselves has been made yet"
        self._told = ""
        self._woken = asyncio.Event()

    def not_ready(self) -> str:
        """For /readyz; it asks nobody."""
        return self._reason

    def wake(self) -> None:
        """A certificate or a caBundle changed: look again now."""
        self._woken.set()

    async def run(self) -> NoReturn:
        """Looks whenever it is woken, and every few seconds, until cancelled."""
        while True:
            self._woken.clear()
            before, self._reason = self._reason, await self._look()
            if self._reason and self._reason != before:
                log.warning("the API server would not trust us", extra={"reason": self._reason})
            elif before and not self._reason:
                log.info("the API server trusts us")
            try:
                async with asyncio.timeout(_SOON if self._reason else _POLL):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _look(self) -> str:
        try:
            self._hooks = await read_hooks(self._kube, self._targets)
        except KubeError as error:
            if not self._hooks:
                return f"the webhook configurations cannot be read: {error}"
        if not self._hooks:
            names = ", ".join(str(target) for target in self._targets)
            return f"there is none of the webhook configurations {names}"
        refusals = {hook: self._refusal(hook) for hook in self._hooks}
        closed = [text for hook, text in refusals.items() if hook.fails_closed]
        opened = [text for hook, text in refusals.items() if not hook.fails_closed]
        self._tell_of(opened)
        if closed:
            return next(filter(None, closed), "")
        # Where all fail open, a single one that trusts us is reason enough to serve it.
        return opened[0] if all(opened) else ""

    def _refusal(self, hook: Hook) -> str:
        try:
            handshake(self._serving, self._name, hook.bundle)
        except NotTrusted as error:
            return f"{hook.target}: {error}"
        return ""

    def _tell_of(self, refusals: Sequence[str]) -> None:
        told = next(filter(None, refusals), "")
        if told and told != self._told:
            log.warning(
                "a webhook that fails open would not trust us; it is passed over until it does",
                extra={"reason": told},
            )
        self._told = told
