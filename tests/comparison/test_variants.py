"""Which runs are one variant of a loss, and how variants are named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clipfuse.api.comparing import compare
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.variants import group, select
from clipfuse.errors import UserError

Factory = Callable[..., Path]


def names(root: Path) -> list[str]:
    return [variant.name for variant in group(find_runs([root]))]


def test_runs_that_differ_in_their_seed_alone_are_one_variant(sweep: Factory) -> None:
    for seed in (1, 0):
        root = sweep(seed=seed, options={"data.root": f"/place/{seed}", "trainer.max_time": seed})
    root = sweep("ldfusion", seed=1)
    variants = group(find_runs([root]))
    assert [(v.name, [run.seed for run in v.runs]) for v in variants] == [
        ("pixel", [0, 1]),
        ("ldfusion", [1]),
    ]


def test_variants_of_one_loss_are_named_by_what_differs(sweep: Factory) -> None:
    root = sweep("pixel")
    for solver, keys in {"Joint": {"lower_weight": 1.0}, "ValuePenalty": {"lower_steps": 3}}.items():
        root = sweep("promptfusion", options={"solver": {"_target_": f"clipfuse.bilevel.{solver}", **keys}})
    assert names(root) == ["pixel", "promptfusion solver=joint", "promptfusion solver=value_penalty"]


def test_losses_of_one_file_are_named_by_their_classes(sweep: Factory) -> None:
    for target in ("theirs.loss.EdgeAware", "theirs.loss.Plain", "mine.edges.First", "mine.edges.Second"):
        root = sweep(options={"loss._target_": target})
    assert names(root) == ["edge_aware", "plain", "first", "second"]


def test_a_run_that_stopped_early_is_named(sweep: Factory) -> None:
    root = sweep(status={"reason": "stopped early after update 4 of 6: a callback ended it"})
    taken, notes = select(find_runs([root]), partial=False)
    assert len(taken) == 1
    assert notes == [f"Taken: {root / '0'} (stopped early after update 4 of 6: a callback ended it)."]


def test_what_most_variants_share_goes_without_saying(sweep: Factory) -> None:
    root = sweep()
    sweep(options={"loss.weight": 5.0})
    sweep(options={"loss.mask": "none"})
    assert names(root) == ["pixel", "pixel weight=5.0", "pixel mask=none"]


def test_one_seed_twice_is_refused(sweep: Factory) -> None:
    root = sweep()
    sweep()
    with pytest.raises(UserError, match=r"are one variant with one seed \(0\).*leave one out"):
        names(root)


def test_unfinished_runs_are_told_and_left_out_unless_partial(sweep: Factory) -> None:
    root = sweep()
    sweep(seed=1, status={"status": "failed", "reason": "no memory"})
    sweep(seed=2, status={"status": "running"}, images=())
    sweep(seed=3, images=())
    taken, notes = select(find_runs([root]), partial=False)
    assert [run.seed for run in taken] == [0]
    assert [note.partition(" (")[2] for note in notes] == [
        "failed: no memory).",
        "running).",
        "finished without a test).",
    ]
    taken, notes = select(find_runs([root]), partial=True)
    assert [run.seed for run in taken] == [0, 1, 2]
    assert notes[0].endswith("(failed: no memory), with scores.")
    assert notes[1].endswith("(running), without scores.")


def test_an_unfinished_run_gives_way_to_its_finished_repetition(sweep: Factory) -> None:
    root = sweep(status={"status": "failed"})
    sweep()
    (variant,) = group(select(find_runs([root]), partial=True)[0])
    assert [run.folder.name for run in variant.runs] == ["1"]


def test_values_of_a_stranger_move_no_cursor(sweep: Factory) -> None:
    sweep()
    root = sweep(options={"loss.weight": "\x1b[2J\x07"})
    text = str(compare(root, trivial=False))
    assert "weight=?[2J?" in text
    assert "\x1b" not in text
