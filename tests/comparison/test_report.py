"""The page of a comparison, read by a parser: complete, self-contained, harmless, small."""

import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from clipfuse.comparison.album import BUDGET, Sources, album, extremes
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.compute import build_table
from clipfuse.comparison.report import report
from clipfuse.comparison.variants import Variant, group
from clipfuse.comparison.verdict import verdict
from clipfuse.metrics.protocols import STRICT

Factory = Callable[..., Path]
VOID = {"meta", "link", "img", "input", "br"}
METRICS = ("SSIM", "VIF", "MSE")


class Page(HTMLParser):
    """Elements as (tag, attributes), their text, and whether every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.text[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(root: Path, sources: Sources | None = None, baseline: str = "pixel") -> str:
    variants = group(find_runs([root]))
    tested = [Variant(v.name, tuple(r for r in v.runs if r.scores), v.settings) for v in variants]
    tested = [variant for variant in tested if variant.runs]
    table = build_table(tested, STRICT, METRICS, baseline)
    found = extremes(table, tested)
    pictures = album(table, tested, found, sources)
    return report(table, variants, verdict(table), ["a note"], pictures, found, f"clipfuse compare {root}")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, sweeps: Callable[[Path], Factory]) -> Path:
    sweep = sweeps(tmp_path_factory.mktemp("report") / "sweep")
    for place, loss in enumerate(("pixel", "ldfusion", "clip_ratio")):
        for seed in (0, 1):
            root = sweep(loss, seed=seed, level=place / 2, pictures=None if seed else 24)
    return root


@pytest.fixture(scope="module")
def text(three: Path) -> str:
    """The page of three losses, drawn once."""
    return page(three)


def test_the_page_is_complete(text: str) -> None:
    read = Page(text)
    assert read.open == []
    assert text.startswith("<!doctype html>")
    assert len(text.encode()) < 8e6 - BUDGET
    ids = Counter(attributes["id"] for _, attributes in read.elements if attributes.get("id"))
    assert {name for name, count in ids.items() if count > 1} == set()
    targets = [link["href"] for link in read.all("a")]
    assert {target[1:] for target in targets if target} <= set(ids)
    assert "No winner is named: 2 seeds per loss are fewer than 4" in text
    assert "a note" in text
    assert text.index("No winner") < text.index("<table")
    # Three metrics, ranks and who is better, the validation curve, and two terms of each of three losses.
    assert len([svg for svg in read.all("svg") if svg.get("aria-label")]) == 3 + 2 + 1 + 3 * 2
    data = json.loads(read.text["script"][0])
    assert list(data["images"]) == [f"test-{index:06d}" for index in range(6)]
    assert list(data["images"]["test-000000"]) == ["clip_ratio", "ldfusion", "pixel"]
    assert [len(data["extremes"]["SSIM"]["pixel"][kind]) for kind in ("best", "worst")] == [3, 3]
    assert data["extremes"]["SSIM"]["pixel"]["best"][0][0] == "test-000005"
    assert data["extremes"]["MSE"]["pixel"]["best"][0][0] == "test-000000"


def test_the_table_can_be_sorted_and_read_aloud(text: str) -> None:
    read = Page(text)
    heads = [th for th in read.all("th") if "aria-sort" in th]
    assert len(heads) == 2 + 3 + 3
    assert Counter(th["aria-sort"] for th in heads) == {"none": 7, "ascending": 1}
    assert all(label in " ".join(read.text["button"]) for label in ("SSIM ↑", "MSE ↓", "samples/s"))
    for name in ("cut", "zoom", "x", "y"):
        (slider,) = [field for field in read.all("input") if field.get("id") == name]
        assert slider["type"] == "range"
    assert len(read.all("label")) >= 8
    assert read.all("html") == [{"lang": "en"}]
    assert all("alt" in picture for picture in read.all("img"))


def test_nothing_is_fetched(text: str) -> None:
    read = Page(text)
    for _, attributes in read.elements:
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert re.match(r"data:|#|$", attributes.get(key) or "")
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text)
    policy = [meta["content"] for meta in read.all("meta") if meta.get("http-equiv")]
    assert policy[0] is not None
    assert "default-src 'none'" in policy[0]


def test_hostile_names_stay_text(sweep: Factory) -> None:
    evil = "<img src=x onerror=alert(1)>$x$"
    images = [f"{evil}{index}" for index in range(6)]
    root = sweep(images=images)
    for text in ("</script>", evil):
        sweep("ldfusion", options={"loss.text": text, "loss.long": text * 9}, images=images)
    text = page(root)
    read = Page(text)
    assert read.open == []
    assert not any("onerror" in attributes for _, attributes in read.elements)
    assert len(read.all("script")) == 2
    found = json.loads(read.text["script"][0])["extremes"]["SSIM"]["pixel"]
    assert all(image.startswith(evil) for image, _ in found["best"] + found["worst"])


def test_the_same_runs_give_the_same_bytes(three: Path, text: str) -> None:
    assert page(three) == text


def test_one_loss_and_one_seed_without_pictures_or_curves(sweep: Factory) -> None:
    text = page(sweep(curves=()))
    assert Page(text).open == []
    assert "No run here has images" in text
    assert "nothing to compare it with" in text


def test_unfinished_runs_show_their_curves(sweep: Factory) -> None:
    root = sweep()
    sweep("ldfusion", status={"status": "running"}, images=())
    text = page(root)
    assert "Terms of ldfusion in training" in text
    assert text.count('<tr class="trivial">') == 0


def test_settings_that_differ_are_shown(sweep: Factory) -> None:
    root = sweep(options={"loss.weight": 1.0, "versions.torch": "2.8.0"})
    sweep(options={"loss.weight": 5.0, "versions.torch": "2.9.0"})
    headers = [text.strip() for text in Page(page(root, baseline="pixel weight=1.0")).text["th"]]
    assert {"loss.weight", "versions.torch"} <= set(headers)
    assert "backbone.width" not in headers


def test_commands_of_the_sweep_are_quoted(sweep: Factory) -> None:
    root = sweep()
    (root / "sweep.yaml").write_text("jobs:\n  0:\n  - loss=pixel\n  - seed=0\n")
    again = f"<code>clipfuse train --from {root / '0'}</code>"
    assert f"{again}<br><code>clipfuse train loss=pixel seed=0</code>" in page(root)
    words = "words: ['hydra.searchpath=[file://a b]', seed=0]\njobs: {0: [loss=mine]}\n"
    (root / "sweep.yaml").write_text(words)
    assert "clipfuse train &#39;hydra.searchpath=[file://a b]&#39; loss=mine</code>" in page(root)
    (root / "sweep.yaml").write_text("jobs: 3\n")
    assert page(root).count("clipfuse train") == page(root).count(again) == 1
