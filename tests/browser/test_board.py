"""The leaderboard in a real browser: `make test-browser`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.board.conftest import make
from tests.browser.test_report import brightness

from clipfuse.board.page import page
from clipfuse.board.results import About, Degradation
from clipfuse.board.standings import build_standings
from clipfuse.comparison.album import Album

pytestmark = pytest.mark.browser
DOT = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/%3E"
HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = Degradation("degraded-1", "noise", 2)
    entries = [make("a", 1.0, about=About(18_000, 0.2)), make(HOSTILE, 0.5, about=About(100, 0.1))]
    entries += [make("constructor"), make("trivial:average")]
    entries += [replace(each, degradation=noise) for each in entries]
    album = Album({"road: 1": {"infrared": DOT, "a": DOT, HOSTILE: DOT}}, "one")
    file = tmp_path_factory.mktemp("board") / "board.html"
    file.write_text(page(build_standings(entries), (), album, [HOSTILE], "clipfuse board"))
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_it_fits_sorts_and_slides_and_runs_nothing_of_a_stranger(
    browser: Any, board: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    complaints: list[str] = []
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.goto(board.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    ink, ground = opened.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (brightness(ink) > brightness(ground)) == (scheme == "dark")
    table = opened.locator("#table0 ~ .scroll table").first

    def order() -> list[str]:
        return [text.split("\n")[0] for text in table.locator("tbody th").all_inner_texts()]

    assert order()[0] == "a"
    head = table.locator("th", has_text="MSE").get_by_role("button")
    for first in ("a", "average"):  # least error first, then the other way round
        head.click()
        assert (order()[0] == "a") == (first == "a")
    opened.locator("#cut").fill("80")
    clip = opened.locator(".over").evaluate("node => getComputedStyle(node).clipPath")
    assert clip == "inset(0px 0px 0px 80%)"
    opened.locator("#left").select_option(HOSTILE)
    opened.screenshot(path=str(tmp_path / f"{width}-{scheme}.png"), full_page=True)
    assert complaints == []
