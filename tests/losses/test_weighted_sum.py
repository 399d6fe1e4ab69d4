import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfuse.cli.config import conf_dir
from clipfuse.clip.encoder import FrozenClip
from clipfuse.losses.base import BilevelLoss, FusionLoss, LossArtifacts
from clipfuse.losses.pixel import PixelLoss
from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.losses.weighted_sum import BilevelWeightedSum, WeightedSum, weighted_sum
from clipfuse.testing.loss_contract import LossContract, example_inputs, part_of
from clipfuse.types import LossInputs, LossOutput


class Target(FusionLoss):
    """Pulls the fused image to one level, and has something to say."""

    def __init__(self, level: float, speaks: bool = False) -> None:
        super().__init__()
        self.level, self.speaks = level, speaks
        self.seen: LossInputs | None = None

    def setup(self, sample: LossInputs) -> None:
        self.seen = sample

    def artifacts(self, inputs: LossInputs) -> LossArtifacts | None:
        return (
            LossArtifacts({"level": str(self.level)}, [("fused", inputs.fused[0])]) if self.speaks else None
        )

    def forward(self, inputs: LossInputs) -> LossOutput:
        total = (inputs.fused - self.level).square().mean()
        return LossOutput(total, {"distance": total.detach()})


def prompts(clip: FrozenClip, **options: Any) -> PromptFusionLoss:
    pair = {"positive": "the texture is very clear", "negative": "the texture is weak", "against": ["blur"]}
    options = {"warmup": 0, "pictures_every": 1, **options}
    return PromptFusionLoss(clip, PixelLoss(), {"texture": pair}, **options)


def in_double() -> LossInputs:
    inputs = example_inputs()
    planes = {name: getattr(inputs, name).detach().double() for name in ("fused", "infrared", "visible")}
    return replace(inputs, **{**planes, "fused": planes["fused"].requires_grad_()})


def test_equals_the_sum_made_by_hand_and_its_gradient() -> None:
    inputs = in_double()
    parts: dict[str, FusionLoss] = {"pixel": PixelLoss(1.0, 10.0), "ssim": PixelLoss(0.0, 0.0, 1.0)}
    joined = weighted_sum({"pixel": 0.3, "ssim": 2.0}, parts)
    output = joined(inputs)
    by_hand = 0.3 * parts["pixel"](inputs).total + 2.0 * parts["ssim"](inputs).total
    torch.testing.assert_close(output.total, by_hand, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(total, inputs.fused)[0] for total in (output.total, by_hand)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    assert set(output.terms) == {
        *("pixel/intensity", "pixel/gradient", "pixel/weighted_total"),
        *("ssim/ssim", "ssim/weighted_total"),
    }
    total = output.terms["pixel/weighted_total"] + output.terms["ssim/weighted_total"]
    torch.testing.assert_close(total, output.total.detach())
    assert (type(joined), joined.name) == (WeightedSum, "weighted_sum")


def test_a_part_of_weight_0_is_left_out() -> None:
    inputs = example_inputs()
    output = weighted_sum({"far": 0, "near": 2.0}, {"far": Target(9.0), "near": Target(0.5)})(inputs)
    assert set(output.terms) == {"near/distance", "near/weighted_total"}
    assert set(weighted_sum({"far": 0, "near": 1.0}, {"near": Target(0.5)}).parts) == {"near"}


def test_parts_are_set_up_and_heard() -> None:
    inputs = example_inputs()
    parts = {"a": Target(0.0, speaks=True), "b": Target(1.0), "c": Target(0.5, speaks=True)}
    joined = weighted_sum(dict.fromkeys(parts, 1.0), parts)
    joined.setup(part_of(inputs, [0]))
    assert all(part.seen is not None for part in parts.values())
    found = joined.artifacts(inputs)
    assert found is not None
    assert found.texts == {"a: level": "0.0", "c: level": "0.5"}
    assert [caption for caption, _ in found.images] == ["a: fused", "c: fused"]
    assert weighted_sum({"b": 1.0}, {"b": Target(1.0)}).artifacts(inputs) is None


def test_the_lower_level_is_that_of_its_part(micro_clip: FrozenClip) -> None:
    inputs = example_inputs()
    part = prompts(micro_clip).train()
    joined = weighted_sum({"pixel": 2.0, "promptfusion": 0.5}, {"pixel": PixelLoss(), "promptfusion": part})
    assert isinstance(joined, BilevelWeightedSum)
    lower = joined.lower_parameters()
    assert all(mine is its for mine, its in zip(lower, part.lower_parameters(), strict=True))
    state = joined.prepare(inputs)
    own = part.prepare(inputs)
    # f is the part's own, whatever its weight; F is the sum.
    torch.testing.assert_close(joined.lower_loss(state, lower).total, part.lower_loss(own, lower).total)
    upper = 2 * PixelLoss()(inputs).total + 0.5 * part.upper_loss(own, lower).total
    torch.testing.assert_close(joined.upper_loss(state, lower).total, upper)
    torch.testing.assert_close(joined(inputs).total, upper)
    assert "promptfusion/p_fused_texture" in joined(inputs).terms


def test_fixed_prompts_leave_a_plain_sum(micro_clip: FrozenClip) -> None:
    fixed = prompts(micro_clip, prompts="fixed")
    assert not isinstance(weighted_sum({"a": 1.0}, {"a": fixed}), BilevelLoss)
    parts = {"a": fixed, "b": prompts(micro_clip)}
    assert isinstance(weighted_sum(dict.fromkeys(parts, 1.0), parts), BilevelLoss)
    assert not isinstance(weighted_sum({"a": 1.0, "b": 0.0}, parts), BilevelLoss)


def test_two_lower_levels_are_refused(micro_clip: FrozenClip) -> None:
    parts = {"a": prompts(micro_clip), "b": prompts(micro_clip)}
    with pytest.raises(ValueError, match=r"a and b each have a lower level; a solver takes one"):
        weighted_sum(dict.fromkeys(parts, 1.0), parts)


@pytest.mark.parametrize(
    ("parts", "names", "message"),
    [
        ({"a": -1.0}, "a", r"parts\.a is -1\.0; expected 0 or more"),
        ({"a": float("nan")}, "a", r"parts\.a is nan"),
        ({"a": float("inf")}, "a", r"parts\.a is inf"),
        ({"a": 0.0}, "a", r"no part has a weight above 0"),
        ({}, "", r"no part has a weight above 0"),
        ({"a": 1.0, "b": 1.0}, "a", r"'b' must be named in both parts \(a, b\) and of \(a\)"),
        ({"a": 1.0}, "ab", r"'b' must be named in both"),
    ],
)
def test_refuses_what_cannot_be_meant(parts: dict[str, float], names: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weighted_sum(parts, {name: Target(0.0) for name in names})


@cache
def part_nodes(clip: Path, *names: str) -> dict[str, Any]:
    """Return the configurations of losses, judged by a small CLIP."""
    nodes: dict[str, Any] = {}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for name in names:
            config = compose("train", [f"loss={name}", f"+clip.pretrained={clip}"])
            nodes[name] = OmegaConf.to_container(config, resolve=False)
            config = OmegaConf.create({key: nodes[name][key] for key in ("loss", "clip", "solver")})
            nodes[name] = OmegaConf.to_container(config.loss, resolve=True)
    return nodes


TARGET = {"_target_": "clipfuse.losses.weighted_sum.weighted_sum"}


class TestContract(LossContract):
    @pytest.fixture
    def node(self, micro_folders: dict[str, Path]) -> dict[str, Any]:
        nodes = copy.deepcopy(part_nodes(micro_folders["vit"], "pixel", "clip_ratio"))
        return {**TARGET, "parts": {"pixel": 1.0, "clip_ratio": 0.5}, "of": nodes}


class TestBilevelContract(LossContract):
    @pytest.fixture
    def node(self, micro_folders: dict[str, Path]) -> dict[str, Any]:
        nodes = copy.deepcopy(part_nodes(micro_folders["vit"], "pixel", "promptfusion"))
        nodes["promptfusion"]["warmup"] = 0
        nodes["promptfusion"]["fidelity"]["decomposition_weight"] = 0.0
        return {**TARGET, "parts": {"pixel": 1.0, "promptfusion": 0.5}, "of": nodes}


class TestUncertaintyContract(LossContract):
    @pytest.fixture
    def node(self, micro_folders: dict[str, Path]) -> dict[str, Any]:
        nodes = part_nodes(micro_folders["vit"], "pixel", "clip_ratio")
        return {**TARGET, "parts": {"pixel": 1.0, "clip_ratio": 0.5}, "of": nodes, "balance": "uncertainty"}


class TestGradnormContract(LossContract):
    @pytest.fixture
    def node(self, micro_folders: dict[str, Path]) -> dict[str, Any]:
        nodes = part_nodes(micro_folders["vit"], "pixel", "promptfusion")
        nodes["promptfusion"]["warmup"] = 0
        nodes["promptfusion"]["fidelity"]["decomposition_weight"] = 0.0
        return {**TARGET, "parts": {"pixel": 1.0, "promptfusion": 0.5}, "of": nodes, "balance": "gradnorm"}


def test_weights_that_learn_are_logged_and_add_up() -> None:
    inputs = example_inputs()
    parts: dict[str, FusionLoss] = {"near": Target(0.5), "far": Target(9.0)}
    still = weighted_sum({"near": 1.0, "far": 2.0}, parts)
    assert not still.state_dict()
    for balance in ("uncertainty", "gradnorm"):
        joined = weighted_sum({"near": 1.0, "far": 2.0}, parts, balance=balance).train()  # type: ignore[arg-type]
        output = joined(inputs)
        weights = [float(output.terms[f"weight/{name}"]) for name in parts]
        by_hand = sum(
            w * float(part(inputs).total.detach()) for w, part in zip(weights, parts.values(), strict=True)
        )
        assert float(output.total.detach()) == pytest.approx(by_hand, rel=1e-5)
        if balance == "uncertainty":
            assert float(output.terms["regularization"]) == 0
            assert torch.equal(output.total, still(inputs).total)  # s begins at 0
            output.total.backward()
            values = [
                weight * float(part(inputs).total.detach())
                for weight, part in zip((1, 2), parts.values(), strict=True)
            ]
            slopes = next(joined.parameters()).grad
            torch.testing.assert_close(slopes, 1 - torch.tensor(values))
        else:
            assert sum(weights) == pytest.approx(3.0)
            assert weights[0] > weights[1]  # the far one has the greater gradient


def test_balances_that_cannot_be_meant_and_idle_settings() -> None:
    parts: dict[str, FusionLoss] = {"a": Target(0.5)}
    for options in ({"balance": "equal"}, {"memory": 1.0}, {"alpha": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} (is )?{next(iter(options.values()))!r}"):
            weighted_sum({"a": 1.0}, parts, **options)  # type: ignore[arg-type]
    assert weighted_sum({"a": 1.0}, parts).notices(9) == []
    (idle,) = weighted_sum({"a": 1.0}, parts, alpha=0.5).notices(9)
    assert idle == "loss.alpha=0.5 has no effect: balance is not gradnorm"
    (alone,) = weighted_sum({"a": 1.0}, parts, balance="gradnorm").notices(9)
    assert "one part alone" in alone


Clipfuse = Callable[..., tuple[int, str, str]]
TINY = ["trainer=cpu", "steps=4", "validate_every=2", "data.train=8", "data.val=2", "data.test=2"]
TINY += ["backbone=conv_tiny", "loader.batch_size=2", "loader.crop_size=32", "test=false"]
TINY += ["~callbacks.progress", "+trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"]
TINY += ["loss=weighted_sum"]


def test_the_prompts_of_a_part_move_as_they_do_alone(
    clipfuse: Clipfuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part brings its solver and that solver's schedule, and follows `of`."""
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "+loss.parts={pixel:1,promptfusion:0.5,ldfusion:0}", "+loss.of.promptfusion.warmup=1"]
    words += ["+loss.of.promptfusion.fidelity.decomposition_weight=0", "run_dir=run"]
    assert clipfuse("train", *words)[0] == 0
    config = OmegaConf.load("run/config.yaml")
    assert config.solver._target_ == "clipfuse.bilevel.ValuePenalty"
    assert config.solver.delay == config.loss.of.promptfusion.warmup == 1
    assert config.loss.of.promptfusion.pictures_every == config.solver.every
    assert config.clip_identity.model == "micro"
    assert set(config.loss.of) == {"pixel", "promptfusion"}
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    moved = {name: value for name, value in state.items() if ".promptfusion.prompts." in name}
    plain: Any = OmegaConf.to_container(config.loss.of.promptfusion.pairs)
    fresh = PromptFusionLoss(FrozenClip.load("micro"), PixelLoss(), plain)
    starts = dict(fresh.named_parameters())
    assert len(moved) == len(fresh.lower_parameters()) == 6
    for name, value in moved.items():
        assert not torch.equal(value, starts[name.partition(".promptfusion.")[2]].detach())
    header = Path("run/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss/weighted_sum/promptfusion/p_good", "train/solver/residual"} <= set(header)
    assert "val/loss/weighted_sum/pixel/weighted_total" in header


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "loss.parts must be given, as in '+loss.parts={pixel:1,ldfusion:0.1}'"),
        (["+loss.parts={pixl:1}"], "unknown loss 'pixl'. Did you mean 'pixel'?"),
        (["+loss.parts={pixel:1,pixl:0}"], "unknown loss 'pixl'"),
        (["+loss.parts={pixel:-1}"], "parts.pixel is -1"),
        (["+loss.parts={pixel:a}"], "input should be a valid number"),
        (["loss.parts=pixel"], "loss.parts is 'pixel'"),
        (
            ["+loss.parts={pixel:1}", "+loss.of.ldfusion.patches=4"],
            "loss.parts has no 'ldfusion', only pixel",
        ),
        (["+loss.parts={pixel:1}", "+loss.of.pixel.gradient_wieght=4"], "Did you mean 'gradient_weight'?"),
        (
            ["+loss.parts={pixel:1}", "+loss.of.pixel.gradient_weight=a"],
            "loss.of.pixel.gradient_weight is 'a'",
        ),
        (["+loss.parts={pixel:1}", "solver=alternate"], "'weighted_sum' has no lower level"),
        (["+loss.parts={custom:1}"], "loss.of.custom._target_ must be given"),
    ],
)
def test_mistakes_are_named(
    clipfuse: Clipfuse, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = clipfuse("train", *TINY, *words)
    assert code == 2
    assert message in errors.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_images_of_the_parts_are_kept_under_their_names() -> None:
    class Shows(FusionLoss):
        def forward(self, inputs: LossInputs) -> LossOutput:
            return LossOutput(inputs.fused.mean(), {}, {"fused": inputs.fused[0].detach()})

    plane = torch.rand(2, 1, 8, 8)
    output = WeightedSum({"a": 1.0, "b": 2.0}, {"a": Shows(), "b": Shows()})(plane, plane, plane)
    assert list(output.images) == ["a/fused", "b/fused"]
