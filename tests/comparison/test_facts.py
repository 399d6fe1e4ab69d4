"""The head of a comparison: what was compared, on what, by which CLIP and versions, in every format."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clipfuse.api.comparing import compare
from clipfuse.comparison.facts import _clip_name
from clipfuse.comparison.plots import Drawing

Factory = Callable[..., Path]
MICRO = {"clip_identity": {"model": "micro", "pretrained": None, "version": 3, "weights_sha256": "00"}}


@pytest.fixture
def root(sweep: Factory) -> Path:
    for seed in (3, 5):
        sweep(seed=seed, scenes=("x", "x", "y", "y", "z", "z"))
        root = sweep("ldfusion", seed=seed, scenes=("x", "x", "y", "y", "z", "z"), options=MICRO)
    return root


def test_the_head_holds_what_a_reader_must_know(root: Path, tmp_path: Path) -> None:
    found = compare(root, trivial=False)
    date = found.facts.pop("date")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", date)
    known = found.facts
    assert known.pop("date") == date
    assert known == {
        "data": "synthetic",
        "split": "fingerprint 4bcf",
        "scenes": "6 test images of 3 scenes",
        "CLIP": "none (pixel); micro 3 (a stand-in, not OpenAI's CLIP) (ldfusion)",
        "protocol": "strict-2, ranked by classic-1",
        "seeds": "3, 5",
        "versions": "clipfuse 0.1.0, torch 2.8.0",
    }
    for name in ("x.html", "x.md", "x.tex"):
        found.save(tmp_path / name)
        text = (tmp_path / name).read_text().replace("&#39;", "'")
        head = text[: text.index("<nav")] if name == "x.html" else text  # before anything that is folded
        assert "<details" not in head
        assert all(value in head for value in known.values())
        assert date in head


def test_values_that_differ_are_shown_with_their_losses(sweep: Factory) -> None:
    sweep(seed=0)
    sweep(seed=1)
    options = {"data.name": "roadscene", "data.root": "/elsewhere/mine", "data.split": "hash"}
    root = sweep("ldfusion", options=options | {"versions.torch": "2.9.1", "versions.git_commit": "ab" * 20})
    known = compare(root, trivial=False, mix=["data", "versions"]).facts
    assert known["seeds"] == "0, 1 (pixel); 0 (ldfusion)"
    assert known["data"] == "synthetic (pixel); roadscene in mine (ldfusion)"
    assert known["split"] == "fingerprint 4bcf (pixel); hash, fingerprint 4bcf (ldfusion)"
    assert known["versions"].endswith("clipfuse 0.1.0, torch 2.9.1, commit ababababab (ldfusion)")


def test_an_edition_of_the_bundled_clip_is_named_by_its_version() -> None:
    first = {"model": "micro", "version": 1}
    names = [_clip_name({**first, "pretrained": given}) for given in (None, "micro_1", "/mine/micro")]
    assert [name.partition(" (")[0] for name in names] == ["micro 1", "micro 1", "micro /mine/micro 1"]


def test_labels_of_an_axis_tell_values_apart() -> None:
    def draw(figure: object) -> None:
        axes = figure.subplots()  # type: ignore[attr-defined]
        axes.plot([0.0301, 0.0302, 0.0329], [1.00001, 1.00002, 1.00003])
        axes.set_title("weight=0.1234")

    text = Drawing("x", "x", 4.4, 2.7, draw).inline()
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", text)
    assert "weight=0.1234" in labels
    numbers = [label for label in labels if label.startswith("0.03")]
    assert len(numbers) > 3
    assert len(set(labels)) == len(labels)
    assert not re.search(r"<[^>]*\d\.\d{3}[^>]*>", text)  # coordinates are cut to a hundredth
