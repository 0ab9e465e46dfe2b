"""The page in a real browser: what a person sees, hears and can reach with the keyboard."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from planner.model.plan import Cause, Refusal
from planner.ui import access
from planner.ui.access import Reader
from planner.ui.seen import Seen
from planner.view import Decision
from tests.planner.ui.chromium import Tab, browsing
from tests.planner.ui.cluster import crowd, gpu, layout, of_gpus, seen, waiting
from tests.planner.ui.reviews import TableOfReviews, admitting
from tests.planner.ui.serving import Served, served

SIGN_IN = """(() => {
  document.getElementById("token").value = "good";
  document.getElementById("enter").requestSubmit();
})()"""
WIDE, NARROW = (1280, 900), (400, 860)
TAB = 9
TRIES = 30
"""So often a bound in seconds is tried to be met: others may use the machine."""


@asynccontextmanager
async def opened(
    chromium: int, what: Seen, reviews: TableOfReviews | None = None, size: Any = WIDE
) -> AsyncIterator[tuple[Served, Tab]]:
    async with served(what, reviews or admitting()) as page, browsing(chromium) as tab:
        await tab.look_like(*size)
        await tab.visit(page.url)
        yield page, tab


async def sign_in(tab: Tab, token: str = "good") -> None:
    await tab.run(SIGN_IN.replace("good", token))
    await tab.until("document.querySelector('.node') && !document.getElementById('board').hidden")


async def texts(tab: Tab, selector: str) -> list[str]:
    script = f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)"
    found: list[str] = await tab.run(script)
    return found


async def test_a_reader_sees_gpus_holders_and_the_queue(chromium: int) -> None:
    async with opened(chromium, crowd(6)) as (page, tab):
        await sign_in(tab)
        assert "gpu-node-1" in (await texts(tab, ".node h3"))[0]
        assert "40gbml-platform/train-gpu-node-1-1-1" in await texts(tab, ".bar .part")
        assert (await texts(tab, ".wait .badge"))[:2] == ["Carving", "GPUTooSmall"]
        assert "KubeletUnavailable: no answer for 12 s" in await texts(tab, ".trouble")
        assert await texts(tab, "#queue-count") == ["35 pods"]
        assert (await texts(tab, "#figures"))[0].startswith("Used1,320 gbLeft2,760 gb")
        await tab.until("document.querySelector('#status').textContent === 'live'")
        assert all(url.startswith((page.url, "data:")) for url in tab.requested)
        assert tab.console == []


async def test_the_token_is_kept_nowhere(chromium: int) -> None:
    async with opened(chromium, crowd(6)) as (_, tab):
        await sign_in(tab)
        where = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, "
        where += "location.href, document.getElementById('token').value])"
        assert "good" not in await tab.run(where)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("expired", "does not know this token, or it has expired"),
        ("poor", "may not get nodelayouts"),
    ],
)
async def test_whoever_may_not_read_is_told_why(chromium: int, token: str, words: str) -> None:
    reviews = admitting()
    reviews.owners["poor"] = Reader("poor")
    async with opened(chromium, crowd(6), reviews) as (_, tab):
        await tab.run(SIGN_IN.replace("good", token))
        said = await tab.until("document.getElementById('refused').textContent")
        assert words in said
        assert await tab.run("document.getElementById('board').hidden")


async def test_what_was_shown_goes_with_the_token(chromium: int) -> None:
    async with opened(chromium, crowd(6)) as (_, tab):
        await sign_in(tab)
        await tab.run("document.getElementById('leave').click()")
        assert "gpu-node" not in await tab.run("document.documentElement.outerHTML")


async def test_names_and_messages_are_text_whatever_they_say(chromium: int) -> None:
    script = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
    long = "x" * 253
    first = gpu("n1", 1)
    evil = replace(
        first,
        product=script,
        slices=(replace(first.slices[0], pod=f"{script}/{long}", container="\x1b[31m\u202eevil"),),
    )
    refusals = tuple(
        Refusal(waiting(name, 90), (), own=Cause.BACKOFF, note=f"\x1b]0;{script}\x07\u202e")
        for name in (script, long)
    )
    what = Seen(
        {script: of_gpus(script, evil), long: of_gpus(long, evil)},
        {},
        Decision(refused=refusals),
    )
    async with opened(chromium, what, size=NARROW) as (_, tab):
        await sign_in(tab)
        await tab.run("document.querySelector('.bar').click()")
        await tab.until("document.getElementById('more').open")
        assert script in (await texts(tab, "#more-text"))[0]
        html = await tab.run("document.body.innerText")
        assert "\x1b" not in html
        assert "\u202e" not in html
        assert await tab.run("window.hacked === undefined && document.images.length === 0")
        assert await tab.run("document.scripts.length") == 1
        # Long names are cut or broken; nothing makes the page wider than the screen.
        assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert tab.console == []


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_of_a_thousand_nodes_only_those_in_sight_are_drawn(
    chromium: int, size: tuple[int, int]
) -> None:
    async with opened(chromium, crowd(1000), size=size) as (_, tab):
        await sign_in(tab)
        assert await texts(tab, "#nodes-count") == ["1,000"]
        await tab.run("document.getElementById('unfold').click()")
        await tab.until("document.querySelector('.bar')")
        for place in (0, 0.5, 1):
            await tab.run(f"scrollTo(0, document.body.scrollHeight * {place})")
            await tab.until("document.querySelectorAll('.node').length > 0")
            assert await tab.run("document.querySelectorAll('.node').length") < 30
        await tab.until(
            "[...document.querySelectorAll('.node h3')].at(-1).textContent === 'gpu-node-1000'"
        )
        assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert await tab.heap() < 80  # MB


async def test_a_thousand_nodes_are_shown_within_a_second(chromium: int) -> None:
    """From the token to the first frame with rows."""
    async with opened(chromium, crowd(1000)) as (page, tab):
        took: list[float] = []
        while len(took) < TRIES and min(took, default=1000.0) >= 1000:
            await tab.visit(page.url)
            await tab.run("performance.mark('asked')")
            await sign_in(tab)
            await tab.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
            took.append(await tab.run("performance.measure('shown', 'asked').duration"))
        assert min(took) < 1000


async def test_a_change_is_on_the_page_within_200_ms(chromium: int) -> None:
    async with opened(chromium, crowd(1000)) as (page, tab):
        await sign_in(tab)
        await tab.run("document.querySelector('[data-key=gpu-node-4] [data-part=name]').click()")
        took: list[float] = []
        while len(took) < TRIES and min(took, default=0.2) >= 0.2:
            number = len(took)
            node = layout("gpu-node-4", held=f"team-a/change-{number}")
            await asyncio.sleep(0.25)  # so that it is no change that is gathered with the last one
            started = asyncio.get_running_loop().time()
            page.change(replace(page.seen, layouts={**page.seen.layouts, "gpu-node-4": node}))
            await tab.until(f"document.body.textContent.includes('change-{number}')")
            took.append(asyncio.get_running_loop().time() - started)
        assert min(took) < 0.2


async def test_the_page_is_filtered_by_namespace_and_node(chromium: int) -> None:
    cluster = seen(
        [
            layout("n1", held="team-a/x"),
            layout("n2", held="team-b/y"),
            layout("m1", held="team-b/z"),
        ],
        [waiting("p", 90), waiting("q", 90, namespace="team-b")],
    )
    async with opened(chromium, cluster) as (_, tab):
        await sign_in(tab)
        choose = """((id, value, event) => {
          const field = document.getElementById(id);
          field.value = value;
          field.dispatchEvent(new Event(event, {bubbles: true}));
        })"""
        await tab.run(f"{choose}('namespace', 'team-b', 'change')")
        await tab.until(
            "document.getElementById('nodes-count').textContent === '2 of 3; team-b uses 440 gb'"
        )
        assert await texts(tab, ".node h3") == ["m1", "n2"]
        assert await texts(tab, ".wait .link") == ["team-b/q"]
        await tab.run(f"{choose}('node', 'N', 'input')")
        await tab.until(
            "document.getElementById('nodes-count').textContent === '1 of 3; team-b uses 220 gb'"
        )
        assert await texts(tab, ".node h3") == ["n2"]


async def test_everything_can_be_reached_with_the_keyboard(chromium: int) -> None:
    async with opened(chromium, crowd(100)) as (_, tab):
        await sign_in(tab)
        focus = "document.activeElement.textContent"
        await tab.run("document.activeElement.blur()")
        await tab.press("Tab", TAB)
        assert await tab.run(focus) == "Skip to the nodes"
        await tab.press("Enter", 13)
        await tab.press("Tab", TAB)
        assert await tab.run(focus) == "gpu-node-1"
        assert await tab.run("document.activeElement.matches(':focus-visible')")
        await tab.press("ArrowDown", 40)
        assert await tab.run(focus) == "gpu-node-2"
        await tab.press("End", 35)
        await tab.until(f"{focus} === 'gpu-node-100'")
        await tab.press("Enter", 13)
        await tab.until("document.activeElement.getAttribute('aria-expanded') === 'true'")
        await tab.press("Tab", TAB)
        assert await tab.run("document.activeElement.className") == "bar"
        assert await tab.run(focus) == "Slices of gpu-node-100 GPU 0: none"
        await tab.press("Enter", 13)
        await tab.until("document.getElementById('more').open")
        await tab.press("Escape", 27)
        await tab.until("!document.getElementById('more').open")
        assert await tab.run("document.activeElement.className") == "bar"


async def test_the_focus_stays_where_it_is_while_things_change(chromium: int) -> None:
    cluster = seen([layout("n1"), layout("n2")], [])
    async with opened(chromium, cluster) as (page, tab):
        await sign_in(tab)
        await tab.run("document.querySelector('[data-key=n2] [data-part=gpu-3]').focus()")
        page.change(seen([layout("n0"), layout("n1"), layout("n2", held="team-a/new")], []))
        await tab.until("document.body.textContent.includes('team-a/new')")
        assert await tab.run("document.activeElement.dataset.part") == "gpu-3"
        assert await tab.run("document.activeElement.closest('li').dataset.key") == "n2"


async def test_axe_finds_nothing_serious(chromium: int, axe: str) -> None:
    async with opened(chromium, crowd(6)) as (_, tab):

        async def judged(state: str) -> list[Any]:
            await tab.run(axe)
            found = await tab.run("axe.run({resultTypes: ['violations']})")
            return [
                (state, each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]
            ]

        problems = await judged("door")
        await sign_in(tab)
        show: dict[str, str] = {
            "board": "0",
            "dialog": "document.querySelector('.wait .link').click()",
        }
        for size in (WIDE, NARROW):
            for dark in (False, True):
                await tab.look_like(*size, dark=dark)
                for state, step in show.items():
                    await tab.run(step)
                    problems += await judged(f"{state} {size} dark={dark}")
                await tab.run("document.getElementById('more').close()")
        assert problems == []


async def test_a_page_that_loses_the_planner_says_so_and_comes_back(
    chromium: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "KEPT", 0.0)
    reviews = admitting()
    async with opened(chromium, crowd(6), reviews) as (page, tab):
        await sign_in(tab)
        reviews.away = True
        page.change(replace(page.seen, leader="another"))
        await tab.until("document.getElementById('status').textContent.includes('may be old')")
        assert await texts(tab, ".node h3")  # what was known last stays
        reviews.away = False
        await tab.until("document.getElementById('status').textContent === 'live'")
