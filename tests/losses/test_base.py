"""A loss outside of a training: called with three images."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfuse.clip import load_clip
from clipfuse.losses import ClipRatioLoss, FusionLoss, LDFusionLoss, PixelLoss, PromptFusionLoss
from clipfuse.losses.weighted_sum import WeightedSum, weighted_sum
from clipfuse.testing import example_inputs
from clipfuse.types import LossInputs, LossOutput

PAIRS = {"targets": {"positive": "a clear target", "negative": "a fuzzy target", "against": ["visible"]}}
LOSSES = {
    "pixel": PixelLoss,
    "clip_ratio": lambda: ClipRatioLoss(load_clip("micro")),
    "ldfusion": lambda: LDFusionLoss(load_clip("micro")),
    "promptfusion": lambda: PromptFusionLoss(load_clip("micro"), PixelLoss(), PAIRS, warmup=0),
    "weighted_sum": lambda: weighted_sum({"pixel": 2.0}, {"pixel": PixelLoss()}),
}


def images() -> tuple[Tensor, Tensor, Tensor]:
    inputs = example_inputs(count=2)
    return inputs.fused, inputs.infrared, inputs.visible


@pytest.mark.parametrize("name", LOSSES)
def test_three_images_are_enough_for_every_loss(name: str) -> None:
    loss: FusionLoss = LOSSES[name]()
    fused, infrared, visible = images()
    output = loss(fused, infrared, visible)
    assert torch.equal(output.total, loss(LossInputs(fused, infrared, visible)).total)
    (gradient,) = torch.autograd.grad(output.total, fused)
    assert gradient.flatten(1).abs().amax(dim=1).min() > 0


def test_further_fields_follow_by_name() -> None:
    loss = LOSSES["promptfusion"]()
    loss.warmup = 10  # until then the fidelity alone
    early, late = (loss(*images(), step=step).total for step in (0, 10))
    assert torch.equal(early, PixelLoss()(*images()).total)
    assert not torch.equal(late, early)


def test_what_is_not_given_is_gray_and_numbered() -> None:
    inputs = LossInputs(*images())
    assert inputs.chroma.shape == (2, 2, 48, 48)
    assert inputs.chroma.eq(0.5).all()
    assert inputs.sample_ids == ("0", "1")
    assert (inputs.step, inputs.seed, dict(inputs.features)) == (0, 0, {})
    assert inputs.target_mask is None


def test_other_arguments_are_refused() -> None:
    fused, infrared, visible = images()
    loss = PixelLoss()
    with pytest.raises(ValueError, match="visible is NoneType; expected a tensor"):
        loss(fused, infrared)
    with pytest.raises(ValueError, match=r"infrared has shape \(2, 48, 48\); expected one luma plane"):
        loss(fused, infrared[:, 0], visible)
    with pytest.raises(ValueError, match="expected one shape for all"):
        loss(fused, infrared, visible[..., 1:])
    with pytest.raises(ValueError, match="pixel: expected one LossInputs, or fused, infrared, visible"):
        loss(LossInputs(fused, infrared, visible), infrared)


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *classes: str) -> ModuleType:
    """Write and import a module of losses that return what `answer` is at the time."""
    path = folder / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "from clipfuse.losses.base import FusionLoss\n"
    for each in classes:
        body += f"\nclass {each}(FusionLoss):\n    answer = None\n"
        body += "    def forward(self, inputs):\n        return self.answer(inputs)\n"
    path.write_text(body)
    monkeypatch.syspath_prepend(str(folder))
    return import_module(name)


def test_losses_of_ones_own_do_not_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(tmp_path, monkeypatch, "theirs_one.loss", "EdgeAware")
    two = written(tmp_path, monkeypatch, "theirs_two.loss", "ToInfrared")
    many = written(tmp_path, monkeypatch, "many_edges", "First", "SecondOne")
    single = written(tmp_path, monkeypatch, "my_edge", "Mine")
    found = [each().name for each in (one.EdgeAware, two.ToInfrared, many.First, many.SecondOne, single.Mine)]
    assert found == ["edge_aware", "to_infrared", "first", "second_one", "my_edge"]
    assert {name: LOSSES[name]().name for name in LOSSES} == {name: name for name in LOSSES}


SCALAR = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (SCALAR, "returned Tensor; expected clipfuse.types.LossOutput(total, terms)"),
        ((SCALAR, {}), "returned tuple; expected clipfuse.types.LossOutput"),
        ({"total": SCALAR}, "returned dict; expected"),
        (None, "returned NoneType; expected"),
        (LossOutput(1.0, {}), "returned its total as float; expected a floating-point scalar"),  # type: ignore[arg-type]
        (LossOutput(torch.ones(2), {}), "returned its total as torch.float32 (2,); expected"),
        (LossOutput(torch.ones(1), {}), "returned its total as torch.float32 (1,); expected"),
        (LossOutput(torch.tensor(1), {}), "returned its total as torch.int64 (); expected"),
        (LossOutput(SCALAR, [SCALAR]), "returned its terms as list; expected tensors by name"),  # type: ignore[arg-type]
        (LossOutput(SCALAR, None), "returned its terms as NoneType; expected"),  # type: ignore[arg-type]
        (LossOutput(SCALAR, {"a": 1.0}), "returned its term 'a' as float; expected a scalar tensor"),  # type: ignore[dict-item]
        (LossOutput(SCALAR, {"a": torch.ones(3)}), "returned its term 'a' as torch.float32 (3,); expected"),
        *(
            (LossOutput(SCALAR, {}, {"a": image}), f"returned its image 'a' as {kind}; expected (1, H, W) or")
            for image, kind in (
                (torch.ones(4, 1, 8, 8), "torch.float32 (4, 1, 8, 8)"),
                (torch.ones(2, 8, 8), "torch.float32 (2, 8, 8)"),
                (torch.ones(1, 8, 8).bool(), "torch.bool (1, 8, 8)"),
                (torch.ones(1, 0, 8), "torch.float32 (1, 0, 8)"),
                (0.5, "float"),
            )
        ),
        (
            LossOutput(SCALAR, {}, {"a": torch.ones(1, 8, 8, requires_grad=True)}),
            "returned its image 'a' with a gradient; expected it without: detach()",
        ),
        (
            LossOutput(SCALAR, {}, {str(index): torch.ones(1, 8, 8) for index in range(17)}),
            "returned its images as 17 of them; expected at most 16 by name",
        ),
        (LossOutput(SCALAR, {}, [SCALAR]), "returned its images as list; expected at most 16"),  # type: ignore[arg-type]
        (LossOutput(SCALAR, {0: SCALAR}), "returned its term 0 as torch.float32 (); expected"),  # type: ignore[dict-item]
    ],
)
def test_a_wrong_answer_names_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_error: Any, answer: Any, words: str
) -> None:
    loss = written(tmp_path, monkeypatch, "wrong_answer", "Wrong").Wrong()
    loss.answer = lambda inputs: answer
    assert user_error(loss, *images()).startswith(f"the loss Wrong {words}")
    joined = weighted_sum({"pixel": 1.0, "own": 1.0}, {"pixel": PixelLoss(), "own": loss})
    assert user_error(joined, *images()).startswith(f"the loss Wrong {words}")
    monkeypatch.delitem(sys.modules, "wrong_answer")


class _Seeing(PixelLoss):
    needs = frozenset({"classes", "captions"})


class _Holding(PixelLoss):
    needs = frozenset({"boxes"})

    def __init__(self) -> None:
        super().__init__()
        self.of = _Seeing()


def test_labels_that_a_loss_or_a_part_of_it_needs_are_refused_where_they_are_missing() -> None:
    inputs, loss = example_inputs(), _Holding()
    assert PixelLoss().required() == {}
    assert loss.required() == {"classes": "seeing", "captions": "seeing"} | {"boxes": "holding"}
    FusionLoss.setup(loss, inputs)
    for kind, name in loss.required().items():
        lacking = replace(inputs, **{kind: None})
        for check in (loss.check_labels, partial(FusionLoss.setup, loss)):
            with pytest.raises(ValueError, match=f"the loss {name} needs {kind}, .*data.(labels|captions)"):
                check(lacking)


@pytest.mark.parametrize("needs", [frozenset({"classes", "depth"}), "classes"])
def test_a_need_that_no_data_can_meet_is_refused(needs: object, user_error: Callable[..., str]) -> None:
    loss = PixelLoss()
    loss.needs = needs  # type: ignore[assignment, misc]
    found = user_error(loss.required)
    assert "PixelLoss has needs = " in found
    assert "expected a frozenset of some of classes, boxes, captions" in found


def test_joined_losses_share_one_teacher(user_error: Any) -> None:
    class Taught(FusionLoss):
        def __init__(self, decay: object) -> None:
            super().__init__()
            self.teacher_decay = decay  # type: ignore[assignment]

        def forward(self, inputs: LossInputs) -> LossOutput:
            raise NotImplementedError

    def joined(*decays: object) -> WeightedSum:
        names = [str(index) for index in range(len(decays))]
        return WeightedSum(dict.fromkeys(names, 1.0), dict(zip(names, map(Taught, decays), strict=True)))

    assert joined(None, None).required_teacher() is None
    assert joined(0.9, None).required_teacher() == 0.9
    assert "unlike decays, 0.5 and 0.9; expected one" in user_error(joined(0.9, 0.5).required_teacher)
    assert "teacher_decay = 1.5; expected a number in [0, 1)" in user_error(joined(1.5).required_teacher)
