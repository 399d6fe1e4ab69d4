"""What a loss of one's own may need of a training: each with a small loss, and resumed bit for bit."""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss, LossArtifacts, ParameterGroup
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.train import train
from clipfuse.testing.loss_contract import LossContract, example_inputs
from clipfuse.training.parameter_groups import grouped
from clipfuse.types import LossInputs, LossOutput

Config = Callable[..., DictConfig]


def l1(fused: Tensor, inputs: LossInputs) -> Tensor:
    return (fused - inputs.infrared.maximum(inputs.visible)).abs().mean()


class Equivariant(FusionLoss):
    """A mirrored pair shall give the mirrored fused image."""

    def forward(self, inputs: LossInputs) -> LossOutput:
        assert inputs.network is not None
        mirrored = inputs.network(inputs.infrared.flip(-1), inputs.visible.flip(-1)).fused.flip(-1)
        apart = (mirrored - inputs.fused).square().mean()
        return LossOutput(l1(inputs.fused, inputs) + apart, {"equivariance": apart.detach()})


class MeanTeacher(FusionLoss):
    """The network shall not leave the mean of its own past."""

    teacher_decay = 0.9

    def forward(self, inputs: LossInputs) -> LossOutput:
        assert inputs.teacher is not None
        assert inputs.total_steps is not None
        taught = inputs.teacher(inputs.infrared, inputs.visible).fused
        assert not taught.requires_grad
        ramp = (inputs.step + 1) / inputs.total_steps
        apart = (inputs.fused - taught).square().mean()
        return LossOutput(l1(inputs.fused, inputs) + 50 * ramp * apart, {"teacher": apart.detach()})


class CropConsistent(FusionLoss):
    """A crop shall be fused as the whole image is, at any size."""

    def forward(self, inputs: LossInputs) -> LossOutput:
        assert inputs.network is not None
        high, wide = (size // 2 for size in inputs.fused.shape[2:])
        crop = inputs.network(inputs.infrared[..., :high, :wide], inputs.visible[..., :high, :wide]).fused
        apart = (crop - inputs.fused[..., :high, :wide]).abs().mean()
        images = {"crop": crop[0].detach(), "visible": inputs.visible[0]}
        return LossOutput(l1(inputs.fused, inputs) + apart, {"crop": apart.detach()}, images)


class Frozen(FusionLoss):
    """Looks through a frozen network with batch norm and dropout, and learns a scale at its own rate."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.features.requires_grad_(False).eval()
        self.head = nn.Conv2d(3, 1, 1)

    def parameter_groups(self) -> Mapping[str, ParameterGroup]:
        return {"head": ParameterGroup(lr=0.05, gradient_clip=1e-3)}

    def forward(self, inputs: LossInputs) -> LossOutput:
        assert self.head.training == self.training
        assert not any(part.training for part in self.features.modules())
        found = self.head(self.features(inputs.fused)) - self.head(self.features(inputs.infrared))
        return LossOutput(
            l1(inputs.fused, inputs) + found.square().mean(), {"features": found.mean().detach()}
        )

    def artifacts(self, inputs: LossInputs) -> LossArtifacts:
        return LossArtifacts({"mode": str(self.training)}, [("fused", inputs.fused[0])])


class OfContract(LossContract):
    """The contract of all losses, for those of this file."""

    loss_class: type[FusionLoss]

    @pytest.fixture
    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.{self.loss_class.__name__}"}


class TestEquivariant(OfContract):
    loss_class = Equivariant


class TestMeanTeacher(OfContract):
    loss_class = MeanTeacher


class TestCropConsistent(OfContract):
    loss_class = CropConsistent


class TestFrozen(OfContract):
    loss_class = Frozen


class PowerCut(Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise RuntimeError("power cut")


def trained(config: DictConfig, loss: type[FusionLoss]) -> dict[str, Any]:
    config.loss = {"_target_": f"{__name__}.{loss.__name__}"}
    train(config)
    return read_checkpoint(Path(config.run_dir) / "checkpoints/last.ckpt")


def curves(config: DictConfig) -> list[dict[str, str]]:
    with (Path(config.run_dir) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


SHORT = ("steps=4", "validate_every=2", "test=false", "optimizer.lr=1e-2", "callbacks.notes.images_every=2")


def both(tiny_config: Config, folder: Path, loss: type[FusionLoss], *words: str) -> dict[str, Any]:
    """Train without a break and with one after the third update; require the same bits, and return them."""
    straight = tiny_config(*SHORT, *words, f"run_dir={folder / 'straight'}")
    expected = trained(straight, loss)
    cut = f"+callbacks.cut={{_target_: {__name__}.PowerCut}}"
    with pytest.raises(RuntimeError, match="power cut"):
        trained(tiny_config(*SHORT, *words, cut, f"run_dir={folder / 'broken'}"), loss)
    broken = tiny_config(*SHORT, *words, f"run_dir={folder / 'broken'}", "auto_resume=true")
    resumed = trained(broken, loss)
    states = expected["state_dict"], resumed["state_dict"]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert curves(straight) == curves(broken)
    return expected


def test_equivariance_by_a_second_pass(tiny_config: Config, tmp_path: Path) -> None:
    both(tiny_config, tmp_path, Equivariant, "input_noise=0.02")
    rows = curves(tiny_config(f"run_dir={tmp_path / 'straight'}"))
    found = [float(row[f"train/loss/{_name(Equivariant)}/equivariance"] or 0) for row in rows]
    assert max(found) > 0


def _name(loss: type[FusionLoss]) -> str:
    return loss().name


def test_a_mean_teacher_follows_and_is_kept(tiny_config: Config, tmp_path: Path) -> None:
    found = both(tiny_config, tmp_path, MeanTeacher, "ema=0.5", "accumulate=2")
    again = read_checkpoint(tmp_path / "broken/checkpoints/last.ckpt")
    teachers = [each["clipfuse"]["teacher"] for each in (found, again)]
    assert teachers[0].keys() == {
        name.removeprefix("backbone.") for name in found["state_dict"] if name.startswith("backbone.")
    }
    assert all(torch.equal(value, teachers[1][name]) for name, value in teachers[0].items())
    learnt = found["current_model_state"]
    assert any(not torch.equal(value, learnt[f"backbone.{name}"]) for name, value in teachers[0].items())


def test_crops_are_fused_as_the_whole_and_drawn(tiny_config: Config, tmp_path: Path) -> None:
    both(tiny_config, tmp_path, CropConsistent)
    for folder in ("straight", "broken"):
        drawn = sorted(path.name for path in (tmp_path / folder / "notes").iterdir())
        assert drawn == ["train-000002.png", "train-000004.png"]
    with Image.open(tmp_path / "straight/notes/train-000002.png") as panel:
        assert panel.width < 4 * 160
    # The folder still counts as a run's own.
    train(tiny_config("steps=1", "test=false", "overwrite=true", f"run_dir={tmp_path / 'broken'}"))
    assert not list((tmp_path / "broken").glob("notes/train*"))


def test_a_frozen_part_stays_what_it_was_and_a_learnt_one_has_its_rate(
    tiny_config: Config, tmp_path: Path
) -> None:
    found = both(tiny_config, tmp_path, Frozen, "scheduler=constant", "scheduler.warmup=0.5")
    state = found["state_dict"]
    fresh = nn.BatchNorm2d(3).state_dict()
    for name, value in fresh.items():
        assert torch.equal(state[f"loss.features.1.{name}"], value), name
    row = next(
        row for row in curves(tiny_config(f"run_dir={tmp_path / 'straight'}")) if row["train/loss/total"]
    )
    # The schedule rises over two updates, for both.
    assert float(row["train/learning_rate/head"]) == pytest.approx(5 * float(row["train/learning_rate"]))
    assert float(row["train/gradient_norm"]) > 0
    assert float(row["train/gradient_norm/head"]) > 0
    groups = found["optimizer_states"][0]["param_groups"]
    assert [(group["name"], group["initial_lr"]) for group in groups] == [("network", 0.01), ("head", 0.05)]
    record = found["clipfuse"]["config"]["parameter_groups"]
    assert record == {"head": {"lr": 0.05, "weight_decay": None, "gradient_clip": 1e-3}}


class NoGrad(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        (slope,) = torch.autograd.grad(inputs.fused.square().sum(), inputs.fused)
        return LossOutput(inputs.fused.mean(), {"slope": slope.mean()})


class Even(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        halves = inputs.fused.reshape(*inputs.fused.shape[:3], 32)
        return LossOutput(halves.mean(), {"mean": halves.mean().detach()})


class Backward(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        root = inputs.fused.exp()
        total = root.mean()
        root.detach().add_(1)
        return LossOutput(total, {"mean": total.detach()})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (
            NoGrad,
            "the validation after update 4 on samples val-0 of 64x48 pixels: RuntimeError: element 0 of",
        ),
        (Even, "the validation after update 4 on samples val-0 of 64x48 pixels: RuntimeError: shape"),
        (Backward, "gradient at update 0 on samples train-"),
    ],
)
def test_a_failure_is_one_line_with_the_name_of_the_loss(
    loss: type[FusionLoss], words: str, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config(*SHORT, "validate_every=4")
    with pytest.raises(UserError) as caught:
        trained(config, loss)
    line = str(caught.value)
    assert line.startswith(f"the loss '{_name(loss)}' failed ")
    assert words in line
    assert "\n" not in line
    if loss is not Backward:
        assert "(test_own_losses.py, line " in line
        assert "; a validation computes it on whole images, in eval mode and without gradient; " in line
    assert json.loads((tmp_path / "run/status.json").read_text())["reason"] == line
    stack = (tmp_path / "run/traceback.txt").read_text()
    assert "RuntimeError" in stack
    assert "Traceback" in stack


class Prompted(BilevelLoss):
    """A lower level that looks at the network, or does not, from an update on."""

    def __init__(self, since: int | None = None) -> None:
        super().__init__()
        self.since = since
        self.level = nn.Parameter(torch.tensor(0.2))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def lower_parameters(self) -> Sequence[Tensor]:
        return [self.level]

    def prepare(self, inputs: LossInputs) -> tuple[Tensor, LossInputs]:
        self.calls += 1
        looks = self.since is not None and inputs.step >= self.since
        return (inputs.fused if looks else inputs.fused.detach()), inputs

    def upper_loss(self, state: tuple[Tensor, LossInputs], lower: Sequence[Tensor]) -> LossOutput:
        total = (state[1].fused - lower[0]).square().mean()
        return LossOutput(total, {"distance": total.detach()})

    def lower_loss(self, state: tuple[Tensor, LossInputs], lower: Sequence[Tensor]) -> LossOutput:
        total = (state[0] - lower[0]).abs().mean()
        return LossOutput(total, {"gap": total.detach()})


def prompted(config: DictConfig, since: int | None) -> dict[str, Any]:
    config.loss = {"_target_": f"{__name__}.Prompted", "since": since}
    train(config)
    return read_checkpoint(Path(config.run_dir) / "checkpoints/last.ckpt")


def test_a_lower_loss_that_never_looks_at_the_network_has_no_hypergradient(
    tiny_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"does not look at the network.*take that, or let lower_loss depend"):
        prompted(tiny_config(*SHORT, "solver=gauss_newton"), None)
    # In its last update the first stage is over; the trial has left no trace.
    found = prompted(tiny_config(*SHORT, "solver=gauss_newton", f"run_dir={tmp_path / 'two'}"), 3)
    assert int(found["state_dict"]["loss.calls"]) == 4 + 2 * 2  # updates, two validations of two images


@pytest.mark.parametrize("solver", ["joint", "alternate", "value_penalty"])
def test_the_terms_of_the_lower_level_are_logged(solver: str, tiny_config: Config, tmp_path: Path) -> None:
    words = [] if solver == "joint" else ["solver.every=2"]
    config = tiny_config(*SHORT, f"solver={solver}", *words)
    prompted(config, 0)
    rows = [row for row in curves(config) if row["train/loss/total"]]
    name = Prompted().name
    assert len(rows) == 4
    validated = [float(row[f"val/lower/{name}/gap"]) for row in curves(config) if row["val/loss/total"]]
    assert len(validated) == 2
    assert validated[0] != validated[1]
    for row in rows:
        assert float(row[f"train/lower/{name}/gap"]) > 0
    notes = tmp_path / "run/notes/settings.txt"
    if solver == "joint":
        assert "has a lower level, which solver=joint moves together with the network" in notes.read_text()
    else:
        assert not notes.exists()


def test_the_examples_of_the_document_work() -> None:
    text = (Path(__file__).parents[2] / "docs/write_a_loss.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    found = [block for block in blocks if re.search(r"class \w+\((Fusion|Bilevel)Loss\)", block)]
    assert len(found) >= 4
    for block in found:
        names: dict[str, Any] = {"__name__": "example"}
        exec(block, names)
        (kind,) = (each for each in names.values() if getattr(each, "__module__", "") == "example")
        loss, inputs = kind(), example_inputs(2, 23)
        output = loss(inputs)
        assert output.total.isfinite()
        assert torch.autograd.grad(output.total, inputs.fused)[0].abs().max() > 0
        assert [group.name for group in grouped(loss, loss)] == ["", *loss.parameter_groups()]
