"""The generated reviews of the benchmark, a few thousand of them: none raises."""

import re

import pytest

from benchmarks.admission_reviews import generated
from webhook.settings import Settings


@pytest.mark.parametrize("quota", [False, True])
def test_thousands_of_generated_reviews_are_answered(
    capsys: pytest.CaptureFixture[str], quota: bool
) -> None:
    generated(10_000, Settings(quota=quota))
    told = capsys.readouterr().out.replace(",", "")
    counted = {
        word: int(count) for count, word in re.findall(r"(\d+) (\w+)", told.replace(",", ""))
    }
    assert counted["generated"] == 10_000
    assert min(counted[word] for word in ("patched", "refused", "malformed")) > 100
    assert "p99.9 " in told
