"""The rules that a slice pod has to keep, one function each, sorted into modules by subject.

A rule reads a `Pod` and yields a violation for each container that breaks it; it knows nothing of
requests, patches or enforcement. RULES and ADVICE say in which order they are tried and told.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Final

from webhook.pods import Pod
from webhook.rules.devices import claims_beside_a_slice, cuda_devices_chosen, no_whole_gpu
from webhook.rules.environment import environment_untouched
from webhook.rules.facts import Advice, Facts, Rule
from webhook.rules.ipc import host_ipc, no_user_namespace
from webhook.rules.mounts import host_sockets_unreachable, mounts_untouched
from webhook.rules.placement import bound_already, held_by_an_init_container
from webhook.rules.platform import (
    host_processes,
    runs_on_linux,
    sandboxed,
    sysctls_go_with_host_ipc,
    within_bounds,
)
from webhook.rules.privileges import no_escalation, privileged_debugging
from webhook.rules.quota import gb_as_counted
from webhook.rules.slices import (
    api_would_refuse,
    fits_a_gpu,
    one_slice_a_container,
    size_allowed,
    well_formed,
)
from webhook.rules.spread import spread_is_known
from webhook.rules.users import mps_user, root_allowed
from webhook.settings import PrivilegeEscalation, Settings, TooLarge
from webhook.verdicts import Reason, Remark, Violation

RULES: Final[tuple[Rule, ...]] = (
    one_slice_a_container,
    well_formed,
    size_allowed,
    gb_as_counted,
    no_user_namespace,
    host_ipc,
    mps_user,
    root_allowed,
    no_escalation,
    within_bounds,
    runs_on_linux,
    sysctls_go_with_host_ipc,
    spread_is_known,
    no_whole_gpu,
    environment_untouched,
    mounts_untouched,
    host_sockets_unreachable,
    fits_a_gpu,
)
"""In the order of their reason codes (`webhook.verdicts.Reason`)."""

EARLY: Final[tuple[Rule, ...]] = (
    api_would_refuse,
    no_user_namespace,
    within_bounds,
    runs_on_linux,
    sysctls_go_with_host_ipc,
)
"""What the API server would answer before /validate is asked, and less clearly."""

ADVICE: Final[tuple[Advice, ...]] = (
    privileged_debugging,
    claims_beside_a_slice,
    cuda_devices_chosen,
    host_processes,
    sandboxed,
    bound_already,
    held_by_an_init_container,
)


def violations(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """Every violation, in the order of RULES."""
    return chain.from_iterable([rule(pod, facts) for rule in RULES])


def early_violations(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """The violations for which /mutate refuses a pod."""
    for rule in EARLY:
        yield from rule(pod, facts)


def remarks(pod: Pod, facts: Facts) -> Iterator[Remark]:
    """What is allowed and yet worth a warning."""
    for advice in ADVICE:
        yield from advice(pod, facts)


def is_advice(found: Remark, settings: Settings) -> bool:
    """Whether a finding is a warning by itself, whatever the enforcement."""
    if not isinstance(found, Violation):
        return True
    if found.reason is Reason.SLICE_TOO_LARGE:
        return settings.too_large is TooLarge.WARN
    if found.reason is Reason.PRIVILEGE_ESCALATION:
        return settings.privilege_escalation is PrivilegeEscalation.WARN
    return False
