"""Two ranks do what one process with twice the batch does: weights, prompts, curves, scores, files."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from clipfuse.cli.config import conf_dir
from clipfuse.errors import UserError
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.train import train
from clipfuse.testing.ranks import Ranks
from clipfuse.training.accumulation import AccumulatingOptimizer

Config = Callable[..., DictConfig]

# 12 updates in float64; crops, patches and pictures are drawn by sample, not by rank.
EXACT = ["trainer.precision=64-true", "steps=12", "validate_every=6", "optimizer.lr=1e-3"]
PROMPTS = ["loss=promptfusion", "loss.warmup=8", "loss.fidelity.decomposition_weight=0"]
LOSSES = {
    # The loss looks at no chroma: the ranks would wait for gradients of the layers that learn it.
    "pixel": ["accumulate=2", "ema=0.9", "input_noise=0.05", "backbone.chroma=true"],
    # This term multiplies rounding by ten every two updates: 7e-14 after 12, 4e-9 after 20.
    "decomposition": ["loss.decomposition_weight=2"],
    "ldfusion": ["loss=ldfusion", "loss.patches=2", "loss.patch_mean=kept"],
    "value_penalty": PROMPTS,
    "order_2": [*PROMPTS, "solver.order=2"],
    "meha": [*PROMPTS, "solver=meha"],
    "alternate": [*PROMPTS, "solver=alternate"],
    "joint": [*PROMPTS, "solver=joint"],
    "views": ["loss=promptfusion_views", "loss.warmup=8", "loss.fidelity.decomposition_weight=0"],
    "task": ["loss=task", "loss.warmup=4", "loss.network.width=4", "solver=value_penalty", "solver.every=3"],
    "adversarial": ["loss=adversarial", "loss.width=4", "solver.every=2"],
    "unrolled": ["loss=learned_loss", "loss.width=4", "solver.steps=2", "solver.every=2"],
}


def train_here(plain: dict[str, Any]) -> float | None:
    """Run one rank, in a process of the pool."""
    return train(OmegaConf.create(plain))


def break_off(plain: dict[str, Any]) -> None:
    """Train until the power fails in the fifth update, in the middle of what one solve of prompts serves."""
    from clipfuse.runs.train import train

    step = AccumulatingOptimizer.step
    calls = []

    def fail(self: AccumulatingOptimizer) -> None:
        calls.append(step(self))
        if len(calls) == 5:
            raise InterruptedError("power cut")

    with patch.object(AccumulatingOptimizer, "step", fail), pytest.raises(InterruptedError):
        train(OmegaConf.create(plain))


def train_on(ranks: Ranks, config: DictConfig) -> Path:
    results = ranks.run(train_here, OmegaConf.to_container(config, resolve=True))
    assert results[0] == results[1]
    return Path(config.run_dir)


def tensors(node: Any, path: str = "") -> dict[str, Tensor]:
    """Return all tensors and numbers of a nested structure."""
    if isinstance(node, dict):
        parts = node.items()
    elif isinstance(node, list | tuple):
        parts = dict(enumerate(node)).items()
    elif isinstance(node, Tensor) or (isinstance(node, float | int) and not isinstance(node, bool)):
        return {path: torch.as_tensor(node)}
    else:
        return {}
    return {name: value for key, part in parts for name, value in tensors(part, f"{path}/{key}").items()}


def learned(folder: Path) -> dict[str, Tensor]:
    """Return weights, prompts, averages and the states of optimiser, schedule and solver."""
    checkpoint = read_checkpoint(folder / "checkpoints/last.ckpt")
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "current_model_state", "clipfuse")
    content = {key: checkpoint[key] for key in kept if key in checkpoint}
    content["clipfuse"] = content["clipfuse"]["solver"]
    return tensors(content)


def numbers(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_rows(ours: Path, theirs: Path, tolerance: float) -> None:
    mine, other = numbers(ours), numbers(theirs)
    assert len(mine) == len(other)
    for row, twin in zip(mine, other, strict=True):
        assert row.keys() == twin.keys()
        for key, value in row.items():
            try:
                assert float(value) == pytest.approx(
                    float(twin[key]), rel=tolerance, abs=tolerance, nan_ok=True
                )
            except ValueError:
                assert value == twin[key]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_same_run(ours: Path, theirs: Path, bits: bool = False) -> None:
    """Compare everything two runs left: numbers to rounding, or to the bit."""
    mine, other = learned(ours), learned(theirs)
    assert mine.keys() == other.keys()
    for key, value in mine.items():
        # Sums over the batch in another order, 12 times.
        tolerance = 0.0 if bits else 1e-9
        close = torch.allclose(value.double(), other[key].double(), rtol=tolerance, atol=tolerance)
        assert close, f"{key} differs by {(value.double() - other[key].double()).abs().max():.3g}"
    assert files(ours) == files(theirs)
    for path in theirs.rglob("*.csv"):
        # CLIP's scores are logged in single precision where the run is.
        assert_same_rows(ours / path.relative_to(theirs), path, 0.0 if bits else 1e-7)
    for path in (theirs / "test").rglob("*.png"):
        assert path.read_bytes() == (ours / "test" / path.relative_to(theirs / "test")).read_bytes()


@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_equal_one_process_of_twice_the_batch(
    name: str, tiny_config: Config, tmp_path: Path, ranks: Ranks
) -> None:
    common = [*EXACT, *LOSSES[name]]
    alone = tiny_config(*common, "loader.batch_size=4", f"run_dir={tmp_path / 'alone'}")
    both = tiny_config(*common, "trainer=ddp_cpu", "loader.batch_size=2", f"run_dir={tmp_path / 'both'}")
    if name == "decomposition":  # its term looks at the features of a contourlet network
        for config in (alone, both):
            config.backbone = OmegaConf.load(conf_dir() / "backbone/contourlet.yaml")
            config.backbone.update({"dim": 4, "heads": 2, "stride": 2, "dense": False, "smooth": True})
            config.backbone.update({"encoder_blocks": 1, "decoder_blocks": 1, "unet_width": 2})
    if name == "task":  # it needs labels
        for config in (alone, both):
            config.data = OmegaConf.load(conf_dir() / "data/synthetic.yaml")
            config.data.update({"train": 8, "val": 2, "test": 2, "size": 64})
    train(alone)
    train_on(ranks, both)
    assert_same_run(tmp_path / "both", tmp_path / "alone")


def test_ranks_with_unequal_numbers_of_images_agree(
    tiny_config: Config, tmp_path: Path, pairs_folder: Path, ranks: Ranks
) -> None:
    root = tmp_path / "pairs"
    shutil.copytree(pairs_folder, root)
    for path in [*root.glob("val/*/val-0.png"), *root.glob("test/*/test-1.png")]:
        shutil.copy(path, path.with_stem(f"{path.stem}-again"))
    common = [*EXACT, "steps=4", "validate_every=2", f"data.root={root}"]
    train(tiny_config(*common, "loader.batch_size=4", f"run_dir={tmp_path / 'alone'}"))
    train_on(ranks, tiny_config(*common, "trainer=ddp_cpu", f"run_dir={tmp_path / 'both'}"))
    assert_same_run(tmp_path / "both", tmp_path / "alone")


@pytest.mark.parametrize("solver", ["value_penalty", "order_2", "meha"])
def test_a_resumed_run_of_two_ranks_is_bit_equal(
    solver: str, tiny_config: Config, tmp_path: Path, ranks: Ranks
) -> None:
    common = ["trainer=ddp_cpu", "validate_every=2", "test=false", *LOSSES[solver], "loss.warmup=1"]
    common += [] if solver == "meha" else ["solver.every=4"]  # it has no solve that serves several updates
    straight = train_on(ranks, tiny_config(*common, f"run_dir={tmp_path / 'straight'}"))
    broken = tiny_config(*common, f"run_dir={tmp_path / 'broken'}")
    ranks.run(break_off, OmegaConf.to_container(broken, resolve=True))
    last = tmp_path / "broken/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == 4
    resumed = tiny_config(*common, f"run_dir={tmp_path / 'broken'}", f"checkpoint={last}")
    assert_same_run(train_on(ranks, resumed), straight, bits=True)


def test_every_rank_needs_an_image(tiny_config: Config, tmp_path: Path, pairs_folder: Path) -> None:
    root = tmp_path / "pairs"
    shutil.copytree(pairs_folder, root)
    for path in root.glob("val/*/val-1.png"):
        path.unlink()
    with pytest.raises(UserError, match="has 1 val pairs for 2 processes; take fewer devices"):
        train(tiny_config("trainer=ddp_cpu", f"data.root={root}"))
    assert not (tmp_path / "run").exists()


def test_many_devices_need_a_strategy(tiny_config: Config) -> None:
    with pytest.raises(UserError, match=r"trainer\.devices is 2; for more than one take trainer=ddp"):
        train(tiny_config("trainer.devices=2"))


SMALL = ["data=folder", "steps=4", "validate_every=2", "loader.batch_size=2", "loader.crop_size=32"]
SMALL += ["backbone=conv_tiny", "backbone.width=8", "backbone.depth=1", "trainer=ddp_cpu"]


def launch(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, text=True, capture_output=True, timeout=600, check=False
    )


def test_torchrun_does_the_same_as_our_own_start(
    pairs_folder: Path, tmp_path: Path, clipfuse: Callable[..., tuple[int, str, str]]
) -> None:
    words = ["-m", "clipfuse.cli", "train", *SMALL, f"data.root={pairs_folder}"]
    assert clipfuse(*words[2:], f"run_dir={tmp_path}/it's a=run")[0] == 2
    ours = launch(*words, 'run_dir="it\'s a=run"', folder=tmp_path)
    assert ours.returncode == 0, ours.stderr
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *words]
    theirs = launch(*torchrun, "run_dir=theirs", folder=tmp_path)
    assert theirs.returncode == 0, theirs.stderr
    assert_same_run(tmp_path / "theirs", tmp_path / "it's a=run", bits=True)
    assert {path.name for path in tmp_path.iterdir()} == {"it's a=run", "theirs"}
    # Nothing is said twice, and nobody warns of what is meant to be.
    assert ours.stdout.count("run folder:") == theirs.stdout.count("run folder:") == 1
    assert "Warning" not in ours.stderr


LOSS_OF_RANK_ONE = """
from torch import distributed
from clipfuse.losses.base import FusionLoss
from clipfuse.types import LossOutput

class Broken(FusionLoss):
    def forward(self, inputs):
        total = inputs.fused.mean()
        broken = distributed.get_rank() == 1 and inputs.step == 1
        return LossOutput(total * float("nan") if broken else total, {})
"""


def test_a_rank_that_fails_takes_the_others_with_it(pairs_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(LOSS_OF_RANK_ONE)
    words = [*SMALL, f"data.root={pairs_folder}", "loss=custom", "loss._target_=broken.Broken", "run_dir=run"]
    done = launch("-m", "clipfuse.cli", "train", *words, folder=tmp_path)
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["status"] == "failed"
    assert "the loss 'broken' is nan at update 1" in status["reason"]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if "clipfuse: error: " in line]
    found = {line.partition("error: ")[2] for line in said}
    assert status["reason"] in found
    assert found <= {status["reason"], f"another process of this run failed: {status['reason']}"}
