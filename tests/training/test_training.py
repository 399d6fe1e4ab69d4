"""Manual optimisation: accumulation, clipping, schedule, averaging, precision and resume, end to end."""

import csv
import json
import math
import os
import signal
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from clipfuse.clip.support import announce
from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.networks.load import load_backbone
from clipfuse.runs.train import train
from clipfuse.types import LossInputs, LossOutput

Config = Callable[..., DictConfig]


def run(config: DictConfig) -> dict[str, Any]:
    """Train, and return the last checkpoint."""
    train(config)
    return read_checkpoint(Path(config.run_dir) / "checkpoints" / "last.ckpt")


def weights(checkpoint: dict[str, Any], key: str = "state_dict") -> Tensor:
    return torch.cat(
        [value.flatten() for name, value in checkpoint[key].items() if name.startswith("backbone")]
    )


def rows(run_dir: str | Path) -> list[dict[str, str]]:
    with (Path(run_dir) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_leaves_a_complete_run_folder(tiny_config: Config) -> None:
    config = tiny_config()
    objective = train(config)
    folder = Path(config.run_dir)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    pictures = {f"test/{kind}/test-{index}.png" for kind in ("fused", "color") for index in range(2)}
    assert names == pictures | {
        "config.yaml",
        "status.json",
        "metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "test/metrics.json",
        "test/per_image.csv",
        "test/panel.png",
    }
    status = json.loads((folder / "status.json").read_text())
    fit = status.pop("fit")
    how = {"objective": objective, "objective_name": "val/metric/SSIM", "higher_is_better": True}
    assert status == {"status": "finished", "reason": None, "samples_seen": 12, **how}
    assert (fit["updates"], fit["samples"], fit["device"]) == (6, 12, "cpu")
    assert fit["seconds"] > 0
    assert fit["peak_memory_mb"] > 50  # no process with torch is smaller
    scores = json.loads((folder / "test/metrics.json").read_text())
    assert scores["protocol"] == "strict-2"
    assert scores["images"] == 2
    with (folder / "test/per_image.csv").open(newline="") as file:
        per_image = list(csv.DictReader(file))
    assert {row["protocol"] for row in per_image} == {"strict-2"}
    assert [(row["name"], row["scene"]) for row in per_image] == [("test-0", "test-0"), ("test-1", "test-1")]
    assert scores["undefined"] == {"MS-SSIM": 2}  # 64x48 pixels are too few
    for name, mean in scores["mean"].items():
        values = [float(row[name]) for row in per_image]
        assert isnan(sum(values)) if mean is None else sum(values) / 2 == pytest.approx(mean, rel=1e-12)
    assert [int(row["step"]) for row in rows(folder) if row["train/loss/total"]] == list(range(1, 7))
    assert [float(row["trainer/samples_seen"]) for row in rows(folder)] == [2, 4, 6, 8, 10, 12]


def test_the_scene_of_each_image_is_recorded(tiny_config: Config, pairs_folder: Path, tmp_path: Path) -> None:
    ids = {part: [path.stem for path in (pairs_folder / part / "ir").iterdir()] for part in ("train", "val")}
    split = tmp_path / "split.json"
    split.write_text(json.dumps({**ids, "test": {"street": ["test-0", "test-1"]}}))
    config = tiny_config(f"data.split={split}", "steps=1")
    train(config)
    with (Path(config.run_dir) / "test/per_image.csv").open(newline="") as file:
        scenes = [(row["name"], row["scene"]) for row in csv.DictReader(file)]
    assert scenes == [("test-0", "street"), ("test-1", "street")]


class _ToInfrared(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        return LossOutput((inputs.fused - inputs.infrared).abs().mean(), {})


def test_the_loss_falls(tiny_config: Config) -> None:
    config = tiny_config("steps=60", "validate_every=20", "optimizer.lr=1e-2", "test=false")
    config.loss = {"_target_": f"{__name__}._ToInfrared"}
    train(config)
    validation = [float(row["val/loss/total"]) for row in rows(config.run_dir) if row["val/loss/total"]]
    assert len(validation) == 3
    assert validation[2] < validation[1] < validation[0]
    assert validation[2] < 0.9 * validation[0]


def test_micro_batches_equal_one_batch(tiny_config: Config, tmp_path: Path) -> None:
    exact = ("trainer.precision=64-true", "optimizer=adam", "test=false")
    whole = run(tiny_config(*exact, "loader.batch_size=4", f"run_dir={tmp_path / 'whole'}"))
    halves = run(tiny_config(*exact, "accumulate=2", f"run_dir={tmp_path / 'halves'}"))
    # float64 and six Adam updates: the order of summing two halves is all that differs.
    torch.testing.assert_close(weights(halves), weights(whole), rtol=0, atol=1e-12)
    assert float(rows(tmp_path / "halves")[-1]["trainer/samples_seen"]) == 24


def test_gradient_is_clipped(tiny_config: Config) -> None:
    sgd = ("optimizer._target_=torch.optim.SGD", "~optimizer.betas", "scheduler=constant", "test=false")
    start = weights(run(tiny_config(*sgd, "steps=1", "optimizer.lr=1e-12", "overwrite=true")))
    moved = weights(
        run(tiny_config(*sgd, "steps=1", "optimizer.lr=1.0", "gradient_clip=0.01", "overwrite=true"))
    )
    # One SGD update at rate 1 moves by the clipped gradient; float32 weights of order 1.
    assert float((moved - start).norm()) == pytest.approx(0.01, rel=1e-3)


def test_learning_rate_follows_its_schedule(tiny_config: Config) -> None:
    config = tiny_config(
        "steps=10", "scheduler.warmup=0.2", "scheduler.final=0.1", "optimizer.lr=1e-2", "test=false"
    )
    train(config)
    logged = [float(row["train/learning_rate"]) for row in rows(config.run_dir) if row["train/learning_rate"]]
    falling = [1e-2 * (0.1 + 0.9 * (1 + math.cos(math.pi * k / 8)) / 2) for k in range(9)]
    # Logged after each update: the rate of the next one.
    assert logged == pytest.approx([1e-2, *falling], rel=1e-6)


def test_weights_are_averaged(tiny_config: Config, tmp_path: Path) -> None:
    """EMA against the obvious recurrence over the weights of runs stopped after 1, 2, 3 updates."""
    common = ("test=false", "scheduler=constant", "validate_every=1")
    path = [
        weights(run(tiny_config(*common, f"steps={count}", f"run_dir={tmp_path / str(count)}")))
        for count in (1, 2, 3)
    ]
    expected = path[0]
    for current in path[1:]:
        expected = 0.7 * expected + 0.3 * current
    checkpoint = run(tiny_config(*common, "steps=3", "ema=0.7", f"run_dir={tmp_path / 'ema'}"))
    torch.testing.assert_close(weights(checkpoint), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(weights(checkpoint, "current_model_state"), path[-1], rtol=0, atol=0)
    backbone = load_backbone(tmp_path / "ema" / "checkpoints" / "last.ckpt")
    loaded = torch.cat([value.flatten() for value in backbone.state_dict().values()])
    torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-7)


class _Watching(FusionLoss):
    """Records the type of what it is given."""

    seen: set[torch.dtype] = set()  # noqa: RUF012

    def forward(self, inputs: LossInputs) -> LossOutput:
        product = inputs.fused @ inputs.fused.mT
        self.seen |= {inputs.fused.dtype, product.dtype}
        return LossOutput(product.mean(), {})


def test_bf16_stays_in_the_backbone(tiny_config: Config) -> None:
    config = tiny_config("trainer.precision=bf16-mixed", "test=false")
    config.loss = {"_target_": f"{__name__}._Watching"}
    _Watching.seen.clear()
    checkpoint = run(config)
    assert _Watching.seen == {torch.float32}
    assert weights(checkpoint).dtype == torch.float32


class _Keeping(FusionLoss):
    """Keeps what it is given."""

    given: list[LossInputs] = []  # noqa: RUF012

    def forward(self, inputs: LossInputs) -> LossOutput:
        self.given.append(inputs)
        return LossOutput(inputs.fused.mean(), {})


def test_input_noise_reaches_the_network_in_training_alone(tiny_config: Config, tmp_path: Path) -> None:
    given = {}
    for noise in (0, 0.05):
        _Keeping.given.clear()
        folder = f"run_dir={tmp_path / str(noise)}"
        config = tiny_config(f"input_noise={noise}", "steps=1", "optimizer.lr=1e-12", "test=false", folder)
        config.loss = {"_target_": f"{__name__}._Keeping"}
        train(config)
        given[noise] = list(_Keeping.given)
    for clean, noisy in zip(*given.values(), strict=True):
        assert torch.equal(clean.infrared, noisy.infrared)
        assert torch.equal(clean.visible, noisy.visible)
    moved = [
        float((clean.fused - noisy.fused).detach().abs().mean())
        for clean, noisy in zip(*given.values(), strict=True)
    ]
    assert len(moved) == 3  # a training crop; two images of validation
    assert 0.01 < moved[0] < 0.1
    assert max(moved[1:]) < 1e-6  # the rate of 1e-12


@pytest.mark.parametrize("options", [(), ("ema=0.9", "accumulate=2", "loader.workers=1", "input_noise=0.1")])
def test_resumed_run_is_bit_equal(tiny_config: Config, tmp_path: Path, options: tuple[str, ...]) -> None:
    straight = run(tiny_config(*options, f"run_dir={tmp_path / 'straight'}"))
    stop = f"+callbacks.stop={{_target_: {__name__}._stop_after_updates, updates: 4}}"
    broken = tiny_config(*options, stop, f"run_dir={tmp_path / 'broken'}")
    with pytest.raises(RuntimeError, match="power cut"):
        train(broken)
    assert json.loads((tmp_path / "broken/status.json").read_text())["status"] == "failed"
    last = tmp_path / "broken/checkpoints/last.ckpt"
    resumed = run(tiny_config(*options, f"run_dir={tmp_path / 'broken'}", f"checkpoint={last}"))
    for key in ("state_dict", "current_model_state"):
        if key in straight:
            assert torch.equal(weights(resumed, key), weights(straight, key))
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (straight, resumed)]
    assert all(torch.equal(states[0][k]["exp_avg_sq"], states[1][k]["exp_avg_sq"]) for k in states[0])
    assert straight["lr_schedulers"] == resumed["lr_schedulers"]
    assert rows(tmp_path / "broken") == rows(tmp_path / "straight")


def test_a_run_out_of_time_stops_between_updates_and_goes_on(tiny_config: Config, tmp_path: Path) -> None:
    options = ("accumulate=3", "test=false", "validate_every=6")
    straight = run(tiny_config(*options, f"run_dir={tmp_path / 'straight'}"))
    stop = f"+callbacks.stop={{_target_: {__name__}._out_of_time, batch: 7}}"
    first = run(tiny_config(*options, stop, f"run_dir={tmp_path / 'short'}"))
    assert first["global_step"] == 3
    last = tmp_path / "short/checkpoints/last.ckpt"
    resumed = run(tiny_config(*options, f"run_dir={tmp_path / 'short'}", f"checkpoint={last}"))
    fit = json.loads((tmp_path / "short/status.json").read_text())["fit"]
    assert fit["updates"] == 3  # those of this part alone
    assert torch.equal(weights(resumed), weights(straight))
    assert rows(tmp_path / "short")[-1] == rows(tmp_path / "straight")[-1]


def _out_of_time(batch: int) -> Any:
    """Ask to stop at the end of every batch from `batch` on, as Lightning's timer does."""
    from lightning.pytorch.callbacks import LambdaCallback

    def stop(trainer: Any, module: Any, outputs: Any, data: Any, batch_idx: int) -> None:
        if batch_idx >= batch - 1:
            trainer.should_stop = True

    return LambdaCallback(on_train_batch_end=stop)


def _stop_after_updates(updates: int) -> Any:
    from lightning.pytorch.callbacks import LambdaCallback

    def stop(trainer: Any, *_: Any) -> None:
        if trainer.global_step >= updates:
            raise RuntimeError("power cut")

    return LambdaCallback(on_train_batch_end=stop)


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_signals_mark_the_run(
    tiny_config: Config, number: signal.Signals, expected: type[BaseException]
) -> None:
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    config = tiny_config(f"+callbacks.stop={{_target_: {__name__}._signal, number: {int(number)}}}")
    try:
        with pytest.raises(expected) as stop:
            train(config)
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    if expected is SystemExit:
        assert stop.value.code == 143
    status = json.loads((Path(config.run_dir) / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("failed", "interrupted")
    assert read_checkpoint(Path(config.run_dir) / "checkpoints/last.ckpt")["global_step"] == 1


def _signal(number: int) -> Any:
    from lightning.pytorch.callbacks import LambdaCallback

    return LambdaCallback(on_train_batch_start=lambda *_: os.kill(os.getpid(), number))


class _Explodes(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        bad = inputs.fused.mean() * (float("nan") if inputs.step == 2 else 1)
        return LossOutput(bad, {"intensity": bad.detach(), "gradient": torch.tensor(1.5)})


def test_a_loss_that_is_not_finite_is_named(tiny_config: Config) -> None:
    config = tiny_config("validate_every=6")
    config.loss = {"_target_": f"{__name__}._Explodes"}
    with pytest.raises(
        UserError, match=r"is nan at update 2 \(intensity = nan, gradient = 1.5\) on samples train-"
    ):
        train(config)
    status = json.loads((Path(config.run_dir) / "status.json").read_text())
    assert status["status"] == "failed"
    assert "update 2" in status["reason"]


class _TwoLevels(BilevelLoss):
    """min_x mean|fused - y|, y a learnable level."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.2))

    def lower_parameters(self) -> list[Tensor]:
        return [self.level]

    def prepare(self, inputs: LossInputs) -> Tensor:
        return inputs.fused

    def upper_loss(self, state: Tensor, lower: Any) -> LossOutput:
        total = (state - lower[0]).square().mean()
        return LossOutput(total, {"distance": total.detach()})

    def lower_loss(self, state: Tensor, lower: Any) -> LossOutput:
        return self.upper_loss(state.detach(), lower)


def test_a_two_level_loss_takes_the_same_path(tiny_config: Config) -> None:
    config = tiny_config("test=false", "optimizer.lr=1e-2")
    config.loss = {"_target_": f"{__name__}._TwoLevels"}
    checkpoint = run(config)
    assert float(checkpoint["state_dict"]["loss.level"]) != pytest.approx(0.2)
    assert any(key.startswith("val/loss/") and key.endswith("/distance") for key in rows(config.run_dir)[0])


def test_the_loss_does_not_move_the_start_of_the_network(tiny_config: Config, tmp_path: Path) -> None:
    frozen = ("optimizer.lr=0.0", "test=false", "steps=1")
    plain = run(tiny_config(*frozen, f"run_dir={tmp_path / 'plain'}"))
    config = tiny_config(*frozen, f"run_dir={tmp_path / 'other'}")
    config.loss = {"_target_": f"{__name__}._TwoLevels"}
    assert torch.equal(weights(run(config)), weights(plain))


def test_a_run_folder_in_use_is_not_touched(tiny_config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(
        UserError, match=r"holds files that are not a run's: thesis\.tex; choose another run_dir"
    ):
        train(tiny_config("overwrite=true"))
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_finished_run_is_replaced_only_when_asked(tiny_config: Config) -> None:
    train(tiny_config("test=false"))
    with pytest.raises(UserError, match="holds a run; choose another run_dir, or set overwrite=true"):
        train(tiny_config("test=false"))
    train(tiny_config("test=false", "overwrite=true"))


def test_a_checkpoint_of_another_backbone_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    train(tiny_config("test=false"))
    last = tmp_path / "run/checkpoints/last.ckpt"
    with pytest.raises(UserError, match=r"cannot be resumed: its backbone.width is 8, this run's is 16"):
        train(tiny_config(f"checkpoint={last}", "backbone.width=16", f"run_dir={tmp_path / 'other'}"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=-1.0"], "optimizer or scheduler: Invalid learning rate"),
        (["loss.gradient_weight=-2.0"], "loss: pixel loss: gradient_weight is -2.0"),
        (["loader.crop_size=4"], "loader.crop_size is 4; expected 16 or more"),
        (["scheduler.warmup=2.0"], "scheduler.warmup is 2.0; expected a share from 0 to 1"),
        (["backbone.width=0"], "backbone: conv_tiny: width 0"),
        (["trainer.precision=16-mixed"], "expected one of 32-true, bf16-mixed, 64-true"),
    ],
)
def test_bad_values_leave_no_run_folder(tiny_config: Config, overrides: list[str], message: str) -> None:
    config = tiny_config(*overrides)
    with pytest.raises(UserError, match=message):
        train(config)
    assert not Path(config.run_dir).exists()


def test_a_setup_that_fails_names_the_plugin(tiny_config: Config) -> None:
    config = tiny_config()
    config.loss = {"_target_": f"{__name__}._NeedsReference"}
    with pytest.raises(UserError, match=r"needs_reference: the data has no reference; take data=synthetic"):
        train(config)


class _NeedsReference(_Watching):
    def setup(self, sample: LossInputs) -> None:
        if sample.reference is None:
            raise ValueError("needs_reference: the data has no reference; take data=synthetic")


def test_images_below_the_size_of_a_metric_are_counted(tiny_config: Config, tmp_path: Path) -> None:
    for band in ("ir", "vi"):
        for index in range(3):
            path = tmp_path / "small" / band / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (30, 16), 50 * index).save(path)
    config = tiny_config(f"data.root={tmp_path / 'small'}", "loader.crop_size=16")
    train(config)
    scores = json.loads((Path(config.run_dir) / "test/metrics.json").read_text())
    assert scores["images"] == scores["undefined"]["VIF"] == 1
    assert scores["mean"]["VIF"] is None
    assert scores["mean"]["EN"] >= 0


def test_watching_a_score_that_is_not_computed_is_refused_at_once(tiny_config: Config) -> None:
    with pytest.raises(
        UserError, match=r"callbacks.best watches val/metric/SSIM, which no validation computes"
    ):
        train(tiny_config("metrics.validation=[EN,CC]"))
    with pytest.raises(
        UserError, match=r"objective is test/VFI, which nothing logs\. Did you mean 'test/VIF'"
    ):
        train(tiny_config("objective=test/VFI"))


class _AsksClip(FusionLoss):
    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, inputs: LossInputs) -> LossOutput:
        fused, infrared = (self.clip.encode_image(plane) for plane in (inputs.fused, inputs.infrared))
        return LossOutput((fused - infrared).square().mean(), {})


def test_a_clip_is_recorded_and_not_saved(tiny_config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    announce.cache_clear()
    config = tiny_config("test=false")
    config.loss = {"_target_": f"{__name__}._AsksClip", "clip": "${clip}"}
    train(config)
    folder = Path(config.run_dir)
    identity = OmegaConf.load(folder / "config.yaml").clip_identity
    assert identity.model == "micro"
    assert len(identity.weights_sha256) == 64
    assert (folder / "checkpoints/last.ckpt").stat().st_size < 200_000  # the CLIP has 11 MB
    assert "stand-in" in "".join(capsys.readouterr())
    config = tiny_config("test=false", "overwrite=true")
    train(config)
    assert OmegaConf.load(folder / "config.yaml").clip_identity is None
