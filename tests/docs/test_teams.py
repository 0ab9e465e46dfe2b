"""What the page on teams shows is what is installed: the examples, and Kueue's part as printed."""

import re

import pytest
import yaml

from cli.kueue import configuration
from mpslice.slices import SliceSize
from tests.docs.test_pages import CHECKOUT, page

BLOCKS = re.findall(r"```yaml\n(.*?)```", page("teams.md"), re.DOTALL)


@pytest.mark.parametrize("name", ["resource-quota", "limit-range"])
def test_page_shows_the_example(name: str) -> None:
    assert (CHECKOUT / "helm" / "examples" / f"{name}.yaml").read_text() in BLOCKS


def test_kueues_part_is_what_the_command_prints() -> None:
    shown = next(block for block in BLOCKS if block.startswith("resources:"))
    assert yaml.safe_load(shown) == yaml.safe_load(configuration([SliceSize(10)]))
