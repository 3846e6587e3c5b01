"""The page, in a browser: asked through its own text field, read as a person would, and refused what it must not do."""

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from dsd_client import Client
from dsd_core.decoding.lookahead.streaming import Streaming
from tests.conftest import InProcessSwarm, TinyModel
from tests.gateway.browser import CHROMIUM, Browser, Page
from tests.gateway.conftest import ServedGateway, served

SCREENSHOTS = os.environ.get("DSD_SCREENSHOTS")
"""A directory, for whoever wants to look."""

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, served_gateway: ServedGateway) -> AsyncIterator[Page]:
    async with browser.page(served_gateway.url) as opened:
        await opened.until("document.querySelector('#ready.yes') && document.querySelectorAll('#peers li').length")
        yield opened
        assert opened.complaints == []


async def ask(page: Page, said: str) -> None:
    """Type and press Enter; returns when the answer has ended."""
    await page.evaluate("document.getElementById('said').focus()")
    await page.type(said)
    await page.press_enter()
    await page.until("document.getElementById('send').textContent === 'Stop' || document.querySelector('.error')")
    await page.until("document.getElementById('send').textContent === 'Send'")


async def screenshot(page: Page, name: str) -> None:
    if SCREENSHOTS:
        image = await page.call("Page.captureScreenshot", format="png")
        (Path(SCREENSHOTS) / f"{name}.png").write_bytes(base64.b64decode(image["data"]))


@needs_browser
async def test_an_answer_is_coloured_by_origin(
    page: Page, client: Client, served_gateway: ServedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine one frame at a time may be best, without drafts, and then all tokens are alike.
    monkeypatch.setattr(Streaming, "_keep_promise", lambda policy, view: None)
    await page.evaluate("document.getElementById('temperature').value = '0'")
    await ask(page, "how many shells does mia have?")
    pieces: list[Any] = await page.evaluate(
        "[...document.querySelectorAll('#turns .assistant span')].map(piece => [piece.className, piece.textContent])"
    )
    async with served_gateway.openai() as openai:
        messages: Any = [{"role": "user", "content": "how many shells does mia have?"}]
        said = await openai.chat.completions.create(model=served_gateway.model, messages=messages, temperature=0)
    assert "".join(text for _, text in pieces) == said.choices[0].message.content
    assert {origin for origin, _ in pieces} <= {"accepted", "recovered", "bonus"}
    assert len({origin for origin, _ in pieces}) > 1
    figures = {name: await page.evaluate(f"document.getElementById('{name}').textContent") for name in ("speed", "acceptance")}
    assert float(figures["speed"]) > 0
    assert figures["acceptance"].endswith("%")


@needs_browser
async def test_what_is_said_is_text_never_markup(page: Page) -> None:
    said = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    await ask(page, said)
    assert await page.evaluate("document.querySelector('#turns .user').textContent") == said
    assert await page.evaluate("document.querySelectorAll('#turns img, #turns b').length") == 0
    assert await page.evaluate("document.title") == "DSD"


@needs_browser
async def test_the_swarm_is_drawn(page: Page, two_stages: InProcessSwarm) -> None:
    addresses = await page.evaluate("[...document.querySelectorAll('#peers .address')].map(one => one.textContent)")
    assert sorted(addresses) == sorted(two_stages.addresses)
    cells = await page.evaluate("[...document.querySelectorAll('#coverage span')].map(one => one.className)")
    assert cells == ["once"] * 4
    assert "All 4 layers" in await page.evaluate("document.getElementById('coverage-text').textContent")


@needs_browser
@pytest.mark.parametrize(
    ("name", "width", "height", "scheme"),
    [("light", 1280, 800, "light"), ("dark", 1280, 800, "dark"), ("phone", 390, 844, "light"), ("night", 390, 844, "dark")],
)
async def test_it_fits(page: Page, name: str, width: int, height: int, scheme: str) -> None:
    """Nothing is cut off or has to be scrolled sideways, and what one writes in is to be seen."""
    await page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await ask(page, "Question: Mia has 12 shells. She finds 7 more.")
    await screenshot(page, name)
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    box = await page.evaluate("(({top, bottom}) => [top, bottom])(document.getElementById('said').getBoundingClientRect())")
    assert 0 <= box[0] < box[1] <= height
    paper = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")


@needs_browser
async def test_a_lost_swarm_and_a_hole_are_shown(
    browser: Browser, target: TinyModel, new_swarm: InProcessSwarm
) -> None:
    await new_swarm.start(target, range(2))
    lost = await new_swarm.start(target, range(2, 4))
    async with (
        Client(new_swarm.addresses, str(target), "none", timeout=2) as client,
        served(client, max_new_tokens=400, sampling={"temperature": 1.5, "seed": 1}) as gateway,
        browser.page(gateway.url) as page,
    ):
        await page.until("document.querySelectorAll('#coverage .once').length === 4")
        await lost.kill()
        await page.until("document.querySelectorAll('#coverage .never').length === 2", seconds=15)
        await page.until("document.querySelector('#peers .unreachable .problem')")
        await ask(page, "hello")
        assert "dsd-node" in await page.evaluate("document.querySelector('#turns .error').textContent")
        await screenshot(page, "lost")


@needs_browser
async def test_the_key_is_typed_into_the_page(browser: Browser, client: Client) -> None:
    async with served(client, api_key="open sesame", max_new_tokens=4) as gateway, browser.page(gateway.url) as page:
        await page.until("document.querySelector('#ready.no')")
        assert "API key" in await page.evaluate("document.getElementById('ready').textContent")
        await page.evaluate(
            "(key => { key.value = 'open sesame'; key.dispatchEvent(new Event('change')); })(document.getElementById('key'))"
        )
        await page.until("document.querySelector('#ready.yes')", seconds=10)
        await ask(page, "hello")
        assert await page.evaluate("document.querySelectorAll('#turns .assistant span').length") == 4


async def test_a_strict_policy_and_nothing_from_elsewhere(served_gateway: ServedGateway) -> None:
    async with httpx.AsyncClient(base_url=served_gateway.url) as http:
        html = await http.get("/")
        assert "default-src 'none'" in html.headers["Content-Security-Policy"]
        assert "unsafe" not in html.headers["Content-Security-Policy"]
        assert html.headers["X-Content-Type-Options"] == "nosniff"
        named = [word.split('"')[0] for word in html.text.replace('href="', 'src="').split('src="')[1:]]
        assert len(named) == 3
        for path in named:
            assert path.startswith("/page/")
            found = await http.get(path)
            assert found.status_code == 200
            assert "http" not in found.text.replace("http://www.w3.org/2000/svg", "")
            assert "innerHTML" not in found.text


async def test_the_swarm_as_json(served_gateway: ServedGateway, two_stages: InProcessSwarm) -> None:
    async with httpx.AsyncClient(base_url=served_gateway.url) as http:
        swarm = (await http.get("/v1/dsd/swarm")).json()
    assert swarm["is_covered"]
    assert swarm["coverage"] == [1, 1, 1, 1]
    assert [peer["address"] for peer in swarm["peers"]] == two_stages.addresses
    assert [peer["layers"] for peer in swarm["peers"]] == [[0, 2], [2, 4]]
    assert all(peer["round_trip_seconds"] > 0 and peer["tokens_per_second"] is None for peer in swarm["peers"])
