import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from clipfuse.cli.config import conf_dir
from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.similarity import cosine
from clipfuse.errors import UserError
from clipfuse.losses.pixel import PixelLoss
from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.losses.promptfusion_views import PromptFusionViewsLoss
from clipfuse.ops.defects import bad_pictures
from clipfuse.ops.pyramid import detail_maximum
from clipfuse.ops.seeding import derived_seed
from clipfuse.testing.loss_contract import LossContract, example_inputs
from clipfuse.types import IGNORED, LossInputs

PAIRS = {
    "targets": {
        "positive": "the target is very striking",
        "negative": "the target is fuzzy, not prominent",
        "against": ["visible", "low_contrast"],
    },
    "texture": {
        "positive": "the texture is very clear",
        "negative": "the texture is weak",
        "against": ["blur", "average"],
    },
}
OBJECTS: dict[str, Any] = {
    "objects": ("person", "street_lamp"),
    "class_names": ("sky", "person", "street_lamp"),
    "conditions": {"night": "-[02]$", "fog": "-1$"},
}
WORDS = [
    *("person", "person at night", "person in fog"),
    *("street lamp", "street lamp at night", "street lamp in fog"),
]


def make(clip: FrozenClip, **options: Any) -> PromptFusionViewsLoss:
    options = {"fidelity": PixelLoss(), "pairs": PAIRS, "warmup": 0, **options}
    return PromptFusionViewsLoss(clip, **options).train()


def other_values(loss: PromptFusionViewsLoss, seed: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (value + 0.3 * torch.randn(value.shape, generator=generator)).detach().requires_grad_()
        for value in loss.lower_parameters()
    ]


def labelled(count: int = 4) -> LossInputs:
    """Samples 0 to 2 have one object each, of class 1, 2 and 1; the last has none."""
    inputs = example_inputs(count)
    assert inputs.classes is not None
    classes = inputs.classes.clone()
    classes[1][classes[1] == 1] = 2
    classes[3][classes[3] == 1] = 0
    return replace(inputs, classes=classes, step=10, seed=9)


def H(t: float, p: Tensor) -> Tensor:
    return -t * p.log() - (1 - t) * (1 - p).log()


def test_equals_its_written_out_form(micro_clip: FrozenClip) -> None:
    """Both levels, with objects, sample by sample and prompt by prompt; good and bad of an earlier batch."""
    loss = make(micro_clip, guidance_weight=0.7, fused_weight=2.0, fused_target=0.3, anchor_weight=0.4,
                object_weight=0.6, **OBJECTS)  # fmt: skip
    loss.view = "whole"
    earlier = labelled()
    turned = replace(earlier, infrared=earlier.visible, visible=earlier.infrared, step=0)
    loss.prepare(turned)
    inputs, lower = labelled(), other_values(loss)
    state = loss.prepare(inputs)
    upper, f = loss.upper_loss(state, lower), loss.lower_loss(state, lower)
    assert loss.prompts is not None
    texts = loss.prompts.features(lower[:4])
    ours = [
        each.features(lower[index : index + 1])
        for each, index in zip(loss.object_prompts, (4, 5), strict=True)
    ]
    scale = micro_clip.logit_scale

    def p(image: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        seen = micro_clip.encode_image(image, resize="squash")[0]
        return torch.stack([cosine(seen, positive), cosine(seen, negative)]).mul(scale).softmax(0)[0]

    def window(image: Tensor) -> Tensor:
        """Rows 6 to 29, columns 8 to 31: about rows 12 to 23, columns 16 to 23 a square of at least 24 px."""
        place = (torch.arange(32) + 0.5) * 24 / 32 - 0.5
        for first in (6, 8):
            low, part = (place + first).floor().long(), (place + first).frac()
            image = image[..., low, :].mT * (1 - part) + image[..., low + 1, :].mT * part
        return image  # turned twice

    kinds = ["visible", "low_contrast", "blur", "average"]
    word_of = {0: "person at night", 1: "street lamp in fog", 2: "person at night"}
    guidance, entropy, held, seen, of_ends, of_fused = [], [], [], [], [], []
    for index, name in enumerate(inputs.sample_ids):
        row = slice(index, index + 1)
        bands = turned.infrared[row], turned.visible[row]
        good = detail_maximum(*bands)
        for k, (pair, described) in enumerate(PAIRS.items()):
            sides = texts[2 * k], texts[2 * k + 1]
            bad = bad_pictures(described["against"], good, *bands, [derived_seed(9, 0, "bad", pair, name)])
            now = p(inputs.fused[row], *sides)
            guidance.append(-now.log())
            held.append(H(0.3, now))
            entropy.append(-p(good, *sides).log() - (1 - p(bad, *sides)).log())
        if index in word_of:
            place = WORDS.index(word_of[index])
            sides = ours[0][place], ours[1][place]
            windows = window(good), *map(window, bands)
            bad = bad_pictures(kinds, *windows, [derived_seed(9, 0, "bad object", name)])
            now = p(window(inputs.fused[row]), *sides)
            seen.append(-now.log())
            of_fused.append(H(0.3, now))
            of_ends.append(-p(windows[0], *sides).log() - (1 - p(bad, *sides)).log())

    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values)).mean()

    starts = [getattr(loss, f"start{index}") for index in range(6)]
    anchor = mean(
        [((y - y0) ** 2).sum() / (y0**2).sum() for y, y0 in zip(lower, starts, strict=True)]
    )  # of contexts
    expected_upper = PixelLoss()(inputs).total + 0.7 * (mean(guidance) + 0.6 * mean(seen))
    expected_f = (mean(entropy) + mean(of_ends)) / 2 + 2 * (mean(held) + mean(of_fused)) + 0.4 * anchor
    # float32, two ways of normalising embeddings and of resampling windows, times a scale of some 14
    torch.testing.assert_close(upper.total, expected_upper, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(f.total, expected_f, rtol=1e-5, atol=2e-5)
    for found, expected in ((upper.total, expected_upper), (f.total, expected_f)):
        wanted = [inputs.fused, *lower]
        theirs = torch.autograd.grad(expected, wanted, retain_graph=True)
        mine = torch.autograd.grad(found, wanted, retain_graph=True)
        for one, plain in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


@pytest.fixture
def double_clip(micro_clip: FrozenClip) -> Any:
    micro_clip.to(dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    yield micro_clip
    torch.set_default_dtype(torch.float32)
    micro_clip.to(dtype=torch.float32)


def doubled(inputs: LossInputs) -> LossInputs:
    planes = {name: getattr(inputs, name).detach().double() for name in ("fused", "infrared", "visible")}
    return replace(inputs, **planes)


@pytest.mark.parametrize("options", [{}, {"fused_target": 0.0}, OBJECTS], ids=["half", "critic", "objects"])
def test_the_gradient_of_the_network_in_the_lower_level_is_that_of_differences(
    double_clip: FrozenClip, options: dict[str, Any]
) -> None:
    """Central differences in float64 along random directions of the fused images; before guidance, none."""
    loss, inputs = make(double_clip, warmup=5, **options).double(), doubled(labelled())
    lower = other_values(loss)

    def f(fused: Tensor, step: int = 10) -> Tensor:
        return loss.lower_loss(loss.prepare(replace(inputs, fused=fused, step=step)), lower).total

    f(inputs.fused)  # the good and bad images are kept from here on
    fused = inputs.fused.requires_grad_()
    (slope,) = torch.autograd.grad(f(fused), fused)
    assert (slope.flatten(1).norm(dim=1) > 1e-3).all()
    assert torch.autograd.grad(f(fused, step=4), fused, allow_unused=True)[0] is None
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        way = torch.randn(fused.shape, generator=generator)
        with torch.no_grad():
            ahead, behind = f(fused + 1e-5 * way), f(fused - 1e-5 * way)
        # Central differences of step h: an error of h^2 times a third derivative, and rounding 1e-16 / h.
        assert float((ahead - behind) / 2e-5) == pytest.approx(float((slope * way).sum()), rel=1e-5, abs=1e-8)


def solved(loss: PromptFusionLoss, inputs: LossInputs, steps: int = 60) -> Tensor:
    """Return the prompts that Adam finds from their start, flat."""
    state = loss.prepare(inputs)
    values = [value.detach().clone().requires_grad_() for value in loss.lower_parameters()]
    optimizer = torch.optim.Adam(values, lr=0.02)
    for _ in range(steps):
        slopes = torch.autograd.grad(loss.lower_loss(state, values).total, values)
        for value, slope in zip(values, slopes, strict=True):
            value.grad = slope
        optimizer.step()
        torch.autograd.graph.increment_version(values)
    return torch.cat([value.detach().flatten() for value in values])


def test_the_answer_moves_with_the_network(micro_clip: FrozenClip) -> None:
    """From the fused images to their blurred copies; a lower level without H does not move at all."""
    inputs = replace(example_inputs(), step=10)
    soft = torch.nn.functional.avg_pool2d(inputs.fused.detach(), 9, 1, 4, count_include_pad=False)
    moved = {}
    for weight in (1.0, 0.0):
        loss = make(micro_clip, fused_weight=weight)
        loss.prepare(inputs)
        start = torch.cat([value.detach().flatten() for value in loss.lower_parameters()])
        here = solved(loss, inputs)
        moved[weight] = float(
            (solved(loss, replace(inputs, fused=soft)) - here).norm() / (here - start).norm()
        )
    assert moved[0.0] == 0
    assert moved[1.0] > 1e-3  # of a random CLIP, to which all images are much alike


def test_good_and_bad_images_are_those_of_an_earlier_batch(micro_clip: FrozenClip) -> None:
    loss, first = make(micro_clip, pictures_every=2), replace(example_inputs(), step=0)
    other = replace(first, infrared=first.visible, visible=first.infrared)
    found = [loss.prepare(replace(other if step == 2 else first, step=step)).pictures for step in range(4)]
    assert all(each is not None for each in found)
    assert torch.equal(found[0], found[1])  # type: ignore[arg-type]  # the first has no earlier one
    assert torch.equal(found[1], found[2])  # type: ignore[arg-type]
    assert not torch.equal(found[2], found[3])  # type: ignore[arg-type]
    assert loss.prepare(replace(example_inputs(2), step=3)).pictures.shape[1] == 2  # type: ignore[union-attr]


def test_the_prompts_begin_with_the_features_of_their_texts(micro_clip: FrozenClip) -> None:
    loss = make(micro_clip, **OBJECTS)
    for each, text in zip(loss.object_prompts, ("a clear and striking", "a fuzzy and weak"), strict=True):
        expected = micro_clip.encode_text([f"{text} {word}" for word in WORDS])
        torch.testing.assert_close(each(), expected, rtol=1e-4, atol=1e-5)
    assert len(loss.lower_parameters()) == 6
    names = [name for name in loss.state_dict() if "object_prompts" in name]
    assert len(names) == 2


def test_a_batch_without_objects_counts_nothing(micro_clip: FrozenClip) -> None:
    inputs = replace(labelled(), classes=torch.full((4, 48, 48), IGNORED))
    for options in (OBJECTS, {}):
        loss = make(micro_clip, **options)
        state = loss.prepare(inputs)
        lower = [value.detach() for value in loss.lower_parameters()]
        found = loss.upper_loss(state, lower).total, loss.lower_loss(state, lower).total
        if options:
            with_objects = found
    torch.testing.assert_close(found, with_objects, rtol=1e-6, atol=1e-6)


def test_boxes_of_the_data_serve_as_well(micro_clip: FrozenClip) -> None:
    both = {}
    for boxes in ("boxes", "classes"):
        loss = make(micro_clip, boxes=boxes, objects=("person",), class_names=("sky", "person"))
        assert loss.required() == {boxes: "promptfusion_views"}
        state = loss.prepare(
            replace(example_inputs(), step=3, **{"boxes" if boxes == "classes" else "classes": None})
        )
        both[boxes] = loss(replace(example_inputs(), step=3)).total
        assert state.objects is not None
        with pytest.raises(UserError, match=f"promptfusion_views loss: a batch has no {boxes}"):
            loss.prepare(replace(example_inputs(), **{boxes: None}))
        with pytest.raises(
            ValueError, match=f"the loss promptfusion_views needs {boxes}, which the data do not"
        ):
            loss.setup(replace(example_inputs(), **{boxes: None}))
    assert torch.equal(both["boxes"], both["classes"])  # the square of the map is the box


def test_it_needs_no_labels_after_the_training(micro_clip: FrozenClip) -> None:
    loss = make(micro_clip, **OBJECTS).eval()
    bare = replace(example_inputs(), classes=None, boxes=None)
    terms = loss(bare).terms
    assert not any("objects" in name for name in terms)
    assert "p_fused_objects" in loss(labelled()).terms
    with torch.no_grad():
        found = loss.artifacts(bare)
    assert found.texts["objects positive"] == "a clear and striking"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fused_weight": -1.0}, "promptfusion_views loss: fused_weight is -1.0; expected 0 or more"),
        ({"fused_target": 1.5}, "fused_target is 1.5; expected 0 to 1"),
        ({"fused_target": math.nan}, "fused_target is nan"),
        ({"anchor_weight": -0.1}, "anchor_weight is -0.1"),
        ({"object_weight": math.inf}, "object_weight is inf"),
        ({"warmup": -1}, "promptfusion_views loss: warmup is -1"),
        ({"boxes": "masks"}, "boxes is 'masks'; expected classes or boxes"),
        ({"objects": ("person",)}, r"objects needs the names of the data's classes.*loss\.class_names"),
        (
            {"objects": ("bus",), "class_names": ("sky", "car")},
            "objects has bus; the data's classes are sky, car",
        ),
        ({**OBJECTS, "conditions": {"night": "("}}, r"conditions\.night is '\(': missing"),
        (
            {**OBJECTS, "object_positive": "weak " * 90},
            "promptfusion_views loss: the prompt .* has 90 context vectors",
        ),
    ],
)
def test_refuses_what_cannot_be_meant(micro_clip: FrozenClip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(micro_clip, **options)


def test_refuses_a_class_without_a_name(micro_clip: FrozenClip) -> None:
    loss = make(micro_clip, objects=("sky",), class_names=("sky",))
    with pytest.raises(ValueError, match=r"has a class 1, and loss.class_names 1 names, 0 to 0"):
        loss.setup(example_inputs())


def test_idle_settings_are_named(micro_clip: FrozenClip) -> None:
    loss = make(micro_clip, fused_weight=0.0, fused_target=0.2, object_weight=2.0)
    assert loss.notices(100) == [
        "loss.fused_target=0.2 has no effect: fused_weight is 0",
        "loss.object_weight=2.0 has no effect: there are no objects",
    ]


def test_the_pairs_are_those_of_promptfusion() -> None:
    ours, theirs = (
        OmegaConf.load(conf_dir() / f"loss/{name}.yaml") for name in ("promptfusion_views", "promptfusion")
    )
    assert ours.pairs == theirs.pairs


PLAIN = ("loss.fidelity.decomposition_weight=0", "loss.warmup=0")


class TestContract(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("promptfusion_views", *PLAIN)


class TestContractOfObjects(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        words = ("loss.objects=[person]", "loss.class_names=[sky,person]", "loss.fused_target=0")
        return loss_node("promptfusion_views", *PLAIN, *words)
