"""What holds for every pod and every body, found out by generating them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.webhook.cases import Manifest, container, env, pod
from tests.webhook.judging import advise, mutate, read, validate
from tests.webhook.strategies import json_values, pods, reviews
from tests.webhook.test_review import review
from webhook.errors import BadReview
from webhook.mutation import operations
from webhook.offline import apply
from webhook.pods import Pod, read_pod
from webhook.review import answer, judge_mutation, judge_validation, read_review
from webhook.rules import early_violations, is_advice, violations
from webhook.rules.facts import Facts
from webhook.settings import Compute, DevShm, Enforcement, PrivilegeEscalation, Settings, TooLarge
from webhook.verdicts import LONGEST_WARNING, Place, Reason, Verdict
from webhook.workloads import TEMPLATES


def examples(count: int) -> settings:
    """So many of them; a busy machine is no failure."""
    slow = [HealthCheck.too_slow]
    return settings(max_examples=count, deadline=None, suppress_health_check=slow)


some_settings = st.builds(
    Settings,
    mps_user=st.sampled_from([1000, 0]),
    host_ipc=st.booleans(),
    gate=st.booleans(),
    enforcement=st.sampled_from(Enforcement),
    dev_shm=st.sampled_from(DevShm),
    too_large=st.sampled_from(TooLarge),
    compute=st.sampled_from(Compute),
    privilege_escalation=st.sampled_from(PrivilegeEscalation),
    pod_runtime_class_name=st.sampled_from(["", "nvidia"]),
    allowed_sizes=st.sampled_from([frozenset(), frozenset({10})]),
    quota=st.booleans(),
)


@examples(1000)
@given(pods, some_settings)
def test_mutation_is_idempotent(pod: Manifest, given_settings: Settings) -> None:
    """Contract: "idempotent; only `add` operations, but for `devShm: strip`"."""
    first = mutate(pod, given_settings)
    allowed = {"add", "remove"} if given_settings.dev_shm is DevShm.STRIP else {"add"}
    assert {edit["op"] for edit in first.patch} <= allowed
    assert mutate(apply(pod, first), given_settings).patch == ()


@examples(1000)
@given(pods, some_settings)
def test_mutation_never_makes_a_pod_bad(pod: Manifest, given_settings: Settings) -> None:
    """A mutated pod that is refused would be refused unmutated too, for what its user set."""
    after = validate(apply(pod, mutate(pod, _warning(given_settings))), given_settings)
    if after.reason is None:
        return
    assert validate(pod, given_settings).reason is not None
    if after.reason is Reason.HOST_IPC_REQUIRED:
        assert read_pod(read(pod)).spec["hostUsers"] is False
    if after.reason is Reason.RUN_AS_USER_MISMATCH:
        assert "runAsUser is not set" not in after.message
        assert "was not asked about it" not in after.message
    assert "allowPrivilegeEscalation is not set" not in after.message


@examples(1000)
@given(pods, some_settings)
def test_what_mutation_refuses_validation_refuses_for_the_same_reason(
    pod: Manifest, given_settings: Settings
) -> None:
    early = mutate(pod, given_settings)
    if not early.allowed:
        completed = apply(pod, mutate(pod, _warning(given_settings)))
        late = validate(completed, given_settings)
        assert (late.reason, late.allowed) == (early.reason, False)


@examples(1000)
@given(pods, some_settings)
def test_pod_is_judged_ahead_as_it_will_be_stored(pod: Manifest, given_settings: Settings) -> None:
    view = read_pod(read(pod))
    assume(not view.windows)  # refused, and not completed
    stored = apply(pod, Verdict(patch=operations(view, given_settings)))

    def broken(pod: Pod, *, completing: bool) -> list[tuple[Reason, Place]]:
        facts = Facts(given_settings, completing=completing)
        return [(found.reason, found.place) for found in violations(pod, facts)]

    assert broken(view, completing=True) == broken(read_pod(read(stored)), completing=False)


@examples(1000)
@given(pods, some_settings)
def test_pod_that_is_refused_early_breaks_a_rule_when_it_is_complete(
    pod: Manifest, given_settings: Settings
) -> None:
    """Why /mutate asks the early rules only about a pod that breaks any."""
    facts, view = Facts(given_settings, completing=True), read_pod(read(pod))
    found = list(violations(view, facts))
    early = {violation.reason for violation in early_violations(view, facts)}
    assert early <= {
        violation.reason for violation in found if not is_advice(violation, given_settings)
    }


def _warning(given_settings: Settings) -> Settings:
    return Settings(
        **{
            **{name: getattr(given_settings, name) for name in Settings.__slots__},
            "enforcement": Enforcement.WARN,
        }
    )


@examples(500)
@given(pods, some_settings, st.sampled_from([None, 5]))
def test_update_that_changes_nothing_passes_in_silence(
    pod: Manifest, given_settings: Settings, largest: int | None
) -> None:
    verdict = validate(pod, given_settings, old=pod, largest=largest)
    assert (verdict.allowed, verdict.warnings) == (True, ())


@examples(500)
@given(json_values, st.sampled_from(sorted(TEMPLATES)), some_settings)
def test_nothing_at_all_makes_the_policy_raise(
    anything: Any, kind: str, given_settings: Settings
) -> None:
    assert mutate(anything, given_settings).patch == ()
    assert validate(anything, given_settings, old=anything, largest=1).allowed
    assert advise(anything, kind, given_settings, old=anything).allowed


@examples(1000)
@given(reviews, some_settings)
def test_every_json_gets_an_answer_or_is_told_to_be_no_review(
    body: Any, given_settings: Settings
) -> None:
    """Contract: "nothing a client sends makes a 500"."""
    data = json.dumps(body).encode()
    for path in ("/mutate", "/validate"):
        try:
            check(respond(path, data, given_settings))
        except BadReview:
            continue  # a 400


def respond(path: str, data: bytes, given_settings: Settings) -> bytes:
    """What the server answers to a body. Raises BadReview."""
    review = read_review(data)
    if path == "/mutate":
        return answer(review, judge_mutation(review, given_settings))
    return answer(review, judge_validation(review, given_settings, 80))


def check(reply: bytes) -> None:
    """An answer is a strict AdmissionReview, and its warnings fit."""
    response = json.loads(reply, parse_constant=_refuse)["response"]
    assert isinstance(response["uid"], str)
    assert response["allowed"] or response["status"]["message"]
    warnings = response.get("warnings", ())
    assert all(0 < len(warning) <= LONGEST_WARNING for warning in warnings)
    assert sum(len(warning) for warning in warnings) <= 4096


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("depth", [30, 900, 100_000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'], ids=["lists", "objects"])
def test_nesting_of_any_depth_in_any_place_is_answered_or_told_to_be_no_review(
    depth: int, brackets: str
) -> None:
    left, right = brackets[:-1], brackets[-1]
    inner = "1" if right == "}" else ""
    nested = left * depth + inner + right * depth
    answered = 0
    for spoiled in _with_everywhere("NESTED", json.loads(review(pod(container(env=env("A")))))):
        data = json.dumps(spoiled).replace('"NESTED"', nested).encode()
        for path in ("/mutate", "/validate"):
            try:
                check(respond(path, data, Settings()))
            except BadReview:
                continue  # a 400
            answered += 1
    # The decoder follows 1024 levels; what is deeper is no JSON to it, and a 400.
    assert answered > 0 or depth > 1024


def _with_everywhere(put: str, value: Any) -> Iterator[Any]:
    """The value once for each place in its tree, with `put` there."""
    yield put
    if isinstance(value, dict):
        yield from (
            {**value, key: spoiled}
            for key, inner in value.items()
            for spoiled in _with_everywhere(put, inner)
        )
    elif isinstance(value, list):
        yield from (
            [*value[:index], spoiled, *value[index + 1 :]]
            for index, inner in enumerate(value)
            for spoiled in _with_everywhere(put, inner)
        )


@examples(500)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_told_to_be_no_review(data: bytes) -> None:
    with pytest.raises(BadReview):
        read_review(data)
