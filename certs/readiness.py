"""Whether the API server would trust us: a handshake with ourselves against every caBundle it has.

Apart from the manager, because a certificate that others keep in files is proved the same way.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, NoReturn

from certs.errors import NotTrusted
from certs.injection import Hook, Target, read_hooks
from certs.probe import handshake
from mpslice.flags import Address
from mpslice.kube.api import Kube
from mpslice.kube.errors import KubeError

_POLL: Final = 10.0  # seconds
_SOON: Final = 1.0  # seconds, while we are not trusted

log = logging.getLogger(__name__)


class Trust:
    """`run` keeps looking; `not_ready` says why the API server would not trust us, "" if it would.

    While the API server is away, its caBundles are taken to be what they were.
    """

    def __init__(self, kube: Kube, targets: Sequence[Target], name: str, address: Address) -> None:
        self._kube = kube
        self._targets = targets
        self._name = name
        self._address = address
        self._hooks: tuple[Hook, ...] = ()
        self._reason = "no handshake with ourselves has been made yet"
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
        host = self._address.host
        host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)
        for bundle, hook in {hook.bundle: hook for hook in self._hooks}.items():
            try:
                await handshake(host, self._address.port, self._name, bundle)
            except NotTrusted as error:
                return f"{hook.target}: {error}"
        return ""
