"""The table of pods and templates that admission is held to.

Each case says what docs/design/admission.md says of it; the same table goes through the pure policy
and through a real API server.
"""

from typing import Final

from tests.webhook.cases.asking import ASKING
from tests.webhook.cases.case import Case
from tests.webhook.cases.manifests import (
    GB,
    NOS,
    SCRATCH,
    SLICE,
    Manifest,
    adds,
    container,
    env,
    mount,
    pod,
    sysctl,
    user,
    workload,
)
from tests.webhook.cases.passing import PASSING
from tests.webhook.cases.reaching import REACHING
from tests.webhook.cases.running import RUNNING
from tests.webhook.cases.telling import TELLING, TEMPLATES

__all__ = [
    "GB",
    "NOS",
    "PODS",
    "SCRATCH",
    "SLICE",
    "TEMPLATES",
    "Case",
    "Manifest",
    "adds",
    "container",
    "env",
    "mount",
    "pod",
    "sysctl",
    "user",
    "workload",
]

PODS: Final = (*PASSING, *ASKING, *RUNNING, *REACHING, *TELLING)
