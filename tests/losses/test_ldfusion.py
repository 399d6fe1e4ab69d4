import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, distributed

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.perceptual import maximum_feature_loss
from clipfuse.errors import UserError
from clipfuse.losses.ldfusion import LDFusionLoss, language_loss, similarity_loss
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.ops.entropy import entropy
from clipfuse.ops.patches import cut_patches
from clipfuse.runs.train import train
from clipfuse.testing.loss_contract import LossContract
from clipfuse.testing.ranks import Ranks
from clipfuse.types import LossInputs

# The published functions in float64; the order of summing 512 products is all that differs.
EXACT = {"rtol": 0, "atol": 1e-9}
LAYERS = ("conv2_1", "conv3_1", "conv4_2")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[1] / "golden/ldfusion.npz") as file:
        found = {key.replace("/ld_", "/"): torch.from_numpy(file[key]) for key in file.files}
    return {key: value.double() if value.is_floating_point() else value for key, value in found.items()}


def texts(golden: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return golden["in/prompt"][0], golden["in/vi_text"][0], golden["in/ir_text"][0]


def test_language_loss_equals_the_published_one(golden: dict[str, Tensor]) -> None:
    found = language_loss(golden["in/fu"], golden["in/vi"], golden["in/ir"], *texts(golden)).mean()
    torch.testing.assert_close(found, golden["out/clip_prompt_loss_global_f64"], **EXACT)


def test_patch_loss_and_its_gradient_equal_the_published_ones(golden: dict[str, Tensor]) -> None:
    patches = golden["in/fu_patch"].clone().requires_grad_()
    sources = (golden[f"in/{band}"].repeat(32, 1) for band in ("vi", "ir"))  # their rows: crop by crop
    losses = language_loss(patches, *sources, *texts(golden))
    torch.testing.assert_close(
        losses.mean().detach(), golden["out/clip_prompt_loss_patch_noselect_f64"], **EXACT
    )
    selected = (losses * golden["in/select"]).mean()
    torch.testing.assert_close(selected.detach(), golden["out/clip_prompt_loss_patch_select_f64"], **EXACT)
    assert golden["out/clip_prompt_loss_patch_select_none_f64"] == 0
    (gradient,) = torch.autograd.grad(selected, patches)
    expected = golden["out/clip_prompt_loss_patch_select_dfu_f64"]
    torch.testing.assert_close(gradient[: len(expected)], expected, rtol=1e-9, atol=1e-14)


def test_similarity_and_maximum_features_equal_the_published_ones(golden: dict[str, Tensor]) -> None:
    found = similarity_loss(golden["in/fu"], golden["in/vi"], golden["in/ir"]).mean()
    torch.testing.assert_close(found, golden["out/clip_sim_loss_f64"], **EXACT)
    pairs = [
        (
            golden[f"in/vgg_fu_{name}"],
            torch.cat([golden[f"in/vgg_vi_{name}"], golden[f"in/vgg_ir_{name}"]]),
        )
        for name in LAYERS
    ]
    torch.testing.assert_close(
        maximum_feature_loss(pairs, (1, 1, 1)), golden["out/vgg_loss_rule_f64"], **EXACT
    )


def textured(count: int, side: int = 48, seed: int = 0) -> Tensor:
    """Smooth noise of more than six bits."""
    noise = torch.rand(count, 1, side + 2, side + 2, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 3, 1)


def loss_inputs(count: int = 3, side: int = 48, **changes: Any) -> LossInputs:
    infrared, visible = textured(count, side, 1), textured(count, side, 2)
    inputs = LossInputs(
        fused=textured(count, side).requires_grad_(),
        infrared=infrared,
        visible=visible,
        chroma=torch.full((count, 2, side, side), 0.5),
        features={},
        sample_ids=tuple(f"sample-{index}" for index in range(count)),
        step=3,
        seed=7,
    )
    return replace(inputs, **changes)


def gradient(loss: LDFusionLoss, inputs: LossInputs) -> Tensor:
    (found,) = torch.autograd.grad(loss(inputs).total, inputs.fused)
    return found


@pytest.mark.parametrize("variant", [2025, 2024])
@pytest.mark.parametrize("patch_source", ["whole", "patch"])
@pytest.mark.parametrize("patch_mean", ["all", "kept"])
def test_equals_a_plain_second_implementation(
    micro_clip: FrozenClip, variant: Any, patch_source: Any, patch_mean: Any
) -> None:
    """One crop of one image after another, whole graphs, every patch seen by CLIP."""
    # Smooth noise of 48 pixels has 6.2 to 6.5 bits: some patches count, some do not.
    options = {"patches": 4, "entropy_bits": 6.3, "loss_threshold": 1.0, "clip_batch": 5}
    loss = LDFusionLoss(micro_clip, variant, patch_source=patch_source, patch_mean=patch_mean, **options)
    inputs = loss_inputs()
    fused, visible, infrared = inputs.fused, inputs.visible, inputs.infrared
    words = tuple(
        micro_clip.encode_text([str(getattr(loss.release, name))])[0]
        for name in ("text", "visible_text", "infrared_text")
    )

    def unit(vectors: Tensor) -> Tensor:
        return vectors / vectors.norm(dim=-1, keepdim=True)

    def language(image: Tensor, from_visible: Tensor, from_infrared: Tensor) -> Tensor:
        parts = [
            0.5 * (1 - unit(unit(image) - unit(start)) @ unit(unit(words[0]) - unit(word)))
            for start, word in ((from_visible, words[1]), (from_infrared, words[2]))
        ]
        return parts[0] + parts[1]

    places = loss._places(inputs)
    whole = {name: micro_clip.encode_image(image) for name, image in
             {"fused": fused, "visible": visible, "infrared": infrared}.items()}  # fmt: skip
    losses, counts = [], []
    for index in range(3):
        crops = [
            cut_patches(image[index : index + 1], replace_maps(places, index), (32, 32))
            for image in (fused, visible, infrared)
        ]
        for fused_crop, visible_crop, infrared_crop in zip(*crops, strict=True):
            starts = (
                (whole["visible"][index], whole["infrared"][index])
                if patch_source == "whole"
                else tuple(micro_clip.encode_image(crop[None])[0] for crop in (visible_crop, infrared_crop))
            )
            value = language(micro_clip.encode_image(fused_crop[None])[0], *starts)
            bits = [float(entropy(crop)) for crop in (visible_crop, infrared_crop)]
            losses.append(value)
            counts.append(min(bits) > 6.3 if variant == 2025 else float(value.detach()) >= 1.0)
    assert 0 < sum(counts) < 12
    kept = torch.stack(losses)[torch.tensor(counts)].sum()
    expected = {
        "global": torch.stack([
            language(*triple) for triple in zip(*whole.values(), strict=True)
        ]).mean(),
        "patch": kept / (12 if patch_mean == "all" else sum(counts)),
        "similarity": (
            (0.5 if variant == 2025 else 0.35) * (1 - (unit(whole["fused"]) * unit(whole["visible"])).sum(-1))
            + (0.5 if variant == 2025 else 0.65)
            * (1 - (unit(whole["fused"]) * unit(whole["infrared"])).sum(-1))
        ).mean(),
    }  # fmt: skip
    names = ("block1", "block2", "block3")
    layers = {key: micro_clip.image_features(getattr(inputs, key), names) for key in whole}
    parts = []
    for name, weight in zip(names, (1, 1, 1) if variant == 2025 else (0.1, 0.4, 0.5), strict=True):
        goal = layers["visible"][name].maximum(layers["infrared"][name])
        ratio = ((layers["fused"][name] - goal) ** 2).mean((1, 2, 3)) / (goal**2).mean((1, 2, 3))
        parts.append(weight * ratio.mean())
    expected["perceptual"] = torch.stack(parts).sum()
    output = loss(inputs)
    for name, value in expected.items():
        torch.testing.assert_close(output.terms[name], value.detach(), rtol=1e-5, atol=1e-5)
    assert float(output.terms["kept"]) == pytest.approx(sum(counts) / 12)
    total = (
        2 * expected["global"]
        + 10 * expected["patch"]
        + 6 * expected["similarity"]
        + (10 if variant == 2025 else 12) * expected["perceptual"]
    )
    torch.testing.assert_close(output.total, total, rtol=1e-5, atol=1e-5)
    (plain,) = torch.autograd.grad(total, fused)
    torch.testing.assert_close(gradient(loss, inputs), plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))


def replace_maps(places: Any, index: int) -> Any:
    frames = None if places.frames is None else places.frames[index : index + 1]
    return replace(places, maps=places.maps[index : index + 1], frames=frames)


@pytest.mark.parametrize("size", [1, 5, 24])
def test_chunks_change_no_gradient(micro_clip: FrozenClip, size: int) -> None:
    inputs = loss_inputs()
    options = {"patch_filter": "none", "patches": 8}
    whole = gradient(LDFusionLoss(micro_clip, clip_batch=10**6, **options), inputs)
    parts = gradient(LDFusionLoss(micro_clip, clip_batch=size, **options), inputs)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("source", ["visible", "infrared"])
@pytest.mark.parametrize("variant", [2025, 2024])
def test_a_fused_image_that_equals_a_source_is_finite(
    micro_clip: FrozenClip, source: str, variant: Any
) -> None:
    inputs = loss_inputs()
    inputs = replace(inputs, fused=getattr(inputs, source).clone().requires_grad_())
    for patch_source in ("whole", "patch"):
        loss = LDFusionLoss(micro_clip, variant, patch_source=patch_source)
        assert loss(inputs).total.isfinite()
        assert gradient(loss, inputs).isfinite().all()


@pytest.mark.parametrize("patch_mean", ["all", "kept"])
def test_no_patch_that_counts(micro_clip: FrozenClip, patch_mean: Any) -> None:
    loss = LDFusionLoss(micro_clip, patch_mean=patch_mean, entropy_bits=8.0, perceptual_weight=0.0)
    inputs = loss_inputs()
    output = loss(inputs)
    assert float(output.terms["patch"]) == 0
    assert float(output.terms["kept"]) == 0
    without = LDFusionLoss(micro_clip, patch_weight=0.0, perceptual_weight=0.0)
    torch.testing.assert_close(gradient(loss, inputs), gradient(without, inputs))
    alone = LDFusionLoss(
        micro_clip, entropy_bits=8.0, global_weight=0.0, similarity_weight=0.0, perceptual_weight=0.0
    )
    assert not gradient(alone, inputs).any()


def test_clip_sees_only_what_counts(micro_clip: FrozenClip, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    encode = FrozenClip.encode_with_features  # which `encode_image` calls

    def watch(self: FrozenClip, images: Tensor, *options: Any) -> Any:
        seen.append((len(images), images.requires_grad))
        return encode(self, images, *options)

    monkeypatch.setattr(FrozenClip, "encode_with_features", watch)
    inputs = loss_inputs(2)
    flat = inputs.infrared.clone()
    flat[0] = 0.5
    loss = LDFusionLoss(micro_clip, perceptual_weight=0.0, patches=6, entropy_bits=5.0, clip_batch=4)
    output = loss(replace(inputs, infrared=flat))
    # The sources without graph, the fused images, and the patches of the second image in chunks.
    assert seen == [(4, False), (2, True), (4, True), (2, True)]
    assert float(output.terms["kept"]) == 0.5


def test_patches_are_drawn_by_seed_step_and_sample(micro_clip: FrozenClip) -> None:
    loss = LDFusionLoss(micro_clip)
    inputs = loss_inputs(2)
    first = loss(inputs).terms["patch"]
    torch.manual_seed(99)
    assert torch.equal(loss(inputs).terms["patch"], first)
    for change in ({"step": 4}, {"seed": 8}, {"sample_ids": ("a", "b")}):
        assert not torch.equal(loss(replace(inputs, **change)).terms["patch"], first)


def test_a_term_of_weight_0_is_left_out(micro_clip: FrozenClip) -> None:
    for name in ("global", "patch", "similarity", "perceptual"):
        others = {f"{other}_weight": 0.0 for other in ("global", "patch", "similarity", "perceptual")}
        loss = LDFusionLoss(micro_clip, **{**others, f"{name}_weight": 2.0})
        output = loss(loss_inputs())
        assert set(output.terms) == {name} | ({"kept"} if name == "patch" else set())
        assert float(output.total) == pytest.approx(2 * float(output.terms[name]))


def test_texts_of_a_list_are_averaged(micro_clip: FrozenClip) -> None:
    two = ["a clear image", "a salient background"]
    loss = LDFusionLoss(micro_clip, text=two)
    torch.testing.assert_close(loss._texts()[0], micro_clip.encode_text(two).mean(dim=0))


def test_features_of_a_resnet_tower(resnet_clip: FrozenClip) -> None:
    loss = LDFusionLoss(resnet_clip)
    assert loss.features is not None
    assert loss.features.layers == ("layer1", "layer2", "layer3")
    assert gradient(loss, loss_inputs()).isfinite().all()
    other = LDFusionLoss(resnet_clip, perceptual_layers=["stem", "layer1", "layer4"])
    assert not torch.equal(gradient(other, loss_inputs()), gradient(loss, loss_inputs()))


@pytest.mark.parametrize(("network", "letter", "last"), [("vgg19", "E", 22), ("vgg16", "D", 20)])
def test_vgg_judges_features_where_asked(
    network: str, letter: str, last: int, micro_clip: FrozenClip, tmp_path: Path
) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    layers = make_layers(cfgs[letter][:13])
    path = tmp_path / "vgg.pth"
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, path)
    loss = LDFusionLoss(micro_clip, perceptual=network, vgg_weights=str(path), patch_weight=0.0)  # type: ignore
    inputs = loss_inputs(2)
    sees = {}
    for key in ("fused", "visible", "infrared"):
        hidden, found = getattr(inputs, key).detach().repeat(1, 3, 1, 1), []
        for index, layer in enumerate(layers):
            hidden = layer(hidden)
            found += [hidden.clone()] if index in (6, 11, last) else []
        sees[key] = found
    expected = sum(
        ((fused - visible.maximum(infrared)) ** 2).mean()
        for fused, visible, infrared in zip(sees["fused"], sees["visible"], sees["infrared"], strict=True)
    )
    torch.testing.assert_close(loss(inputs).terms["perceptual"], expected.detach())  # type: ignore[union-attr]
    assert gradient(loss, inputs).isfinite().all()
    with pytest.raises(ValueError, match=f"{network} needs crops of 8 px or more, got 6x6"):
        loss.setup(loss_inputs(1, 6))


def test_clip_stays_out_of_the_module(micro_clip: FrozenClip) -> None:
    loss = LDFusionLoss(micro_clip)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    loss(loss_inputs()).total.backward()
    assert all(parameter.grad is None for parameter in micro_clip.model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ""}, r"text is \[''\]; expected words"),
        ({"visible_text": []}, r"visible_text is \[\]; expected words, or a list of texts"),
        ({"infrared_text": ["an image", " "]}, "infrared_text is .* expected words"),
        ({"text": "clear " * 100}, "ldfusion loss: text: .*77"),
        ({"patch_weight": -1.0}, "patch_weight is -1.0; expected 0 or more"),
        ({"global_weight": float("nan")}, "global_weight is nan"),
        (
            {f"{name}_weight": 0.0 for name in ("global", "patch", "similarity", "perceptual")},
            "all weights are 0",
        ),
        ({"patch_side": (0.5, 1.5)}, "patch_side is .*a patch cannot be larger than the image"),
        ({"patch_side": (0.8, 0.5)}, "patch_side is .*0 < first <= second <= 1"),
        ({"patches": 0}, "patches is 0; expected 1 or more"),
        ({"clip_batch": 0}, "clip_batch is 0; expected 1 or more"),
        ({"visible_share": 1.5}, "visible_share is 1.5; expected 0 to 1"),
        ({"variant": 2023}, "variant is 2023; expected 2024 or 2025"),
        ({"layer_weights": (1.0, 2.0)}, "layer_weights are .*expected three, 0 or more"),
        ({"perceptual_layers": ["block1", "block2", "block9"]}, "block9; expected three of block1, .*block4"),
        ({"perceptual": "vgg19", "vgg_weights": "/no/file"}, "ldfusion loss: no file of vgg19's weights at"),
    ],
)
def test_refuses_what_cannot_be_meant(micro_clip: FrozenClip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LDFusionLoss(micro_clip, **options)


def test_refuses_a_clip_without_features(micro_clip: FrozenClip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrozenClip, "feature_layers", ())
    with pytest.raises(
        ValueError, match=r"ldfusion loss: FrozenClip.* gives no features.*perceptual_weight=0"
    ):
        LDFusionLoss(micro_clip, perceptual="clip")
    LDFusionLoss(micro_clip, perceptual_weight=0.0)


def test_refuses_images_too_small_for_patches(micro_clip: FrozenClip) -> None:
    with pytest.raises(ValueError, match=r"patches of 12x12 images would have 6.0 px, expected 8 or more"):
        LDFusionLoss(micro_clip).setup(loss_inputs(1, 12))
    LDFusionLoss(micro_clip).setup(loss_inputs(1, 16))


def _gradient_of_a_rank(folder: str) -> Tensor:
    """Two ranks: the first three samples, and the last; with DDP's mean over ranks."""
    rank = distributed.get_rank()
    found = _gradient_of(folder, [0, 1, 2] if rank == 0 else [3])
    distributed.all_reduce(found)
    return found / 2


def _gradient_of(folder: str, samples: list[int]) -> Tensor:
    """The gradient of one number that all samples share."""
    clip = FrozenClip.load("micro", folder)
    loss = LDFusionLoss(
        clip, patch_mean="kept", global_weight=0.0, similarity_weight=0.0, perceptual_weight=0.0
    )
    loss.entropy_bits = 6.3
    inputs, shift = loss_inputs(4), torch.zeros((), requires_grad=True)
    parts = {
        name: getattr(inputs, name)[samples].detach() for name in ("fused", "infrared", "visible", "chroma")
    }
    ids = tuple(inputs.sample_ids[index] for index in samples)
    output = loss(replace(inputs, **{**parts, "fused": parts["fused"] + shift}, sample_ids=ids))
    (found,) = torch.autograd.grad(output.total, shift)
    return torch.stack([found, output.terms["patch"]])


def test_mean_of_kept_patches_is_that_of_all_ranks(micro_folders: dict[str, Path], ranks: Ranks) -> None:
    folder = str(micro_folders["vit"])
    expected = _gradient_of(folder, [0, 1, 2, 3])
    for found in ranks.run(_gradient_of_a_rank, folder):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture
def with_micro(
    tiny_config: Callable[..., DictConfig], micro_folders: dict[str, Path]
) -> Callable[..., DictConfig]:
    return lambda *overrides: tiny_config(
        "loss=ldfusion", f"+clip.pretrained={micro_folders['resnet']}", "steps=2", *overrides
    )


def test_trains_from_the_configuration(with_micro: Callable[..., DictConfig]) -> None:
    from clipfuse.cli.config import check_config
    from clipfuse.runs.train import TrainSettings

    config = with_micro("loss.patches=2", "trainer.precision=64-true")
    check_config(config, TrainSettings, ("backbone", "loss", "data", "trainer"))
    train(config)
    checkpoint = read_checkpoint(Path(config.run_dir) / "checkpoints/last.ckpt")
    assert not [name for name in checkpoint["state_dict"] if name.startswith("loss")]
    assert checkpoint["clipfuse"]["config"]["loss"]["clip"]["model"] == "micro"
    header = (Path(config.run_dir) / "metrics.csv").read_text().splitlines()[0]
    for name in ("global", "patch", "similarity", "perceptual", "kept"):
        assert f"train/loss/ldfusion/{name}" in header
        assert f"val/loss/ldfusion/{name}" in header


def test_a_wrong_option_is_named(with_micro: Callable[..., DictConfig]) -> None:
    with pytest.raises(UserError, match=r"^loss: ldfusion loss: all weights are 0"):
        train(
            with_micro(*(f"loss.{name}_weight=0" for name in ("global", "patch", "similarity", "perceptual")))
        )
    with pytest.raises(UserError, match=r"ldfusion loss: the smallest patches of 16x16 .* loader.crop_size"):
        train(with_micro("loader.crop_size=16", "loss.patch_side=[0.4,0.8]"))


def test_the_release_s_schedule_falls(with_micro: Callable[..., DictConfig]) -> None:
    """All that experiment=ldfusion sets, on a small network."""
    config = with_micro(
        "experiment=ldfusion", "steps=10", "loader.batch_size=2", "loader.crop_size=32", "test=false"
    )
    assert (config.input_noise, config.gradient_clip) == (0.03, None)
    train(config)
    with (Path(config.run_dir) / "metrics.csv").open(newline="") as file:
        rates = [
            float(row["train/learning_rate"]) for row in csv.DictReader(file) if row["train/learning_rate"]
        ]
    halves = [5e-4 * 0.5**k for k in (1, 2, 3, 4, 5, 5)]
    assert rates == pytest.approx([5e-4] * 4 + halves)


@pytest.mark.parametrize("variant", [2025, 2024], scope="class")
class TestContract(LossContract):
    @pytest.fixture
    def node(self, variant: int, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("ldfusion", f"loss.variant={variant}")
