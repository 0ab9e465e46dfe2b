"""Kubernetes quantities are read exactly, and nothing else is taken for one."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpslice.errors import InvalidQuantity
from mpslice.quantities import milli, parse_quantity, whole


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        (1, 1),
        ("1000m", 1),
        ("1e0", 1),
        ("1E3", 1000),
        ("0", 0),
        ("500m", Fraction(1, 2)),
        ("1.5Gi", 3 << 29),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("+2k", 2000),
        ("-1", -1),
        ("1E", 10**18),
        ("100n", Fraction(1, 10**7)),
        (0.25, Fraction(1, 4)),
        ("1e999", (1 << 63) - 1),
        ("-9Ei", -((1 << 63) - 1)),
    ],
)
def test_notation_is_understood(text: Any, value: Fraction | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "gb", "1 Gi", "1KI", "0x10", "1e", "1e+", "--1", "Infinity", None, True, [], "9" * 99],
)
def test_anything_else_is_refused_with_a_hint(text: Any) -> None:
    with pytest.raises(InvalidQuantity, match="write a number such as"):
        parse_quantity(text)


def test_parts_are_rounded_up_as_kubernetes_does() -> None:
    assert whole("1m") == 1
    assert milli("1u") == 1
    assert whole("0.9999999") == 1
    assert whole("-500m") == 0


@given(st.integers(min_value=0, max_value=10**12))
def test_whole_numbers_are_their_own_value(number: int) -> None:
    assert whole(str(number)) == whole(number) == number
    assert milli(str(number)) == number * 1000
