"""Scores that were cut or edited are refused; older runs, which cannot tell, are named."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipfuse.comparison.collect import file_notes, find_runs
from clipfuse.data.folder import PairedFolder
from clipfuse.data.splits import read_split, split_fingerprint
from clipfuse.errors import UserError

Factory = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]
SCORES = {"SSIM": [1.0, 2.0, 3.0], "EN": [4.0, 5.5, 6.0]}
NEW = {"split_of": "names, content and scenes"}


@pytest.fixture
def root(sweep: Factory) -> Path:
    """The sweep of one run whose scores have a digest."""
    root = sweep(scores=SCORES, images=("a", "b", "c"), options=NEW)
    describe(root / "0")
    return root


def describe(run: Path, **other: Any) -> None:
    digest = hashlib.sha256((run / "test/per_image.csv").read_bytes()).hexdigest()
    means = {name: sum(values) / 3 for name, values in SCORES.items()}
    content = {"images": 3, "per_image_sha256": digest, "mean": means} | other
    (run / "test/metrics.json").write_text(json.dumps(content))


def test_a_whole_file_is_read(root: Path) -> None:
    (run,) = find_runs([root])
    assert run.digested
    assert run.scores["EN"] == {"a": 4.0, "b": 5.5, "c": 6.0}
    assert file_notes([run]) == []


@pytest.mark.parametrize("digest", [{}, {"per_image_sha256": None}])
def test_a_cut_file_is_refused(root: Path, digest: dict[str, None]) -> None:
    """Older runs have no digest, yet count their images."""
    describe(root / "0", **digest)
    table = root / "0/test/per_image.csv"
    lines = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UserError, match=r"per_image\.csv holds 2 of 3 images that metrics\.json counts"):
        find_runs([root])


def test_an_edited_file_is_refused(root: Path) -> None:
    table = root / "0/test/per_image.csv"
    table.write_bytes(table.read_bytes().replace(b"a,a", b"a,b"))
    with pytest.raises(
        UserError, match=r"per_image\.csv was changed after the test: its digest .*leave its folder out"
    ):
        find_runs([root])


@pytest.mark.parametrize("mean", [2.0001, 3, -2])
def test_edited_means_are_refused(root: Path, mean: float) -> None:
    describe(root / "0", mean={"SSIM": mean})
    with pytest.raises(
        UserError, match=rf"metrics\.json was changed .*states SSIM {mean}, the images give 2"
    ):
        find_runs([root])


@pytest.mark.parametrize("mean", [2.00000001, None, "?"])
def test_rounded_and_missing_means_pass(root: Path, mean: object) -> None:
    describe(root / "0", mean={"SSIM": mean, "unknown": 1.0})
    assert find_runs([root])[0].digested


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_record_is_named(root: Path, text: str) -> None:
    (root / "0/test/metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.json: "):
        find_runs([root])


def test_older_runs_are_read_with_a_note(sweep: Factory, root: Path) -> None:
    sweep(seed=1, scores=SCORES, images=("a", "b", "c"), options=NEW)  # no metrics.json
    sweep(seed=2, scores=SCORES, images=("a", "b", "c"))
    describe(root / "2")
    sweep(seed=3, scores=SCORES, images=("a", "b", "c"))
    describe(root / "3", per_image_sha256=None)
    runs = find_runs([root])
    assert [run.digested for run in runs] == [True, False, True, False]
    assert file_notes(runs) == [
        "2 of 4 runs lack a digest of their scores: a change after the test would not be noticed.",
        "2 of 4 runs lack a fingerprint of their data's content: that they used the same images is checked "
        "by the names alone.",
    ]


def test_the_shipped_runs_are_read() -> None:
    results = Path(__file__).parents[2] / "experiments/compare_losses/results"
    older, scored_again = find_runs([results / "roadscene_time.zip"]), find_runs([results / "roadscene.zip"])
    assert all(run.scores and not run.digested for run in older)
    assert len(file_notes(older)) == 2
    assert all(run.digested for run in scored_again)
    assert len(file_notes(scored_again)) == 1
    runs = older + scored_again
    assert {run.split for run in runs} == {split_fingerprint(read_split("roadscene"))}


def test_a_warning_of_the_run_is_told_once(sweep: Factory) -> None:
    warning = {"scenes.warning": "the test pictures look like video: set data.scenes=auto"}
    root = sweep(images=(), options=NEW | warning)
    sweep(seed=1, images=(), options=NEW | warning)
    sweep(seed=2, images=(), options=NEW | {"scenes": "odd"})
    notes = file_notes(find_runs([root]))
    assert notes == ["The test pictures look like video: set data.scenes=auto."]


def test_the_data_at_hand_is_known_by_content(clipfuse: Command, sweep: Factory, pairs_folder: Path) -> None:
    source = PairedFolder(str(pairs_folder))
    data = {"_target_": "clipfuse.data.folder.PairedFolder", "root": str(pairs_folder)}
    images = source.parts()["test"]
    for number, (split, options, there) in enumerate(
        [
            (source.names_fingerprint(), {}, True),
            (source.fingerprint(), NEW, True),
            (source.names_fingerprint(), NEW, False),
            (source.fingerprint(), {}, False),
        ]
    ):
        keys = {"data": data, "split_sha256": split, **options}
        root = sweep(images=images, options=keys, folder=f"sweep{number}/0")
        code, out, _ = clipfuse("compare", str(root / f"sweep{number}"), "--metrics", "SSIM")
        assert code == 0
        assert ("the data set has changed since" not in out) is there
