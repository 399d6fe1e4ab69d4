"""A loss or gradient that is not finite moves no weight, on any level, under any solver."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.train import train
from clipfuse.testing.ranks import Ranks
from clipfuse.types import LossInputs, LossOutput

Config = Callable[..., DictConfig]


class _Poison(torch.autograd.Function):
    """The identity, with a given gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: float) -> Tensor:
        ctx.slope = slope
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.full_like(gradient, ctx.slope), None


class TwoLevels(BilevelLoss):
    """A level of brightness as y; at one update a loss or a gradient is not finite."""

    def __init__(self, level: str, kind: str, update: int = 2) -> None:
        super().__init__()
        self.level, self.kind, self.update = level, kind, update
        self.y = nn.Parameter(torch.tensor(0.2))

    def lower_parameters(self) -> list[Tensor]:
        return [self.y]

    def prepare(self, inputs: LossInputs) -> LossInputs:
        return inputs

    def upper_loss(self, state: LossInputs, lower: Sequence[Tensor]) -> LossOutput:
        fit = (state.fused - state.infrared).square().mean()
        return self._spoilt("upper", state, fit + (state.fused.mean() - lower[0]).square())

    def lower_loss(self, state: LossInputs, lower: Sequence[Tensor]) -> LossOutput:
        return self._spoilt("lower", state, (state.fused.mean() - lower[0]).square())

    def _spoilt(self, level: str, inputs: LossInputs, total: Tensor) -> LossOutput:
        if self.training and (level, inputs.step) == (self.level, self.update):
            nan_loss = self.kind == "loss"
            total = total * float("nan") if nan_loss else _Poison.apply(total, float(self.kind))
        return LossOutput(total, {"distance": total.detach()})


def all_numbers(node: Any) -> list[Tensor]:
    if isinstance(node, Tensor):
        return [node.detach().double().flatten()]
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    return [each for part in parts for each in all_numbers(part)]


SOLVERS = {
    "joint": ["solver=joint"],
    "alternate": ["solver=alternate", "solver.every=1"],
    "gauss_newton": ["solver=gauss_newton", "solver.every=1"],
    "value_penalty": ["solver=value_penalty", "solver.every=1"],
    "unrolled": ["solver=unrolled", "solver.every=1"],
    "log": ["solver=value_penalty", "solver.every=1", "solver.penalty=log"],
    "accumulated": ["solver=value_penalty", "solver.every=1", "accumulate=2"],
    "bf16": ["solver=joint", "accumulate=2", "trainer.precision=bf16-mixed"],
}


@pytest.mark.parametrize("kind", ["loss", "nan", "inf"])
@pytest.mark.parametrize("level", ["upper", "lower"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_weight_becomes_nan(
    tiny_config: Config, tmp_path: Path, solver: str, level: str, kind: str
) -> None:
    config = tiny_config(*SOLVERS[solver], "skip_nonfinite=2", "steps=4", "validate_every=4", "test=false")
    config.loss = {"_target_": f"{__name__}.TwoLevels", "level": level, "kind": kind}
    train(config)
    checkpoint = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert checkpoint["clipfuse"]["skipped"] == config.accumulate
    numbers = torch.cat(
        all_numbers([checkpoint[key] for key in ("state_dict", "optimizer_states", "clipfuse")])
    )
    assert numbers.isfinite().all()
    assert checkpoint["global_step"] == 4


@pytest.mark.parametrize("solver", ["joint", "alternate", "gauss_newton", "value_penalty"])
def test_the_update_that_bore_it_is_named_and_the_last_checkpoint_is_whole(
    tiny_config: Config, tmp_path: Path, solver: str, user_error: Any
) -> None:
    config = tiny_config(*SOLVERS[solver], "steps=4", "validate_every=1", "test=false")
    config.loss = {"_target_": f"{__name__}.TwoLevels", "level": "upper", "kind": "nan"}
    line = user_error(train, config)
    assert line.startswith("the gradient of the loss 'two_levels' is nan at update 2 (distance = 0.")
    assert ") on samples train-" in line
    checkpoint = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert checkpoint["global_step"] == 2
    assert torch.cat(all_numbers(checkpoint["state_dict"])).isfinite().all()


def test_a_lower_level_names_itself(tiny_config: Config, user_error: Any) -> None:
    config = tiny_config(*SOLVERS["alternate"], "steps=4", "test=false")
    for kind, words in {
        "nan": "the gradient of the lower loss 'two_levels' is nan",
        "loss": "the lower loss",
    }.items():
        config.loss = {"_target_": f"{__name__}.TwoLevels", "level": "lower", "kind": kind}
        config.overwrite = True
        assert user_error(train, config).startswith(words)


class RootOfZero(FusionLoss):
    """A finite loss; on one sample its gradient is that of a root at 0."""

    def __init__(self, sample: str, weight: float = 1.0) -> None:
        super().__init__()
        self.sample, self.weight = sample, weight

    def forward(self, inputs: LossInputs) -> LossOutput:
        plain = (inputs.fused - inputs.infrared).abs().flatten(1).mean(1)
        at = torch.tensor([self.training and self.sample in name for name in inputs.sample_ids])
        total = plain.mean() + (plain * ~at).square().sqrt().mean()
        return LossOutput(total, {"distance": plain.mean().detach()})


def test_the_line_and_the_sample_are_named(tiny_config: Config, user_error: Any, tmp_path: Path) -> None:
    config = tiny_config("loader.batch_size=4", "test=false")
    config.loss = {"_target_": f"{__name__}.RootOfZero", "sample": "train-2"}
    line = user_error(train, config)
    number = next(
        n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "~at).square()" in text
    )
    assert f": it becomes so in the loss after Pow, test_nonfinite.py line {number}, on train-2;" in line
    assert json.loads((tmp_path / "run/status.json").read_text())["reason"] == line


class _NoSlope(nn.Module):
    """A network whose own backward pass is not finite."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, infrared: Tensor, visible: Tensor) -> Any:
        output = self.network(infrared, visible)
        return type(output)(_Poison.apply(output.fused, float("nan")))


def test_a_network_that_bears_it_is_named(tiny_config: Config, user_error: Any) -> None:
    config = tiny_config("test=false")
    config.backbone = {
        "_target_": f"{__name__}._NoSlope",
        "network": {"_target_": "clipfuse.backbones.conv_tiny.ConvTiny", "width": 4, "depth": 1},
    }
    assert ": it becomes so in the network; " in user_error(train, config)


class OddTerm(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        total = (inputs.fused - inputs.infrared).abs().mean()
        odd = torch.tensor(float("nan") if inputs.step else 1.0)
        return LossOutput(total, {"distance": total.detach(), "odd": odd})


def test_a_term_that_is_only_logged_is_shown(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("test=false", "trainer.log_every_n_steps=5")
    config.loss = {"_target_": f"{__name__}.OddTerm"}
    train(config)
    assert caplog.text.count("train/loss/odd_term/odd is nan at update 1 on samples train-") == 1
    header, *rows = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    assert "nan" in {row[header.index("train/loss/odd_term/odd")] for row in rows}


def train_here(plain: dict[str, Any]) -> float | None:
    return train(OmegaConf.create(plain))


def train_and_fail(plain: dict[str, Any]) -> str:
    try:
        train(OmegaConf.create(plain))
    except UserError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_skip_together(tiny_config: Config, tmp_path: Path, ranks: Ranks, accumulate: int) -> None:
    options = ["trainer=ddp_cpu", "skip_nonfinite=9", "test=false", f"accumulate={accumulate}"]
    config = tiny_config(*options, "loader.batch_size=1", "metrics.validation=[SSIM]", "steps=7")
    config.loss = {"_target_": f"{__name__}.RootOfZero", "sample": "train-2"}
    ranks.run(train_here, OmegaConf.to_container(config, resolve=True))
    checkpoint = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert torch.cat(all_numbers(checkpoint["state_dict"])).isfinite().all()
    # The sample comes once per pass over seven: twice, or four times with twice as many micro-batches.
    assert checkpoint["clipfuse"]["skipped"] == 2 * accumulate
    assert checkpoint["global_step"] == 7


@pytest.mark.parametrize("seed", [0, 1])
def test_an_update_that_was_skipped_has_no_row(tiny_config: Config, tmp_path: Path, seed: int) -> None:
    """Whichever of its micro-batches was not finite: a row would show one of the others as the update."""
    options = ["accumulate=2", "loader.batch_size=1", "skip_nonfinite=9", "trainer.log_every_n_steps=1"]
    config = tiny_config(*options, "steps=7", "test=false", f"seed={seed}")
    config.loss = {"_target_": f"{__name__}.RootOfZero", "sample": "train-2"}
    train(config)
    header, *rows = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    updates = {row[header.index("step")] for row in rows if row[header.index("train/gradient_norm")]}
    checkpoint = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert checkpoint["clipfuse"]["skipped"] == 2  # once per pass over seven samples, in an update each
    assert len(updates) == 7 - 2


def test_ranks_end_together(tiny_config: Config, ranks: Ranks) -> None:
    config = tiny_config("trainer=ddp_cpu", "test=false", "loader.batch_size=1", "metrics.validation=[SSIM]")
    config.loss = {"_target_": f"{__name__}.RootOfZero", "sample": "train-2"}
    first, second = ranks.run(train_and_fail, OmegaConf.to_container(config, resolve=True))
    assert first == second
    assert first.startswith("the gradient of the loss 'root_of_zero' is nan at update ")
    assert "train-2" in first
