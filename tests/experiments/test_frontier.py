"""The study of the bi-level frontier: rows that compose, a rule written first, an answer that moves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments.common import compose_run
from experiments.downstream import study as downstream
from experiments.frontier import answer, choose, study
from omegaconf import OmegaConf

from clipfuse.cli.config import check_config, conf_dir
from clipfuse.cli.train import GROUPS
from clipfuse.clip.encoder import FrozenClip
from clipfuse.data.synthetic.labels import LABELS
from clipfuse.losses.pixel import PixelLoss
from clipfuse.losses.promptfusion_views import PromptFusionViewsLoss
from clipfuse.runs.train import TrainSettings


@pytest.mark.parametrize("name", downstream.SETS)
def test_each_row_composes(name: str) -> None:
    for loss, words in study.losses_of(name, list(study.LOSSES)).items():
        data = [word.format(msrs="x") for word in downstream.SETS[name]]
        config = compose_run([*downstream.words(words, 300), *data, "clip=micro", "run_dir=x"])
        check_config(config, TrainSettings, GROUPS)
        assert config.loss.get("warmup", 60) == 60, loss
        if loss == "promptfusion_views_objects":
            assert list(config.loss.objects) == ["person", "car"]
            names = OmegaConf.to_container(config.loss, resolve=True)["class_names"]  # type: ignore[call-overload,index]
            assert name == "msrs" or tuple(names) == LABELS.names
            assert "person" in names


def test_the_rule_takes_the_best_mean_rank_of_those_that_are_able() -> None:
    able = dict.fromkeys(choose.GRID, 0.96)
    level = {setting: dict.fromkeys(choose.METRICS, 0.5) for setting in choose.GRID}
    assert choose.choose(level, able) == choose.GRID[0]  # of equals the first
    better = {**level, choose.GRID[3]: {**level[choose.GRID[3]], choose.METRICS[1]: 0.6}}
    assert choose.choose(better, able) == choose.GRID[3]
    assert choose.choose(better, {**able, choose.GRID[3]: 0.94}) == choose.GRID[0]
    none = {**dict.fromkeys(choose.GRID, 0.5), choose.GRID[2]: 0.7, choose.GRID[4]: 0.7}
    assert choose.choose(better, none) == choose.GRID[2]


def test_the_choice_looks_at_validation_alone() -> None:
    words = choose.sweep("x", 300)
    assert "test=false" in words
    assert not set(choose.SEEDS.split(",")) & set(downstream.SEEDS.split(","))
    kept = Path(choose.__file__).parent / "choice.json"
    if not kept.exists():
        return
    rows = json.loads(kept.read_text())
    scores = {tuple(row["setting"]): row for row in rows}
    target, anchor = choose.choose(scores, {setting: row["right"] for setting, row in scores.items()})
    settings = OmegaConf.load(conf_dir() / "loss/promptfusion_views.yaml")
    assert (settings.fused_target, settings.anchor_weight) == (target, anchor)


def test_the_answer_is_measured_where_it_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples of noise and few iterations: the slope falls, the solution moves, the network feels it."""
    monkeypatch.setattr(answer, "ITERATIONS", 12)
    generator = torch.Generator().manual_seed(0)
    noise = [torch.rand(2, 1, 32, 32, generator=generator) for _ in range(4)]
    pairs: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "loss/promptfusion.yaml").pairs)
    loss = PromptFusionViewsLoss(FrozenClip.load("micro"), PixelLoss(), pairs, warmup=0, anchor_weight=1.0)
    level = answer.Level(loss.train(), [(noise[0], noise[1]), (noise[2], noise[3])])
    moves, _, indirect, left = map(float, answer.measure(level))
    assert moves > 0
    assert abs(indirect) > 0.01
    assert left < 0.5
