"""The records: what the trainer does with a batch, and what a loss can rely on."""

import pickle
from dataclasses import FrozenInstanceError, fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins import DoublePrecision
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from clipfuse.losses.pixel import PixelLoss
from clipfuse.testing.loss_contract import example_inputs
from clipfuse.types import Boxes, FusionBatch, LossInputs

BANDS = ("fused", "infrared", "visible")
FUSED, INFRARED, VISIBLE = torch.rand(3, 2, 1, 6, 8, generator=torch.Generator().manual_seed(0))


def batch(**changes: Any) -> FusionBatch:
    chroma = torch.full((2, 2, 6, 8), 0.25)
    return replace(FusionBatch(INFRARED, VISIBLE, chroma, ("a", "b"), target_mask=INFRARED > 0.5), **changes)


def test_lightning_converts_and_moves_a_batch() -> None:
    given = batch()
    found = move_data_to_device(DoublePrecision().convert_input(given), torch.device("meta"))
    assert isinstance(found, FusionBatch)
    assert found.sample_ids == ("a", "b")
    assert found.reference is None
    assert {plane.device.type for plane in (found.infrared, found.chroma, found.target_mask)} == {"meta"}
    assert (found.visible.dtype, found.target_mask.dtype) == (torch.float64, torch.bool)
    assert given.visible is VISIBLE  # the batch that was given is as it was


def test_lightning_moves_labels_and_keeps_whole_numbers() -> None:
    boxes = tuple(Boxes(torch.ones(count, 4), torch.zeros(count, dtype=torch.int64)) for count in (0, 3))
    given = batch(classes=torch.zeros(2, 6, 8, dtype=torch.int64), boxes=boxes, captions=("x", "y"))
    found = move_data_to_device(DoublePrecision().convert_input(given), torch.device("meta"))
    assert [(len(each), each.xyxy.dtype, each.classes.dtype) for each in found.boxes] == [
        (0, torch.float64, torch.int64),
        (3, torch.float64, torch.int64),
    ]
    assert {each.xyxy.device.type for each in found.boxes} == {"meta"}
    assert (found.captions, found.classes.dtype) == (("x", "y"), torch.int64)
    assert given.boxes[1].xyxy.device.type == "cpu"


def test_the_data_loader_pins_every_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda plane: (pinned.append(id(plane)), plane + 0)[1])
    given = batch()
    found = pin_memory(given)
    assert pinned == [id(plane) for plane in (INFRARED, VISIBLE, given.chroma, given.target_mask)]
    pinned.clear()
    boxes = Boxes(torch.ones(1, 4), torch.zeros(1, dtype=torch.int64))
    assert torch.equal(pin_memory(batch(boxes=(boxes,))).boxes[0].xyxy, boxes.xyxy)
    assert pinned[-2:] == [id(boxes.xyxy), id(boxes.classes)]
    assert found.visible is not VISIBLE
    assert torch.equal(found.visible, VISIBLE)
    assert (found.sample_ids, found.reference) == (("a", "b"), None)


def test_a_loader_process_can_send_a_batch() -> None:
    found = pickle.loads(pickle.dumps(batch()))
    assert torch.equal(found.infrared, INFRARED)
    assert (found.sample_ids, len(found)) == (("a", "b"), 2)


def test_a_misspelt_field_fails_at_once() -> None:
    with pytest.raises(AttributeError):
        batch().infrarot = INFRARED  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="infrarot"):
        LossInputs(FUSED, VISIBLE, infrarot=INFRARED)  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        LossInputs(FUSED, INFRARED, VISIBLE).fused = VISIBLE  # type: ignore[misc]


def test_losses_get_every_plane_of_a_batch() -> None:
    kinds = {each.name: each.type for each in fields(LossInputs)}
    assert {each.name: each.type for each in fields(FusionBatch)}.items() <= kinds.items()
    assert list(kinds)[:3] == ["fused", "infrared", "visible"]


def test_training_hands_every_plane_on() -> None:
    from clipfuse.training.learned_chroma import LearnedChroma
    from clipfuse.training.module import FusionModule

    given = batch(reference=VISIBLE)
    output = SimpleNamespace(fused=FUSED, features={"deep": INFRARED}, chroma=None)

    class Module(SimpleNamespace):
        def __call__(self, infrared: Tensor, visible: Tensor, chroma: Tensor) -> SimpleNamespace:
            assert (infrared is INFRARED, visible is VISIBLE, chroma is given.chroma) == (True,) * 3
            return output

    module = Module(
        **{"global_step": 7, "seed": 3, "backbone": torch.nn.Identity(), "teacher": None},
        **{"device": torch.device("cpu"), "trainer": SimpleNamespace(max_steps=9)},
        _learned_chroma=LearnedChroma(),
    )
    found = FusionModule.loss_inputs(module, given)  # type: ignore[arg-type]
    for each in fields(FusionBatch):
        assert getattr(found, each.name) is getattr(given, each.name), each.name
    assert (found.fused, found.features, found.step, found.seed) == (FUSED, output.features, 7, 3)
    assert (found.total_steps, found.teacher, found.fused_chroma is given.chroma) == (9, None, True)
    assert found.network is not None


def test_three_images_are_enough_for_a_loss() -> None:
    for inputs in (
        LossInputs(FUSED, INFRARED, VISIBLE),
        LossInputs(visible=VISIBLE, infrared=INFRARED, fused=FUSED),
    ):
        assert torch.equal(inputs.chroma, torch.full((2, 2, 6, 8), 0.5))
        assert inputs.chroma.dtype == VISIBLE.dtype
        assert (inputs.sample_ids, dict(inputs.features)) == (("0", "1"), {})
        assert (inputs.step, inputs.seed, inputs.target_mask, inputs.reference) == (0, 0, None, None)
    assert LossInputs(FUSED.double(), INFRARED.double(), VISIBLE.double()).chroma.dtype == torch.float64
    whole = example_inputs()
    plain = LossInputs(whole.fused, whole.infrared, whole.visible)
    assert torch.equal(PixelLoss()(plain).total, PixelLoss()(whole).total)


def test_what_is_given_is_kept() -> None:
    chroma = torch.rand(2, 2, 6, 8)
    inputs = LossInputs(FUSED, INFRARED, VISIBLE, chroma, {"deep": FUSED}, ("x", "y"), 5, 9, reference=FUSED)
    assert (inputs.chroma is chroma, inputs.reference is FUSED) == (True, True)
    assert (inputs.sample_ids, inputs.step, inputs.seed) == (("x", "y"), 5, 9)
    later = replace(inputs, step=6)
    assert (later.chroma is chroma, later.sample_ids, later.step) == (True, ("x", "y"), 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fused": FUSED[:1]}, r"fused \(1, 1, 6, 8\), infrared \(2, 1, 6, 8\)"),
        ({"infrared": INFRARED[..., :1]}, r"infrared \(2, 1, 6, 1\)"),
        ({"visible": VISIBLE.expand(2, 3, 6, 8)}, r"visible \(2, 3, 6, 8\); expected luma of one shape"),
        (dict.fromkeys(BANDS, FUSED[0]), r"expected luma of one shape \(N, 1, H, W\)"),
        (dict.fromkeys(BANDS, FUSED.expand(2, 3, 6, 8)), "expected luma of one shape"),
        ({"sample_ids": ("a",)}, "1 sample ids for 2 images; expected one for each"),
    ],
)  # fmt: skip
def test_images_that_do_not_fit_are_refused_not_broadcast(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossInputs(**{"fused": FUSED, "infrared": INFRARED, "visible": VISIBLE, **change})


def test_a_part_of_the_inputs_has_all_that_belongs_to_its_samples() -> None:
    """Whatever is of N samples is cut; the rest stays."""
    inputs = replace(example_inputs(4, 16, {"deep": torch.rand(4, 2, 3, 3)}), step=3, total_steps=9)
    part = inputs.part(slice(1, None, 2))
    assert part.sample_ids == ("sample-1", "sample-3")
    assert (part.step, part.total_steps) == (3, 9)
    assert torch.equal(part.features["deep"], inputs.features["deep"][1::2])
    for name, value in vars(inputs).items():
        cut = getattr(part, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(cut, value[1::2]), name
        elif isinstance(value, tuple):
            assert cut == value[1::2], name
