"""A short hour in virtual time, and what the page of results says of it."""

from typing import Any

import pytest

from benchmarks import results, steady_hour
from benchmarks.steady_hour import Options, measure


@pytest.fixture(scope="module")
def minute() -> dict[str, Any]:
    return measure(Options(nodes=1, rate=0.5, seconds=60.0), lambda _line: None)


def test_full_gpus_are_used_as_far_as_the_bound_lets(minute: dict[str, Any]) -> None:
    assert minute["problems"] == []
    over_time = minute["gpus_over_time"]
    assert over_time["samples"] >= 60
    assert 50 < over_time["used_percent"] <= over_time["bound_percent"] <= 100
    assert minute["created_to_bound"]["pods"] > 0
    assert minute["harm"] == {"failed kubelet admissions": 0}


def test_same_seed_gives_the_same_hour(minute: dict[str, Any]) -> None:
    again = measure(Options(nodes=1, rate=0.5, seconds=60.0), lambda _line: None)
    assert {**again, "took_s": 0} == {**minute, "took_s": 0}


def test_command_prints_the_figures_and_keeps_them(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hour.json"
    given = ["--nodes", "1", "--rate", "0.5", "--seconds", "5", "--save", str(file)]
    assert steady_hour.main(given) == 0
    assert '"points_below_bound"' in capsys.readouterr().out
    assert "--nodes 1 --rate 0.5 --seconds 5.0" in file.read_text()


def test_page_of_results_has_the_hour(minute: dict[str, Any]) -> None:
    around = {
        name: results.kept()[0][name]
        for name in ("command", "date", "machine", "versions", "drawn_from")
    }
    page = results.page([{**around, **minute}])
    assert "1 nodes, virtual time" in page
    assert "1 minutes of virtual time: 1 nodes, 8 GPUs" in page
    assert f"{minute['gpus_over_time']['points_below_bound']} points below the offline" in page
