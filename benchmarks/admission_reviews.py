"""Generated reviews by the hundred thousand, junk in every second: none may raise, all are timed.

The tests shrink what they find and so generate slowly; here a seeded random.Random is enough.
"""

import json
import random
import time
from typing import Any, Final

from webhook.errors import BadReview
from webhook.review import answer, judge_mutation, judge_validation, read_review
from webhook.settings import Settings

_SEED: Final = 20261123
_NAMES: Final = (
    *["nvidia.com/gpu-10gb"] * 6,
    "nvidia.com/gpu-20gb",
    "nvidia.com/gpu-10GB",
    "nvidia.com/gpu-010gb",
    "nvidia.com/gpu",
    "nvidia.com/mig-1g.10gb",
    "mpslice.io/gb",
    "cpu",
)
_COUNTS: Final = (*["1"] * 20, 1, "1e0", 0, 2, "500m", "-1", "x", None)
_KINDS: Final = (("", "Pod"), ("", "Pod"), ("apps", "Deployment"), ("batch", "CronJob"))
_JUNK: Final = (
    *("null", "true", "1e308", "NaN", "-1", '""', r'"\ud800"', "[]", "{}", "[[{}]]"),
    "[" * 300 + "]" * 300,
)
_WORDS: Final = ("NVIDIA_VISIBLE_DEVICES", "/dev/shm", "/run/mpslice", "HOME", "\u00e9", "")


def generated(count: int, settings: Settings) -> None:
    """Answers `count` reviews and prints the quantiles of the time that it took."""
    chance = random.Random(_SEED)
    seconds: list[float] = []
    refused = malformed = patched = 0
    for _ in range(count):
        body = json.dumps(_spoiled(chance)).encode()
        path = chance.choice(("/mutate", "/validate"))
        started = time.perf_counter()
        try:
            review = read_review(body)
            verdict = (
                judge_mutation(review, settings)
                if path == "/mutate"
                else judge_validation(review, settings, 80)
            )
            answer(review, verdict)
        except BadReview:
            malformed += 1
        else:
            refused += not verdict.allowed
            patched += bool(verdict.patch)
        seconds.append(time.perf_counter() - started)
    seconds.sort()
    p50, p99, p999 = (seconds[int(share * count)] * 1e6 for share in (0.5, 0.99, 0.999))
    print(
        f"{count:,} generated reviews, seed {_SEED}: {patched:,} patched, {refused:,} refused, "
        f"{malformed:,} malformed, none raised; p50 {p50:.0f}, p99 {p99:.0f}, p99.9 {p999:.0f} µs"
    )


def _review(chance: random.Random) -> dict[str, Any]:
    group, kind = chance.choice(_KINDS)
    obj: dict[str, Any] = {"metadata": {"name": "p"}, "spec": _spec(chance)}
    if kind == "Deployment":
        obj = {"spec": {"template": obj}}
    elif kind == "CronJob":
        obj = {"spec": {"jobTemplate": {"spec": {"template": obj}}}}
    request = {
        "uid": "u",
        "kind": {"group": group, "version": "v1", "kind": kind},
        "operation": chance.choice(("CREATE", "CREATE", "UPDATE", "DELETE")),
        "object": obj,
        "oldObject": chance.choice((None, {"spec": _spec(chance)})),
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def _spec(chance: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "containers": [_container(chance) for _ in range(chance.randrange(1, 4))],
        "hostIPC": chance.choice((True, False)),
        "securityContext": {"runAsUser": chance.choice((1000, 1000, 0))},
    }
    if chance.random() < 0.3:
        spec["initContainers"] = [_container(chance)]
    if chance.random() < 0.1:
        spec["ephemeralContainers"] = [_container(chance)]
    if chance.random() < 0.1:
        spec["hostUsers"] = False
    return spec


def _container(chance: random.Random) -> dict[str, Any]:
    def amounts() -> dict[str, Any]:
        names = chance.sample(_NAMES, chance.randrange(3))
        return {name: chance.choice(_COUNTS) for name in names}

    return {
        "name": chance.choice(("main", "side", "n" * 63)),
        "resources": {"limits": amounts(), "requests": amounts()},
        "env": [{"name": chance.choice(_WORDS)}],
        "volumeMounts": [{"mountPath": chance.choice(_WORDS)}],
        "securityContext": {"privileged": chance.random() < 0.1},
    }


def _spoiled(chance: random.Random) -> Any:
    """A review, in half of the cases with junk in its object, seldom anywhere else."""
    review = _review(chance)
    roll = chance.random()
    if roll < 0.45:
        review["request"]["object"] = _with_junk(chance, review["request"]["object"])
    return _with_junk(chance, review) if roll > 0.95 else review


def _with_junk(chance: random.Random, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return json.loads(chance.choice(_JUNK))
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = chance.choice(keys)
    value[key] = _with_junk(chance, value[key])
    return value
