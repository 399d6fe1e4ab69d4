"""Losses are compared where all else agrees, as `clipfuse.runs.contract` lists it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.fairness import check_mixing
from clipfuse.comparison.variants import group
from clipfuse.errors import UserError
from clipfuse.runs.contract import KINDS

Factory = Callable[..., Path]
Options = dict[str, Any]
ADAM = {"optimizer._target_": "torch.optim.Adam", "optimizer.lr": 1e-5}
CONSTANT = {"scheduler._target_": "clipfuse.training.schedules.constant"}
TUNING = {
    "key": "optimizer.lr",
    "grid": [1e-3, 3e-3],
    "rule": "best SSIM on validation",
    "trials": "one each",
}


def check(root: Path, *allowed: str) -> list[str]:
    return check_mixing(find_runs([root]), allowed)


@pytest.mark.parametrize(
    ("kind", "options", "status"),
    [
        ("protocol", {"protocol": "cddfuse-1"}, {}),
        ("split", {"split_sha256": "0000"}, {}),
        ("budget", {"steps": 20}, {"samples_seen": 80}),
        ("budget", {"steps": 20}, {}),  # of which it saw no more
        ("budget", {}, {"samples_seen": 36, "fit": None}),  # stopped by the clock
        ("budget", {"loader.crop_size": 64}, {}),
        ("budget", {"loader.batch_size": 8, "steps": 5}, {"fit": None}),
        ("budget", {"accumulate": 2, "loader.batch_size": 2}, {}),
        ("data", {"data.size": 96}, {}),
        ("network", {"backbone.width": 16}, {}),
        ("network", {"backbone.norm": None}, {}),  # which the other does not have
        ("optimizer", {"optimizer.lr": 1e-3}, {}),
        ("tuning", {"tuning": TUNING, "optimizer.lr": 1e-3}, {}),
        ("schedule", {"scheduler.warmup": 0.1}, {}),
        ("clipping", {"gradient_clip": 2.0}, {}),
        ("averaging", {"ema": 0.999}, {}),
        ("noise", {"input_noise": 0.03}, {}),
        ("precision", {"trainer.precision": "bf16-mixed"}, {}),
        ("trainer", {"trainer.deterministic": True}, {}),
        ("callbacks", {"callbacks.stop": {"patience": 3}}, {}),
        ("versions", {"versions.torch": "2.9.0"}, {}),
        ("versions", {"versions.clipfuse": "0.1.1"}, {}),
        ("unknown", {"dropout": 0.1}, {}),
    ],
)
def test_mixing_is_refused_unless_told(sweep: Factory, kind: str, options: Options, status: Options) -> None:
    settled = {"optimizer.lr": 1e-3} if kind == "tuning" else {}
    root = sweep(options=settled)
    sweep(seed=1, options=options, status=status)
    runs = find_runs([root])
    with pytest.raises(UserError, match=rf"differ in {kind}: .*0 has .*1 has .*--mix {kind} to be warned"):
        check_mixing(runs, [])
    with pytest.raises(UserError, match=rf"differ in {kind}: "):
        check_mixing(runs, [each for each in KINDS if each != kind])
    (warning,) = check_mixing(runs, [kind])
    assert f"The runs differ in {kind}, so this comparison is not fair: " in warning
    key = next(iter(options), "budget")
    assert f"{key}" in warning or "samples" in warning
    assert check_mixing(runs[:1], []) == []
    assert check_mixing([], []) == []


def test_two_trainings_that_share_only_the_network_are_refused(sweep: Factory) -> None:
    """Which once ended in "'ldfusion' wins"."""
    root = sweep(options={**ADAM, **CONSTANT, "gradient_clip": 1.0, "ema": None, "input_noise": 0})
    adamw = {"optimizer._target_": "torch.optim.AdamW", "optimizer.lr": 1e-2}
    cosine = {"scheduler._target_": "clipfuse.training.schedules.cosine", "scheduler.final": 0.01}
    sweep("ldfusion", options={**adamw, **cosine, "gradient_clip": None, "ema": 0.999, "input_noise": 0.03})
    kinds = ["optimizer", "schedule", "clipping", "averaging", "noise"]
    with pytest.raises(UserError) as refusal:
        check(root)
    text = str(refusal.value)
    assert f"differ in optimizer: {root.resolve() / '0'} has optimizer._target_=torch.optim.Adam, " in text
    assert f"{root.resolve() / '1'} has optimizer._target_=torch.optim.AdamW (and in " in text
    assert "(and in schedule, clipping, averaging, noise)" in text
    assert f"add --mix {','.join(kinds)} to be warned only" in text
    with pytest.raises(UserError, match=r"differ in averaging: .*ema=null.*ema=0.999.*--mix optimizer"):
        check(root, *(kind for kind in kinds if kind != "averaging"))
    warnings = check(root, *kinds)
    assert len(warnings) == 5
    assert [warning.split()[4] for warning in warnings] == [f"{kind}," for kind in kinds]
    assert "optimizer.lr is 1e-05 (sweep/0) or 0.01 (sweep/1)" in warnings[0]
    assert "scheduler.final is not set (sweep/0) or 0.01 (sweep/1)" in warnings[1]
    assert "gradient_clip is 1.0 (sweep/0) or null (sweep/1)" in warnings[2]


def test_losses_solvers_and_what_is_harmless_differ_freely(sweep: Factory) -> None:
    root = sweep(options={"callbacks.mine.path": "nowhere", "callbacks.best": None})
    clip = {"clip_identity": {"model": "micro", "weights_sha256": "92"}, "clip": {"model": "micro"}}
    for index, solver in enumerate(("Joint", "ValuePenalty"), start=1):
        own = {"solver": {"_target_": f"clipfuse.bilevel.{solver}"}, "validate_every": index, **clip}
        own |= {"callbacks.mine.path": "nowhere", "data.root": f"place/{index}", "trainer.max_time": index}
        own |= {"callbacks.best._target_": "lightning.pytorch.callbacks.ModelCheckpoint"}
        sweep("promptfusion", options={**own, "versions.torch": f"2.8.{index}"})
    assert check(root) == []


def test_losses_that_ask_a_clip_ask_the_same(sweep: Factory) -> None:
    root = sweep()
    micro, other = ({"model": name, "weights_sha256": name} for name in ("micro", "vit"))
    sweep("ldfusion", options={"clip_identity": micro})
    assert check(root) == []
    sweep("clip_ratio", options={"clip_identity": [other, micro]})
    with pytest.raises(
        UserError, match=r"differ in clip: .*1 has clip_identity.weights_sha256=micro, .*2 has"
    ):
        check(root)


def test_runs_of_two_editions_of_the_bundled_clip_are_told_the_name_of_the_earlier(sweep: Factory) -> None:
    first = {"model": "micro", "pretrained": None, "version": 1, "weights_sha256": "9237"}
    root = sweep("ldfusion", options={"clip_identity": first})
    sweep("clip_ratio", options={"clip_identity": {**first, "pretrained": "micro_1"}})
    assert check(root) == []  # the same weights by both names
    sweep("promptfusion", options={"clip_identity": {**first, "version": 2, "weights_sha256": "a226"}})
    with pytest.raises(
        UserError,
        match=r"differ in clip: .*weights_sha256=9237, .*weights_sha256=a226.*; clip=micro_1 trains by",
    ):
        check(root)


def test_a_path_into_the_run_folder_is_no_difference(sweep: Factory) -> None:
    for seed in (0, 1):
        path = f"runs/{seed}/mine.csv"
        root = sweep(seed=seed, options={"run_dir": f"runs/{seed}", "callbacks.mine.path": path})
    assert check(root) == []
    assert len(group(find_runs([root]))) == 1


def test_many_settings_are_not_all_told(sweep: Factory) -> None:
    root = sweep()
    sweep("ldfusion", options={"backbone": {f"size{index}": index for index in range(9)}})
    (warning,) = check(root, "network")
    assert "; backbone.size1 is not set (sweep/0) or 1 (sweep/1); " in warning
    assert warning.endswith(" and 7 more settings.")


def tuned(sweep: Factory, rates: Mapping[str, float], **tuning: Any) -> Path:
    for loss, rate in rates.items():
        options = {"optimizer.lr": rate, "tuning": {**TUNING, **tuning}, "gradient_clip": 1.0}
        root = sweep(loss, options=options)
    return root


def test_a_rate_tuned_by_one_rule_may_differ_and_is_told(sweep: Factory) -> None:
    root = tuned(sweep, {"pixel": 3e-3, "ldfusion": 1e-3, "clip_ratio": 3e-3})
    assert check(root) == [
        "optimizer.lr was tuned per loss by one rule (best SSIM on validation; of 0.001, 0.003; one each): "
        "0.003 (pixel, clip_ratio), 0.001 (ldfusion)."
    ]


def test_the_rule_frees_the_tuned_key_alone(sweep: Factory) -> None:
    root = tuned(sweep, {"pixel": 3e-3})
    sweep(
        "ldfusion",
        options={"optimizer.lr": 1e-3, "optimizer.weight_decay": 0.1, "tuning": TUNING, "gradient_clip": 2.0},
    )
    with pytest.raises(UserError, match=r"differ in optimizer: .*weight_decay=not set.*\(and in clipping\)"):
        check(root)


@pytest.mark.parametrize("other", [None, {**TUNING, "trials": "five each"}, {**TUNING, "grid": [1e-3, 9e-3]}])
def test_a_rate_that_only_one_loss_tuned_is_refused(sweep: Factory, other: Options | None) -> None:
    root = tuned(sweep, {"pixel": 3e-3})
    sweep("ldfusion", options={"optimizer.lr": 1e-3, "tuning": other, "gradient_clip": 1.0})
    with pytest.raises(UserError, match=r"differ in optimizer: .*\(and in tuning\)"):
        check(root)


def test_the_trials_of_a_tuning_are_no_comparison(sweep: Factory) -> None:
    root = tuned(sweep, {"pixel": 3e-3})
    tuned(sweep, {"pixel": 1e-3})
    with pytest.raises(UserError, match=r"differ in optimizer: "):
        check(root)


def test_a_rate_beside_its_grid_is_refused(sweep: Factory) -> None:
    root = tuned(sweep, {"pixel": 2e-3})
    with pytest.raises(UserError, match=r"0/config.yaml: optimizer.lr is 0.002, which is not in tuning.grid"):
        check(root)


def test_several_numbers_of_threads_are_named_and_refused_by_nothing(sweep: Factory) -> None:
    root = sweep(options={"threads": 4})
    sweep("ldfusion", options={"threads": 16})
    sweep("clip_ratio")  # of an earlier version
    assert check(root) == [
        "The runs were trained with 4 and 16 threads: their times do not compare, and equal seeds differ in "
        "their last digits."
    ]


def test_several_devices_and_commits_are_told(sweep: Factory) -> None:
    fit = {"seconds": 9.0, "updates": 10, "samples": 40, "device": "NVIDIA H100"}
    root = sweep(options={"versions.git_commit": "c0ffee" + 34 * "0"})
    sweep("ldfusion", status={"fit": fit}, options={"versions.git_commit": "c0ffee" + 34 * "0" + "-dirty"})
    assert check(root) == [
        "The runs were trained on several devices (NVIDIA H100, cpu): their times do not compare.",
        "The runs come from 2 states of the code, by git: c0ffee0000, c0ffee0000-dirty.",
    ]


def test_what_is_swept_beside_the_loss_names_the_rows_where_it_may_be_mixed(sweep: Factory) -> None:
    for rate in (1e-4, 1e-3):
        for seed in (0, 1):
            root = sweep(seed=seed, options={"optimizer.lr": rate})
    with pytest.raises(
        UserError, match=r"--mix optimizer to be warned only; a rate .* is declared as tuning"
    ):
        check(root)
    (warning,) = check(root, "optimizer")
    assert warning.endswith("optimizer.lr is 0.0001 (2 runs, as sweep/0) or 0.001 (2 runs, as sweep/2).")
    assert [each.name for each in group(find_runs([root]))] == [
        "pixel optimizer.lr=0.0001",
        "pixel optimizer.lr=0.001",
    ]


def test_seeds_that_were_added_after_an_update_join_their_row(sweep: Factory) -> None:
    root = sweep()
    sweep(seed=1, options={"versions.torch": "2.9.0"})
    (warning,) = check(root, "versions")
    assert warning.endswith("versions.torch is 2.8 (sweep/0) or 2.9 (sweep/1).")
    assert [(each.name, len(each.runs)) for each in group(find_runs([root]))] == [("pixel", 2)]
