"""AutoFuse's loss: its formula against written-out loops, in float64, and what it refuses."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from clipfuse.clip.descriptions import measured_descriptions
from clipfuse.clip.encoder import FrozenClip
from clipfuse.errors import UserError
from clipfuse.losses.autofuse import GENERAL, AutoFuseLoss, Texts, direction_losses
from clipfuse.ops.entropy import entropy
from clipfuse.ops.patches import cut_patches
from clipfuse.testing.loss_contract import LossContract, example_inputs
from clipfuse.testing.ranks import Ranks
from clipfuse.types import LossInputs

SIDES = (0.4, 0.8)


def make(clip: FrozenClip, **options: Any) -> AutoFuseLoss:
    return AutoFuseLoss(clip, **{"patch_side": SIDES, "patches": 4, "entropy_bits": 6.0, **options}).train()


def inputs_of(count: int = 3) -> LossInputs:
    """Smooth noise, dark in the infrared band of the first sample and grainy in the visible of the second."""
    inputs = example_inputs(count)
    dark, grain = inputs.infrared.clone(), inputs.visible.clone()
    dark[0] *= 0.1
    grain[1] += 0.2 * torch.randn(grain[1].shape, generator=torch.Generator().manual_seed(5))
    return replace(inputs, infrared=dark, visible=grain.clamp(0, 1), step=3, seed=7)


def cosine_of_loops(fused: list[float], source: list[float], text: list[float], start: list[float]) -> float:
    def unit(vector: list[float]) -> list[float]:
        length = math.sqrt(sum(value * value for value in vector))
        return [value / length for value in vector]

    def change(end: list[float], begin: list[float]) -> list[float]:
        return unit([one - other for one, other in zip(unit(end), unit(begin), strict=True)])

    return sum(a * b for a, b in zip(change(fused, source), change(text, start), strict=True))


def test_the_formula_equals_a_written_out_loop_in_float64() -> None:
    """One number after another; the gradient by central differences of the loop.

    Values: sums of 16 products in another order. Gradients: a step h of 1e-6 has an error of h^2 and of
    1e-16 / h.
    """
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, 16, dtype=torch.float64, generator=generator)

    fused, visible, infrared = (draw(4) for _ in range(3))
    general = draw(2)
    texts = Texts((general[0].expand(4, -1), draw(4)), (general[1].expand(4, -1), draw(4)), draw(), draw())
    gates = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=torch.bool)

    def loops(fused: Tensor, row: int) -> tuple[float, float]:
        sums = []
        for sign, pair in ((-1, texts.positive), (1, texts.negative)):
            total = 0.0
            for text in pair:
                exponent = 0.0
                for band, (source, start) in enumerate(
                    ((visible, texts.visible), (infrared, texts.infrared))
                ):
                    c = cosine_of_loops(
                        fused[row].tolist(), source[row].tolist(), text[row].tolist(), start.tolist()
                    )
                    exponent += float(gates[row, band]) * (1 + sign * c) / 2
                total += math.exp(exponent) - 1
            sums.append(total)
        return sums[0], sums[1]

    free = fused.clone().requires_grad_()
    positive, negative = direction_losses(free, visible, infrared, texts, gates)
    values = torch.stack([positive, negative], dim=1).tolist()
    for row in range(4):
        assert tuple(values[row]) == pytest.approx(loops(fused, row), abs=1e-12)
    (gradient,) = torch.autograd.grad((positive + 3 * negative).sum(), free)
    for row in range(4):
        for place in range(16):
            ends = []
            for h in (1e-6, -1e-6):
                moved = fused.clone()
                moved[row, place] += h
                found = loops(moved, row)
                ends.append(found[0] + 3 * found[1])
            assert float(gradient[row, place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=2e-9)
    assert not gradient[3].any()


@pytest.mark.parametrize("patch_source", ["whole", "patch"])
@pytest.mark.parametrize("patch_mean", ["all", "kept"])
def test_equals_a_plain_second_implementation(
    micro_clip: FrozenClip, patch_source: Any, patch_mean: Any
) -> None:
    """One image and one patch after another, whole graphs, every patch seen by CLIP."""
    loss = make(micro_clip, patch_source=patch_source, patch_mean=patch_mean, clip_batch=5, entropy_bits=6.2)
    inputs = inputs_of()
    own = measured_descriptions(inputs.infrared, inputs.visible)
    assert [bool(each.negative) for each in own] == [True, True, False]
    P, Q = GENERAL[True]

    def embed(text: str) -> Tensor:
        return micro_clip.encode_text([text])[0]

    def unit(vector: Tensor) -> Tensor:
        return vector / vector.norm()

    def language(index: int, fused: Tensor, starts: Any, gates: tuple[bool, bool]) -> Tensor:
        total = torch.zeros(())
        words = ((P, 1), (own[index].positive or P, 1), (Q, -1), (own[index].negative or Q, -1))
        for text, sign in words:
            exponent = torch.zeros(())
            for gate, start, band in zip(
                gates, starts, ("a visible gray image", "an infrared image"), strict=True
            ):
                change = unit(unit(fused) - unit(start)) @ unit(unit(embed(text)) - unit(embed(band)))
                exponent = exponent + gate * (1 - sign * change) / 2
            total = total + exponent.exp() - 1
        return total

    places = loss._places(inputs)
    whole, patch, counted = [], [], 0
    for index in range(3):
        planes = [getattr(inputs, name)[index : index + 1] for name in ("fused", "visible", "infrared")]
        fused, *starts = (micro_clip.encode_image(plane)[0] for plane in planes)
        whole.append(language(index, fused, starts, (True, True)))
        mine = replace(places, maps=places.maps[index : index + 1])
        for crops in zip(*(cut_patches(plane, mine, (32, 32)) for plane in planes), strict=True):
            bits = [float(entropy(crop)) > 6.2 for crop in crops[1:]]
            begin = starts
            if patch_source == "patch":
                begin = [micro_clip.encode_image(crop[None])[0] for crop in crops[1:]]
            counted += any(bits)
            patch.append(
                language(index, micro_clip.encode_image(crops[0][None])[0], begin, (bits[0], bits[1]))
            )
    assert 0 < counted < 12
    layers = [
        micro_clip.image_features(getattr(inputs, name), ("block2", "block3"))
        for name in ("fused", "visible", "infrared")
    ]
    perceptual = torch.zeros(())
    for name in ("block2", "block3"):
        goal = layers[1][name].maximum(layers[2][name])
        ratio = ((layers[0][name] - goal) ** 2).mean((1, 2, 3)) / (goal**2).mean((1, 2, 3))
        perceptual = perceptual + ratio.mean() / 2
    patches = torch.stack(patch).sum() / (12 if patch_mean == "all" else counted)
    expected = 2 * torch.stack(whole).mean() + 20 * patches + 17 * perceptual
    output = loss(inputs)
    # float32 embeddings of batches of another size
    torch.testing.assert_close(output.total, expected, rtol=1e-4, atol=1e-4)
    assert float(output.terms["kept"]) == pytest.approx(counted / 12)
    assert float(output.terms["described"]) == pytest.approx(2 / 3)
    both = output.terms["positive"] + output.terms["negative"]
    torch.testing.assert_close(both, torch.stack(whole).mean().detach(), rtol=1e-5, atol=1e-5)
    (ours,) = torch.autograd.grad(output.total, inputs.fused, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, inputs.fused)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def table(folder: Path, *lines: str) -> str:
    path = folder / "texts.csv"
    path.write_text("\n".join(["name,positive,negative", *lines]) + "\n")
    return str(path)


def test_texts_come_from_measures_a_table_or_nowhere(micro_clip: FrozenClip, tmp_path: Path) -> None:
    inputs = inputs_of()
    own = measured_descriptions(inputs.infrared, inputs.visible)
    lines = [f'sample-{k},"{each.positive}","{each.negative}"' for k, each in enumerate(own)]
    terms = {
        name: make(micro_clip, degradations=words)(inputs).terms
        for name, words in (("measured", "measured"), ("none", "none"), ("table", table(tmp_path, *lines)))
    }
    for name, value in terms["measured"].items():
        assert torch.equal(value, terms["table"][name]), name
    assert float(terms["none"]["described"]) == 0
    assert not torch.equal(terms["none"]["negative"], terms["measured"]["negative"])
    general = make(micro_clip, degradations=table(tmp_path, *(f"sample-{k},," for k in range(3))))
    assert torch.equal(general(inputs).total, make(micro_clip, degradations="none")(inputs).total)


def test_an_image_without_a_line_is_refused_in_training_alone(micro_clip: FrozenClip, tmp_path: Path) -> None:
    inputs, path = inputs_of(), table(tmp_path, "sample-0,clean,noisy", "sample-1,,")
    loss = make(micro_clip, degradations=path)
    missing = r"loss.degradations=\S+texts.csv has no line for the image 'sample-2'"
    with pytest.raises(ValueError, match=missing):
        loss.setup(inputs)
    with pytest.raises(ValueError, match=missing):
        loss(inputs)
    assert float(loss.eval()(inputs).terms["described"]) == pytest.approx(1 / 3)
    long = table(tmp_path, f"sample-0,{'clean ' * 90},noisy")
    with pytest.raises(ValueError, match=r"autofuse loss: \S+texts.csv: the text 'clean .* Shorten it"):
        make(micro_clip, degradations=long)
    with pytest.raises(UserError, match="cannot be read"):
        make(micro_clip, degradations="measure")


def test_a_fused_image_that_equals_a_source_is_finite(micro_clip: FrozenClip) -> None:
    for source in ("visible", "infrared"):
        inputs = inputs_of()
        inputs = replace(inputs, fused=getattr(inputs, source).clone().requires_grad_())
        for patch_source in ("whole", "patch"):
            total = make(micro_clip, patch_source=patch_source)(inputs).total
            assert total.isfinite()
            assert torch.autograd.grad(total, inputs.fused)[0].isfinite().all()


def test_a_term_of_weight_0_is_left_out(micro_clip: FrozenClip) -> None:
    names = ("global", "patch", "perceptual")
    logged = {"global": {"positive", "negative", "described"}, "patch": {"patch", "kept", "described"}}
    for name in names:
        loss = make(micro_clip, **{f"{other}_weight": 2.0 * (other == name) for other in names})
        output = loss(inputs_of())
        assert set(output.terms) == logged.get(name, {"perceptual"})
        of = ("positive", "negative") if name == "global" else (name,)
        assert float(output.total.detach()) == pytest.approx(
            2 * sum(float(output.terms[each]) for each in of)
        )
    loss = make(micro_clip, global_weight=0.0, patch_weight=0.0, text="good", patches=3)
    assert loss.notices(10) == [
        "loss.patches=3 has no effect: patch_weight is 0",
        f"loss.patch_side={SIDES} has no effect: patch_weight is 0",
        "loss.entropy_bits=6.0 has no effect: patch_weight is 0",
        "loss.text=good has no effect: no term with texts is in use",
    ]


def test_random_views_are_the_same_of_fused_image_and_sources_and_only_in_training(
    micro_clip: FrozenClip,
) -> None:
    inputs, loss = inputs_of(), make(micro_clip, view="random", patch_weight=0.0, perceptual_weight=0.0)
    fused, both = loss._views(inputs, torch.cat([inputs.visible, inputs.infrared]))
    same = replace(inputs, fused=inputs.visible, infrared=inputs.visible)
    alike, bands = loss._views(same, torch.cat([same.visible, same.infrared]))
    assert torch.equal(torch.cat([alike, alike]), bands)
    assert torch.equal(alike, both[:3])
    assert fused.shape == (3, 1, 32, 32)
    assert fused.requires_grad
    whole = make(micro_clip, patch_weight=0.0, perceptual_weight=0.0)
    assert not torch.equal(loss(inputs).total, whole(inputs).total)
    assert torch.equal(loss(inputs).total, loss(inputs).total)
    assert not torch.equal(loss(inputs).total, loss(replace(inputs, step=9)).total)
    assert torch.equal(loss.eval()(inputs).total, whole.eval()(inputs).total)


def test_no_patch_that_counts_and_patches_of_their_own_seed(micro_clip: FrozenClip) -> None:
    inputs = inputs_of()
    for way in ("all", "kept"):
        alone = make(micro_clip, patch_mean=way, entropy_bits=8.0, global_weight=0.0, perceptual_weight=0.0)
        output = alone(inputs)
        assert (float(output.terms["patch"]), float(output.terms["kept"])) == (0, 0)
        assert not torch.autograd.grad(output.total, inputs.fused)[0].any()
    loss = make(micro_clip)
    first = loss(inputs).terms["patch"]
    for change in ({"step": 4}, {"seed": 8}, {"sample_ids": ("a", "b", "c")}):
        assert not torch.equal(loss(replace(inputs, **change)).terms["patch"], first)


def test_the_release_s_values_and_those_of_the_bundled_clip(
    micro_clip: FrozenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AutoFuseLoss(micro_clip).patches == 8
    monkeypatch.setattr(FrozenClip, "identity", {"model": "ViT-B-32"})
    monkeypatch.setattr(FrozenClip, "_warn_of_unseen", lambda self, text: None)
    loss = AutoFuseLoss(micro_clip, perceptual="clip")
    assert (loss.patches, loss.texts["text"], loss.texts["antonym"]) == (32, *GENERAL[False])
    with pytest.raises(ValueError, match="autofuse loss: no file of vgg19's weights at /no/file"):
        AutoFuseLoss(micro_clip, vgg_weights="/no/file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": " "}, "text is ' '; expected words"),
        ({"infrared_text": ["an image"]}, r"infrared_text is \['an image'\]; expected words"),
        ({"antonym": "weak " * 100}, "autofuse loss: antonym: .*77"),
        ({"patch_weight": -1.0}, "patch_weight is -1.0; expected 0 or more"),
        ({"global_weight": 0.0, "patch_weight": 0.0, "perceptual_weight": 0.0}, "all weights are 0"),
        (
            {"patch_side": (0.5, 1.5)},
            "autofuse loss: patch_side is .*a patch cannot be larger than the image",
        ),
        ({"patches": 0}, "patches is 0; expected 1 or more"),
        ({"layer_weights": (1.0, 2.0, 3.0)}, "layer_weights are .*expected two, 0 or more"),
        ({"perceptual_layers": ["block1"]}, "block1; expected two of block1, .*block4"),
    ],
)
def test_refuses_what_cannot_be_meant(micro_clip: FrozenClip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(micro_clip, **options)


def test_refuses_images_too_small_for_patches(micro_clip: FrozenClip) -> None:
    with pytest.raises(
        ValueError, match=r"autofuse loss: the smallest patches of 48x48 .* 6.9 px, expected 8"
    ):
        AutoFuseLoss(micro_clip).setup(inputs_of(2))


def gradient_of(folder: str, samples: list[int]) -> Tensor:
    """The gradient of one number that all samples share, and the patch term."""
    loss = make(
        FrozenClip.load("micro", folder), patch_mean="kept", entropy_bits=6.2, global_weight=0.0,
        perceptual_weight=0.0,
    )  # fmt: skip
    inputs, shift = inputs_of(4), torch.zeros((), requires_grad=True)
    parts = {name: getattr(inputs, name)[samples].detach() for name in ("fused", "infrared", "visible")}
    ids = tuple(inputs.sample_ids[index] for index in samples)
    mine = LossInputs(**{**parts, "fused": parts["fused"] + shift}, sample_ids=ids, step=3, seed=7)
    output = loss(mine)
    return torch.stack([torch.autograd.grad(output.total, shift)[0], output.terms["patch"]])


def of_a_rank(folder: str) -> Tensor:
    found = gradient_of(folder, [0, 1, 2] if distributed.get_rank() == 0 else [3])
    distributed.all_reduce(found)
    return found / 2


def test_mean_of_kept_patches_is_that_of_all_ranks(micro_folders: dict[str, Path], ranks: Ranks) -> None:
    folder = str(micro_folders["vit"])
    expected = gradient_of(folder, [0, 1, 2, 3])
    for found in ranks.run(of_a_rank, folder):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


class TestContract(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("autofuse", "loss.patch_side=[0.4,0.8]", "loss.patches=4")
