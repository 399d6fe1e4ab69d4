"""The report in a real browser: `make test-browser`. Fails, never skips, where there is none."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
Page = Any
Open = Callable[..., Page]
WIDTHS = {"wide": 1400, "phone": 390}


@pytest.fixture(scope="module")
def report(sweeps: Callable[[Path], Callable[..., Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from clipfuse.cli.__main__ import main

    folder = tmp_path_factory.mktemp("report")
    write = sweeps(folder / "sweep")
    for place, loss in enumerate(("pixel", "ldfusion", "clip_ratio")):
        for seed in (0, 1):
            root = write(loss, seed=seed, level=place / 2, pictures=None if seed else 48)
    assert main(["compare", str(root), "--html", str(folder / "report.html")]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def machine_report(
    sweeps: Callable[[Path], Callable[..., Path]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A report of two losses with downstream results."""
    from tests.comparison.conftest import write as judge

    from clipfuse.cli.__main__ import main

    folder = tmp_path_factory.mktemp("machine")
    write = sweeps(folder / "sweep")
    for loss in ("pixel", "ldfusion"):
        for seed in (0, 1):
            root = write(loss, seed=seed, folder=f"{loss}/{seed}", pictures=48)
            judge(root / loss / str(seed), maps=48)
    for name in ("infrared", "both"):
        judge(root / "downstream-sources" / name, maps=48)
    assert main(["compare", str(root), "--html", str(folder / "report.html")]) == 0
    return folder / "report.html"


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Open]:
    """Open the report; every complaint and every request beside its own fails the test."""
    complaints: list[str] = []

    def open_(**options: Any) -> Page:
        page = browser.new_page(**options)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if known(request.url) else complaints.append(request.url))
        page.goto(report.as_uri())
        return page

    def known(url: str) -> bool:
        return url.startswith("data:") or url == report.as_uri()

    yield open_
    assert complaints == []


def order(page: Page) -> list[str]:
    """Return the losses from top to bottom."""
    names = page.locator("#table tbody tr:not(.trivial) th").all_inner_texts()
    return [name.split("\n")[0].strip() for name in names]


@pytest.mark.parametrize("width", WIDTHS.values())
def test_what_was_compared_is_seen_at_once(page: Open, width: int) -> None:
    opened = page(viewport={"width": width, "height": 800})
    facts = opened.locator(".facts div").all_inner_texts()
    names = [text.split("\n")[0] for text in facts]
    assert names == ["data", "split", "scenes", "CLIP", "protocol", "seeds", "versions", "date"]
    boxes = [each.bounding_box() for each in opened.locator(".facts div").all()]
    assert all(box["y"] + box["height"] < 800 and box["x"] + box["width"] <= width for box in boxes)


def test_the_table_sorts_with_mouse_and_keyboard(page: Open) -> None:
    opened = page()
    assert order(opened) == ["clip_ratio", "ldfusion", "pixel"]
    head = opened.locator("#table th", has_text="MSE")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"  # the smaller the better, so best first
    assert order(opened) == ["clip_ratio", "ldfusion", "pixel"]
    opened.keyboard.press("Enter")  # the button has the focus
    assert head.get_attribute("aria-sort") == "descending"
    assert order(opened) == ["pixel", "ldfusion", "clip_ratio"]
    opened.locator("#table th").first.get_by_role("button").press("Space")
    assert order(opened) == ["clip_ratio", "ldfusion", "pixel"]
    assert opened.locator("#table th[aria-sort=ascending]").count() == 1


def test_rows_without_a_value_stay_last(page: Open) -> None:
    opened = page()
    row = "document.querySelector('#table tbody').rows[0].cells[2].dataset.value = ''"
    opened.evaluate(row)
    button = opened.locator("#table th").nth(2).get_by_role("button")
    for _ in range(2):
        button.click()
        assert order(opened)[-1] == "clip_ratio"


def test_the_slider_uncovers_and_the_zoom_is_the_same_in_all(page: Open) -> None:
    opened = page()
    assert opened.get_by_text("The images need JavaScript").count() == 0
    assert opened.locator("#under").evaluate("image => image.naturalWidth") == 48
    over = opened.locator(".over")
    assert over.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 0px 0px 50%)"
    opened.locator("#cut").focus()
    opened.keyboard.press("Home")
    assert over.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 0px 0px 0%)"
    opened.locator("#cut").fill("80")
    assert over.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 0px 0px 80%)"
    opened.locator("#zoom").fill("4")
    opened.locator("#x").fill("100")
    pictures = opened.locator(".stage img, .crop img")
    assert pictures.count() == 2 + 2 + 3  # the slider's, the sources, the losses
    transforms = pictures.evaluate_all("nodes => nodes.map(node => getComputedStyle(node).transform)")
    assert set(transforms) == {"matrix(4, 0, 0, 4, 0, 0)"}
    origins = pictures.evaluate_all(
        "nodes => nodes.map(n => parseFloat(getComputedStyle(n).transformOrigin) / n.clientWidth)"
    )
    assert origins == pytest.approx([1] * 7, abs=0.01)  # clientWidth is rounded


def test_any_two_losses_and_any_image(page: Open) -> None:
    opened = page()
    before = opened.locator("#under").get_attribute("src")
    opened.locator("#left").select_option("pixel")
    assert opened.locator("#under").get_attribute("src") != before
    assert opened.locator("#under").get_attribute("alt") == "test-000000, pixel"
    opened.locator("#image").select_option("test-000003")
    assert opened.locator("#over").get_attribute("alt") == "test-000003, clip_ratio"


def test_dragging_moves_the_cut(page: Open) -> None:
    opened = page()
    opened.locator("#stage").scroll_into_view_if_needed()
    box = opened.locator("#stage").bounding_box()
    y = box["y"] + box["height"] / 2
    opened.mouse.move(box["x"] + box["width"] / 2, y)
    opened.mouse.down()
    opened.mouse.move(box["x"] + box["width"] * 0.25, y)
    opened.mouse.up()
    opened.mouse.move(box["x"] + box["width"] * 0.9, y)
    assert float(opened.locator("#cut").input_value()) == pytest.approx(25, abs=1)


def test_best_and_worst_follow_the_metric_and_open_the_picture(page: Open) -> None:
    opened = page()
    first = opened.locator("#lists button").first
    opened.locator("#metric").select_option("SSIM")
    assert first.inner_text().startswith("best: test-000005")
    opened.locator("#metric").select_option("MSE")
    assert first.inner_text().startswith("best: test-000000")
    opened.locator("#lists button", has_text="worst").first.click()
    assert opened.locator("#image").input_value() == "test-000005"


def test_everything_can_be_reached_by_the_keyboard_and_the_focus_is_seen(page: Open) -> None:
    opened = page()
    seen = []
    for _ in range(60):
        opened.keyboard.press("Tab")
        seen.append(opened.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert seen[-1] == "BODY" or outline != "none", seen[-1]
    assert {"A", "BUTTON", "image", "left", "right", "cut", "zoom", "x", "y", "metric"} <= set(seen)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_fits_the_screen_in_either_scheme(page: Open, tmp_path: Path, width: int, scheme: str) -> None:
    opened = page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    ink, ground = opened.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (brightness(ink) > brightness(ground)) == (scheme == "dark")
    assert abs(brightness(ink) - brightness(ground)) > 150
    curve = opened.locator("svg text").first.evaluate("node => getComputedStyle(node).fill")
    assert curve == ink
    # Left for people to look at: pytest --basetemp says where.
    opened.screenshot(path=str(tmp_path / f"{width}-{scheme}.png"), full_page=True)


def brightness(color: str) -> float:
    return sum(float(part) for part in color[4:-1].split(",")) / 3


def test_it_prints(page: Open, tmp_path: Path) -> None:
    opened = page(color_scheme="dark")
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.locator("nav").is_hidden()
    assert opened.locator("#table").is_hidden()
    assert opened.locator("table.print").is_visible()
    assert brightness(opened.evaluate("getComputedStyle(document.body).backgroundColor")) == 255
    assert opened.pdf(path=str(tmp_path / "report.pdf"))[:5] == b"%PDF-"


def test_without_scripts_the_numbers_are_there(browser: Any, report: Path) -> None:
    opened = browser.new_page(java_script_enabled=False)
    opened.goto(report.as_uri())
    assert order(opened) == ["clip_ratio", "ldfusion", "pixel"]
    assert opened.locator("svg[role=img]").first.is_visible()
    assert opened.get_by_text("The images need JavaScript").is_visible()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_what_a_machine_sees_has_a_slider_of_its_own(
    browser: Any, machine_report: Path, tmp_path: Path, width: int
) -> None:
    complaints: list[str] = []
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(machine_report.as_uri())
    part = opened.locator("#seen0")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert part.locator("tbody").first.locator("th").all_inner_texts() == [
        *("pixel", "ldfusion"),
        *("infrared", "both"),
    ]
    under, over = part.locator("[data-part=under]"), part.locator(".over")
    assert under.evaluate("image => image.naturalWidth") == 48
    before = under.get_attribute("src")
    part.locator("[data-part=left]").select_option("both")
    assert under.get_attribute("src") != before
    part.locator("[data-part=cut]").fill("80")
    assert over.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 0px 0px 80%)"
    assert opened.locator("#cut").input_value() == "50"  # that of the fused images has not moved
    part.locator("[data-part=image]").select_option("test-000001")
    assert "test-000001" in str(under.get_attribute("alt"))
    opened.screenshot(path=str(tmp_path / f"{width}.png"), full_page=True)
    assert complaints == []


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_of_what_each_loss_makes_slides_and_sorts(browser: Any, tmp_path: Path, width: int) -> None:
    from tests.comparison.test_by_loss import LOSSES, METRICS, PLAIN, pair

    from clipfuse.comparison.by_loss import by_loss_page

    file, complaints = tmp_path / "losses.html", []
    made = pair({"pixel": (0.5, 1.0), "ldfusion": (0.75, 3.0)}, 48)
    file.write_text(by_loss_page({"one": made, "two": made}, LOSSES, METRICS, 2, "clipfuse fuse")[0])
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(file.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    beside = opened.locator("#table").bounding_box()["x"] > opened.locator("#stage").bounding_box()["x"] + 300
    assert beside == (width == WIDTHS["wide"])
    assert opened.locator("#under").get_attribute("alt") == "one, ldfusion"
    opened.locator("#image").select_option("two")
    assert opened.locator("#over").get_attribute("alt") == "two, pixel"
    assert opened.locator("figcaption").all_inner_texts() == [*PLAIN, *LOSSES]
    opened.locator("#cut").fill("80")
    over = opened.locator(".over")
    assert over.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 0px 0px 80%)"
    opened.locator("#table th", has_text="MSE").get_by_role("button").click()
    assert opened.locator("#table tbody tr").first.inner_text().startswith("pixel")
    opened.screenshot(path=str(tmp_path / f"{width}.png"), full_page=True)
    assert complaints == []
