"""The rule of the second recipe: its measures against loops, its vetoes by images that break them."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import compose_run
from experiments.second_recipe import rule, search
from experiments.second_recipe.split import split_in

from clipfuse.files import read_json
from clipfuse.images import write_png
from clipfuse.types import FusionBatch


def bands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    infrared, visible = torch.rand(2, 1, 1, 20, 24, generator=generator)
    return 0.2 + 0.3 * infrared, 0.4 + 0.2 * visible


def test_overshoot_equals_a_loop():
    infrared, visible = bands()
    fused = torch.rand(1, 1, 20, 24, generator=torch.Generator().manual_seed(1))
    outside = 0
    for row in range(20):
        for column in range(24):
            place = slice(max(0, row - 3), row + 4), slice(max(0, column - 3), column + 4)
            near = torch.cat([infrared[0, 0][place].flatten(), visible[0, 0][place].flatten()])
            value = float(fused[0, 0, row, column])
            outside += value > float(near.max()) + 8 / 255 or value < float(near.min()) - 8 / 255
    assert outside > 100
    assert float(rule.overshoot(fused, infrared, visible)) == pytest.approx(outside / 480, abs=1e-6)
    assert float(rule.overshoot((infrared + visible) / 2, infrared, visible)) == 0


def test_the_sky_is_the_flattest_bright_patch_above():
    infrared, visible = torch.rand(2, 1, 1, 120, 96, generator=torch.Generator().manual_seed(0))
    assert rule.sky(infrared, visible) is None
    visible[..., 0:32, 40:72], infrared[..., 0:32, 40:72] = 0.8, 0.1
    assert rule.sky(infrared, visible) == (slice(0, 32), slice(40, 72))
    visible[..., 0:32, 40:72] = 0.3  # flat, and dark: no sky of a day
    assert rule.sky(infrared, visible) is None
    assert rule.sky(infrared[..., :60, :], visible[..., :60, :]) is None  # a third is lower than a patch


def test_vetoes():
    fair = {"noise": 0.1, "overshoot": 0.001, "luma": 1.0, "sky": 0.5}
    rows = {rule.MAXIMUM: {"noise": 0.1, "overshoot": 0.0}}
    spoilt = {
        "noise": {"noise": 0.21},
        "overshoot": {"overshoot": 0.02},
        "luma": {"luma": 0.94},
        "sky": {"sky": 2.1},
    }
    assert rule.rejection("fair", rows | {"fair": fair}) is None
    for name, change in spoilt.items():
        assert name in str(rule.rejection(name, rows | {name: fair | change}))
    assert rule.rejection(rule.MAXIMUM, rows) is None
    night = {"noise": 0.1, "overshoot": 0.0}  # neither level nor sky is known of a night
    assert rule.rejection("night", rows | {"night": night}) is None


def test_the_lowest_rank_wins_and_a_rejected_one_is_last():
    def row(value: float, **more: float) -> dict[str, float]:
        return {"noise": 0.1, "overshoot": 0.0} | dict.fromkeys(rule.BALANCED, value) | more

    one = {rule.MAXIMUM: row(0.5), "good": row(0.6), "noisy": row(0.9, noise=1.0)}
    two = {rule.MAXIMUM: row(0.5), "good": row(0.4), "noisy": row(0.9)}
    found = rule.decide({"one": one, "two": two})
    assert {name: rank for name, (rank, _) in found.items()} == {rule.MAXIMUM: 1.5, "good": 1.5, "noisy": 3}
    assert list(found)[-1] == "noisy"
    assert found["noisy"][1] is not None


def test_scores_of_scenes():
    infrared, visible = (band.repeat_interleave(4, -1).repeat_interleave(4, -2) for band in bands())
    scene = FusionBatch(infrared, visible, torch.full((1, 2, 80, 96), 0.5), ("00001D",))
    average = {rule.MAXIMUM: torch.maximum, "average": lambda first, second: (first + second) / 2}
    found = rule.score([scene], average, days=["00001D"])
    assert found["average"]["luma"] == pytest.approx(
        float((infrared + visible).mean() / 2 / visible.mean()), abs=0.01
    )
    assert {"noise", "overshoot", *rule.BALANCED} - {"kept-targets"} <= found["average"].keys()
    assert "luma" not in rule.score([scene], average)["average"]


def test_the_trainings_of_the_search_compose_and_differ_in_loss_and_start_alone(tmp_path: Path):
    data = [word.format(roadscene="x", msrs="y", split="z") for word in search.DATA]
    configs = {
        name: compose_run([*search.words(loss, data, 10, "3"), "run_dir=x"])
        for name, loss in search.LOSSES.items()
    }
    best = compose_run(["experiment=best", *data[1:2], "trainer=cpu", "run_dir=x"])
    for name, network in search.NETWORKS.items():
        config = compose_run([*search.words(["loss=balanced"], data, 10, "3", network), "run_dir=x"])
        assert {**config, "backbone": None} == {**configs["balanced"], "backbone": None}, name
        assert config.backbone != configs["balanced"].backbone
    for config in configs.values():
        same = ("backbone", "data", "optimizer", "scheduler", "loader", "steps", "seed")
        assert {key: config[key] for key in same} == {key: configs["pixel"][key] for key in same}
    assert configs["promptfusion"].loss.warmup == 2
    fidelity = {"brightness_weight": 1.0, **configs["promptfusion, balanced"].loss.fidelity}
    assert fidelity == configs["balanced"].loss
    for key in ("backbone", "loss", "optimizer", "scheduler", "loader"):
        assert best[key] == configs["balanced"][key], key
    assert best.data.sources.msrs.scenes == configs["pixel"].data.sources.msrs.scenes


def test_the_split_holds_whole_blocks_apart(tmp_path: Path):
    names = ["00001D", "00009D", "00017D", "00501D", "01002N", "01202N"]
    for part, chosen in {"train": names, "test": ["00102D"]}.items():
        for band in ("ir", "vi"):
            folder = tmp_path / "msrs" / part / band
            folder.mkdir(parents=True)
            for name in chosen:
                write_png(folder / f"{name}.png", torch.zeros(1, 8, 8, dtype=torch.uint8), overwrite=False)
    split = read_json(split_in(tmp_path / "out", str(tmp_path / "msrs")), remedy="")
    assert {part: sorted(found) for part, found in split.items()} == {
        "train": ["00001D", "01202N"],
        "val": ["00501D", "01002N"],
        "test": ["00102D"],
    }


def test_of_several_seeds_the_mean_is_ranked_and_trivial_fusions_are_in_the_race():
    infrared, visible = (band.repeat_interleave(4, -1).repeat_interleave(4, -2) for band in bands())
    scene = FusionBatch(infrared, visible, torch.full((1, 2, 80, 96), 0.5), ("00001D",))
    fusions = search.candidates({})
    weak = {f"weak/{seed}": lambda first, second, seed=seed: 0.5 + 0.01 * seed + 0 * first for seed in (0, 1)}
    kept, table = search.judge({"msrs": [scene]}, {**fusions, **weak})
    assert "weak" in kept
    assert all(f"| {name} |" in table for name in ("trivial:average", "trivial:laplacian", search.START))
    row = next(line for line in table.splitlines() if line.startswith("| weak |"))
    assert "±" in row
