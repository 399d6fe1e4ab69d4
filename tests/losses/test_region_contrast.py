import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.errors import UserError
from clipfuse.losses.pixel import PixelLoss
from clipfuse.losses.region_contrast import RegionContrastLoss
from clipfuse.ops.vgg import _layers
from clipfuse.testing.loss_contract import LossContract, example_inputs, part_of
from clipfuse.types import IGNORED, LossInputs

Make = Callable[..., RegionContrastLoss]


@pytest.fixture
def make(micro_clip: FrozenClip) -> Make:
    def build(**options: Any) -> RegionContrastLoss:
        return RegionContrastLoss(micro_clip, PixelLoss(), **options).train()

    return build


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    with torch.device("meta"):
        layers = _layers("vgg16")[:7]
    generator = torch.Generator().manual_seed(0)
    state = {
        f"features.{name}": 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in layers.state_dict().items()
    }
    torch.save(state, path)
    return str(path)


def uneven() -> LossInputs:
    """Images of no, one and two classes, so that ranks have unlike numbers of images and regions."""
    inputs = example_inputs()
    assert inputs.classes is not None
    classes = inputs.classes.clone()
    classes[0] = IGNORED
    classes[1] = 3
    return replace(inputs, classes=classes)


class TestClusters(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("region_contrast")


class TestLabels(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("region_contrast", "loss.regions=labels", "loss.weight=3")

    @pytest.fixture
    def inputs(self) -> LossInputs:
        return uneven()


class TestVgg(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]], weights: str) -> dict[str, Any]:
        words = ["regions=otsu", "features=vgg16", f"features_weights={weights}", "layers=[conv1_2,conv2_1]"]
        return loss_node("region_contrast", *(f"loss.{word}" for word in (*words, "salient=brightness")))


def plain_loss(loss: RegionContrastLoss, inputs: LossInputs, least: float) -> Tensor:
    """The regions' term, one pixel, place and region after another, in float64."""
    assert inputs.classes is not None
    images = []
    for n in range(len(inputs.fused)):
        ratios = []
        planes = {name: getattr(inputs, name)[n : n + 1] for name in ("fused", "infrared", "visible")}
        features = {
            name: loss.clip.image_features(plane, loss.layers, resize="squash")
            for name, plane in planes.items()
        }
        for k in sorted(set(inputs.classes[n].flatten().tolist()) - {IGNORED}):
            mask = (inputs.classes[n] == k).double()
            height, width = mask.shape
            if float(mask.mean()) < least:
                continue
            contrast = {}
            for name in ("infrared", "visible"):
                image, spread = planes[name][0, 0].double(), torch.zeros_like(mask)
                for y in range(height):
                    for x in range(width):
                        near = image[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
                        spread[y, x] = near.std(correction=0)
                contrast[name] = float((spread * mask).sum() / mask.sum())
            warm = contrast["infrared"] >= contrast["visible"]
            distances = []
            for source in ("infrared", "visible") if warm else ("visible", "infrared"):
                layers = []
                for layer in loss.layers:
                    one, other = (features[name][layer][0].double() for name in ("fused", source))
                    whole, weight = torch.zeros((), dtype=torch.float64), 0.0
                    rows, columns = one.shape[1:]
                    for y in range(rows):
                        for x in range(columns):
                            top, bottom = height * y // rows, math.ceil(height * (y + 1) / rows)
                            left, right = width * x // columns, math.ceil(width * (x + 1) / columns)
                            share = float(mask[top:bottom, left:right].mean())
                            a, b = (each[:, y, x] / (each[:, y, x].norm() + 1e-12) for each in (one, other))
                            whole, weight = whole + share * (a - b).square().sum(), weight + share
                    layers.append(whole / weight)
                distances.append(torch.stack(layers).mean())
            ratios.append(torch.log(1 + (distances[0] + 0.05) / (distances[1] + 0.05)))
        if ratios:
            images.append(torch.stack(ratios).mean())
    return torch.stack(images).mean()


def test_equals_a_plain_second_implementation(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are CLIP's, float32, for both; all that follows is float64."""
    loss, inputs = make(regions="labels", weight=1.0, least_share=0.02), uneven()
    assert inputs.classes is not None
    classes = inputs.classes.clone()
    classes[2, 1, :3] = 7  # too small to count
    inputs = replace(
        inputs,
        classes=classes,
        **{name: getattr(inputs, name).detach().double() for name in ("infrared", "visible")},
        fused=inputs.fused.detach().double().requires_grad_(),
    )
    single = FrozenClip.image_features

    def double(self: FrozenClip, *words: Any, **options: Any) -> dict[str, Tensor]:
        return {name: value.double() for name, value in single(self, *words, **options).items()}

    monkeypatch.setattr(FrozenClip, "image_features", double)
    expected = plain_loss(loss, inputs, 0.02)
    output = loss(inputs)
    found = output.total - PixelLoss()(inputs).total
    # The features of a batch and of single images differ by float32's rounding.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    mine, theirs = (torch.autograd.grad(each, inputs.fused)[0] for each in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))
    assert output.terms["regions"] == 5 / 4
    assert mine[0].abs().max() < 1e-15  # no region, and no effect on the mean of the others
    assert mine[1:].abs().amax((1, 2, 3)).min() > 0


def test_an_image_like_the_salient_source_has_the_least_loss(make: Make) -> None:
    inputs = example_inputs()
    for regions in ("clusters", "labels", "targets", "otsu", "saliency"):
        loss = make(regions=regions, salient="infrared")
        values = {
            name: loss(replace(inputs, fused=getattr(inputs, name))).terms["contrast"].item()
            for name in ("infrared", "fused", "visible")
        }
        assert values["infrared"] < values["fused"] < values["visible"], regions
        other = make(regions=regions, salient="visible")(replace(inputs, fused=inputs.infrared))
        assert other.terms["contrast"].item() == pytest.approx(values["visible"], rel=1e-4)
    assert loss(replace(inputs, infrared=inputs.visible)).terms["contrast"].item() == pytest.approx(
        math.log(2)
    )


def test_the_salient_source_follows_its_rule(make: Make) -> None:
    inputs = part_of(example_inputs(), [0])
    ramp = torch.linspace(0, 1, 48).expand(1, 1, 48, 48)
    stripes = (torch.arange(48) % 2).float().expand(1, 1, 48, 48) * 0.4
    classes = torch.zeros(1, 48, 48, dtype=torch.int64)
    classes[..., 24:] = 1
    half = replace(inputs, infrared=ramp, visible=stripes, classes=classes)
    shares = {
        rule: make(regions="labels", salient=rule)(half).terms["infrared_share"].item()
        for rule in ("contrast", "brightness", "infrared", "visible")
    }
    assert shares == {"contrast": 0, "brightness": 1, "infrared": 1, "visible": 0}
    dim = replace(half, infrared=ramp.flip(-1) * 0.3)
    assert make(regions="labels", salient="brightness")(dim).terms["infrared_share"].item() == 0.5


def test_regions_of_one_class_or_of_none(make: Make) -> None:
    inputs = part_of(example_inputs(), [0])
    loss = make(regions="labels")
    for value, regions in ((IGNORED, 0), (4, 1)):
        whole = replace(inputs, classes=torch.full((1, 48, 48), value))
        output = loss(whole)
        assert output.terms["regions"] == regions
        (gradient,) = torch.autograd.grad(output.total, inputs.fused)
        assert gradient.isfinite().all()
        assert (output.terms["contrast"] > 0) == (regions > 0)
    empty = replace(inputs, target_mask=torch.zeros(1, 1, 48, 48, dtype=torch.bool))
    assert make(regions="targets")(empty).terms["regions"] == 1


def test_clusters_are_drawn_by_step_and_sample(make: Make) -> None:
    loss, inputs = make(), example_inputs()
    found = loss._regions(inputs, torch.cat([inputs.infrared, inputs.visible]))
    assert found.shape == (4, 6, 48, 48)
    assert torch.equal(found.sum(1), torch.ones(4, 48, 48))
    two = part_of(inputs, [2, 1])
    assert torch.equal(loss._regions(two, torch.cat([two.infrared, two.visible])), found[[2, 1]])
    artifacts = loss.artifacts(inputs)
    assert [name for name, _ in artifacts.images] == ["fused", "regions", "infrared is salient"]
    assert artifacts.texts["infrared is salient in"].endswith("regions")
    assert all(image.min() >= 0 and image.max() <= 1 for _, image in artifacts.images)


def test_errors_and_notices_name_settings(make: Make, weights: str, tmp_path: Path) -> None:
    for options, message in (
        ({"regions": "sam"}, "regions is 'sam'; expected one of clusters, labels, targets, otsu, saliency"),
        ({"features": "dino"}, "features is 'dino'; expected one of clip, vgg16, vgg19"),
        ({"salient": "both"}, "salient is 'both'"),
        ({"layers": ["conv1_1"]}, "layers are conv1_1; expected some of block1"),
        ({"layers": []}, "layers are none"),
        ({"clusters": 1}, "clusters is 1; expected 2 or more"),
        ({"eps": 0.0}, "eps 0.0; expected"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"features": "vgg16", "features_weights": str(tmp_path / "none")}, "no file of vgg16's weights"),
        (
            {"features": "vgg16", "features_weights": weights},
            "does not hold the features of torchvision's vgg16",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    inputs = replace(example_inputs(), target_mask=None, classes=None)
    with pytest.raises(ValueError, match=r"needs data with target masks .* take loss\.regions=otsu"):
        make(regions="targets").setup(inputs)
    with pytest.raises(ValueError, match="region_contrast needs classes, which the data do not have"):
        make(regions="labels").setup(inputs)
    for regions in ("targets", "labels"):
        with pytest.raises(UserError, match=f"regions={regions}, and a batch has no"):
            make(regions=regions)(inputs)
    idle = make(regions="otsu", clusters=3, features_weights="x").notices(10)
    assert idle == [
        "loss.clusters=3 has no effect: regions is otsu",
        "loss.features_weights=x has no effect: features is clip",
    ]
    assert make(weight=0.0).notices(10)[0].startswith("loss.weight=0")
