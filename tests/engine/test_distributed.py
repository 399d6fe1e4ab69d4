"""Two ranks do what one process with twice the batch does: weights, prompts, curves, scores, files."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from clipfuse.engine.checkpoints import read_checkpoint
from clipfuse.errors import UserError
from clipfuse.losses.base import FusionLoss
from clipfuse.testing.ranks import Ranks
from clipfuse.types import LossInputs, LossOutput

Config = Callable[..., DictConfig]

# 20 updates in float64; crops, patches and pictures are drawn by sample, not by rank.
EXACT = ["trainer.precision=64-true", "steps=20", "validate_every=10", "optimizer.lr=1e-3"]
LOSSES = {
    "pixel": ["accumulate=2", "ema=0.9", "input_noise=0.05"],
    "ldfusion": ["loss=ldfusion", "loss.patches=2", "loss.patch_mean=kept"],
    "value_penalty": ["loss=promptfusion", "loss.warmup=8", "loss.fidelity.decomposition_weight=0"],
    "alternate": [
        "loss=promptfusion",
        "loss.warmup=8",
        "loss.fidelity.decomposition_weight=0",
        "solver=alternate",
    ],
    "joint": ["loss=promptfusion", "loss.warmup=8", "loss.fidelity.decomposition_weight=0", "solver=joint"],
}


def train_here(plain: dict[str, Any]) -> float | None:
    """Run one rank, in a process of the pool."""
    import torch

    from clipfuse.engine.run import train

    torch.use_deterministic_algorithms(False)
    return train(OmegaConf.create(plain))


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


@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_equal_one_process_of_twice_the_batch(
    name: str, tiny_config: Config, tmp_path: Path, ranks: Ranks
) -> None:
    from clipfuse.engine.run import train

    common = [*EXACT, *LOSSES[name]]
    alone = tiny_config(*common, "loader.batch_size=4", f"run_dir={tmp_path / 'alone'}")
    both = tiny_config(*common, "trainer=ddp_cpu", "loader.batch_size=2", f"run_dir={tmp_path / 'both'}")
    train(alone)
    train_on(ranks, both)
    mine, theirs = learned(tmp_path / "both"), learned(tmp_path / "alone")
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        # Sums over the batch in another order, 20 times; lower levels amplify it.
        torch.testing.assert_close(
            value.double(),
            theirs[key].double(),
            rtol=1e-9,
            atol=1e-9,
            msg=lambda text, key=key: f"{key}: {text}",
        )
    assert files(tmp_path / "both") == files(tmp_path / "alone")
    assert_same_rows(tmp_path / "both/metrics.csv", tmp_path / "alone/metrics.csv", 1e-7)
    assert_same_rows(tmp_path / "both/test/per_image.csv", tmp_path / "alone/test/per_image.csv", 1e-9)
    for path in (tmp_path / "alone/test").rglob("*.png"):
        assert (
            path.read_bytes()
            == (tmp_path / "both/test" / path.relative_to(tmp_path / "alone/test")).read_bytes()
        )
