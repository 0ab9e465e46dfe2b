"""The HTML file, and headers that restrict it to what it needs."""

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

_BLOCK: Final = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)

EVERYWHERE: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """The file as it is sent, and its Content-Security-Policy.

    The policy allows the file's own style and script by their hashes, and requests to the page's
    own origin. Text never becomes markup: the browser refuses that (Trusted Types).
    """

    body: bytes
    policy: str


def load() -> Page:
    """Reads the file that is part of this package."""
    body = resources.files("planner.ui").joinpath("page.html").read_bytes()
    hashes: dict[str, list[str]] = {"style": [], "script": []}
    for kind, text in _BLOCK.findall(body.decode()):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src {' '.join(hashes['style'])}",
            f"script-src {' '.join(hashes['script'])}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    return Page(body, policy)
