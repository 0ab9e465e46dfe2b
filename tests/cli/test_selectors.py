"""Label selectors are read as kubectl reads them (apimachinery/pkg/labels/selector.go)."""

import pytest

from cli.reading.selectors import parse_selector

LABELS = {"gpu": "a100", "zone": "b", "empty": "", "example.com/team": "ml-1"}


@pytest.mark.parametrize(
    ("text", "picks"),
    [
        ("gpu=a100", True),
        ("gpu==a100", True),
        ("gpu = a100 , zone=b", True),
        ("gpu=l4", False),
        ("gpu!=l4", True),
        ("missing!=x", True),
        ("gpu", True),
        ("!gpu", False),
        ("! missing", True),
        ("zone in (a, b)", True),
        ("zone in (a,c),gpu", False),
        ("zone notin (a, c)", True),
        ("missing notin (a)", True),
        ("example.com/team=ml-1", True),
        ("empty=", True),
        ("empty in ()", True),
        ("gpu=a100,zone in (a,b),!missing", True),
    ],
)
def test_selector_picks_what_kubectl_would_pick(text: str, picks: bool) -> None:
    assert parse_selector(text).picks(LABELS) is picks


@pytest.mark.parametrize("text", ["", ",", "a=b,", "a=b c", "a=(b)", "a in b", "=a", "!a=b", "a>1"])
def test_text_that_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a label selector"):
        parse_selector(text)
