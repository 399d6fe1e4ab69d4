from collections.abc import Callable
from dataclasses import replace
from math import exp
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from clipfuse.cli.options import conf_dir
from clipfuse.clip.encoder import FrozenClip
from clipfuse.errors import UserError
from clipfuse.losses.text_weights import TextWeightsLoss, ssim
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.testing.loss_contract import LossContract, example_inputs, part_of
from clipfuse.types import LossInputs

ROWS = yaml.safe_load((conf_dir() / "loss/text_weights.yaml").read_text(encoding="utf-8"))["rows"]
CAPTIONS = ("a low-light street", "over_exposure", "infrared: Low contrast!", "the infrared image has noise")
Array = NDArray[np.float64]


def colored(inputs: LossInputs, learned: bool = True) -> LossInputs:
    """Give a batch of four the captions of four rows, and chroma that a network has learned."""
    count, _, height, width = inputs.fused.shape
    generator = torch.Generator().manual_seed(3)
    chroma, moved = (0.5 + 0.2 * (torch.rand(2, count, 2, height, width, generator=generator) - 0.5)).unbind()
    chroma, moved = chroma.to(inputs.fused.dtype), moved.to(inputs.fused.dtype)
    fused_chroma = moved.requires_grad_() if learned else chroma
    captions = tuple(CAPTIONS[index % 4] for index in range(count))
    return replace(inputs, chroma=chroma, fused_chroma=fused_chroma, captions=captions)


class TestLearnedChroma(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("text_weights")

    @pytest.fixture
    def inputs(self) -> LossInputs:
        return colored(example_inputs(4, 50))

    def test_the_chroma_gets_a_gradient(self, loss: TextWeightsLoss, inputs: LossInputs) -> None:
        loss(inputs).total.backward()
        assert inputs.fused_chroma.grad is not None
        assert inputs.fused_chroma.grad.flatten(1).abs().amax(1).min() > 0


# The release, written out: one image after another, one window after another, in float64.


def window_of(size: int) -> Array:
    line = np.array([exp(-((place - size // 2) ** 2) / (2 * 1.5**2)) for place in range(size)])
    line /= line.sum()
    return np.outer(line, line)


def slow_ssim(first: Array, second: Array) -> float:
    """Of one channel."""
    size = min(48, *first.shape)
    window, found = window_of(size), []
    for row in range(first.shape[0] - size + 1):
        for column in range(first.shape[1] - size + 1):
            x, y = (plane[row : row + size, column : column + size] for plane in (first, second))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2
            cxy = (window * x * y).sum() - mx * my
            found.append(
                (2 * mx * my + 0.01**2)
                * (2 * cxy + 0.03**2)
                / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))
            )
    return float(np.mean(found))


def slow_sobel(plane: Array) -> tuple[Array, Array]:
    padded, across, down = np.pad(plane, 1, mode="edge"), np.zeros_like(plane), np.zeros_like(plane)
    kernel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    for row in range(plane.shape[0]):
        for column in range(plane.shape[1]):
            for i in range(3):
                for j in range(3):
                    value = padded[row + i, column + j]
                    across[row, column] += kernel[i][j] * value
                    down[row, column] += kernel[j][i] * value
    return np.abs(across), np.abs(down)


def slow_chroma(rgb: Array) -> tuple[Array, Array]:
    """By the rounded constants of the release."""
    r, g, b = rgb
    return -0.168736 * r - 0.331264 * g + 0.5 * b, 0.5 * r - 0.418688 * g - 0.081312 * b


def slow_loss(fused: Array, infrared: Array, visible: Array, kind: str) -> float:
    """Return the loss of one pair; fused and visible in RGB, (3, H, W)."""
    gray = np.array([0.299, 0.587, 0.114])
    f, v = (np.tensordot(gray, image, 1) for image in (fused, visible))
    a, b, g, consistent, with_infrared, squared = {
        "low_light": (8, 1, 10, 0, 1, False),
        "over_exposure": (4, 0, 2, 4, 0, True),
        "infrared_low_contrast": (8, 1, 10, 1, 1, False),
        "infrared_noise": (6, 1, 10, 4, 1, False),
    }[kind]

    def distance(one: Array, other: Array) -> float:
        return float(np.mean((one - other) ** 2 if squared else np.abs(one - other)))

    mask = infrared > visible.mean(0)
    total = a * distance(fused, np.where(mask, infrared, visible))
    structure = np.mean([1 - slow_ssim(visible[c], fused[c]) for c in range(3)])
    total += b * (structure + 1 - slow_ssim(infrared, f))
    total += consistent * (distance(v, f) + with_infrared * distance(infrared, f)) / 2
    for one, other in zip(slow_chroma(visible), slow_chroma(fused), strict=True):
        total += 12 * float(np.mean(np.abs(one - other)))
    edges = zip(*(slow_sobel(plane) for plane in (f, v, infrared)), strict=True)
    for mine, first, second in edges:
        total += g * float(np.mean(np.abs(mine - np.maximum(first, second))))
    return float(total)


@pytest.mark.parametrize("size", [(49, 51), (12, 17)])
def test_equals_the_release_written_out(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    fused, visible = torch.rand(2, 4, 3, *size, generator=generator, dtype=torch.float64).unbind()
    infrared = torch.rand(4, 1, *size, generator=generator, dtype=torch.float64)
    (f, fused_chroma), (v, chroma) = (rgb_to_luma_chroma(image) for image in (fused, visible))
    inputs = LossInputs(f, infrared, v, chroma, fused_chroma=fused_chroma, captions=CAPTIONS)
    loss = TextWeightsLoss(ROWS)
    for index, kind in enumerate(ROWS):
        expected = slow_loss(fused[index].numpy(), infrared[index, 0].numpy(), visible[index].numpy(), kind)
        found = float(loss(part_of(inputs, [index])).total)
        # The release's constants of chroma have six digits; the term has the weight 12.
        assert found == pytest.approx(expected, abs=12 * 1e-6)
    output = loss(inputs)
    means = [float(loss(part_of(inputs, [index])).total) for index in range(4)]
    assert float(output.total) == pytest.approx(np.mean(means), rel=1e-12)
    assert {float(output.terms[f"share_{kind}"]) for kind in ROWS} == {0.25}


def test_in_gray_its_terms_are_exact() -> None:
    """Without chroma nothing is rounded: 1e-12 is float64 alone."""
    generator = torch.Generator().manual_seed(2)
    planes = torch.rand(3, 1, 1, 50, 49, generator=generator, dtype=torch.float64)
    fused, infrared, visible = planes.unbind()
    for kind, planes_of in ((name, where) for name in ROWS for where in ("rgb", "luma")):
        loss = TextWeightsLoss(ROWS, default=kind, planes=planes_of)
        f, i, v = (plane[0, 0].numpy() for plane in (fused, infrared, visible))
        expected = slow_loss(np.stack([f] * 3), i, np.stack([v] * 3), kind)
        assert float(loss(fused, infrared, visible).total) == pytest.approx(expected, rel=1e-12)


def test_the_even_window_is_centred_on_its_tap_24() -> None:
    """An image of 48 pixels has one window: its centre of weight, and 49 columns have the next one."""
    image = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def reach(first: Tensor) -> Tensor:
        first = first.clone().requires_grad_()
        return torch.autograd.grad(ssim(first, first.detach().flip(-1)).sum(), first)[0][0, 0].abs() > 1e-9

    for width in (48, 49):
        seen = reach(torch.nn.functional.pad(image, (0, width - 48, 0, 0), mode="replicate"))
        rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
        assert (int(rows.min()) + int(rows.max())) / 2 == 24
        assert (int(columns.min()) + int(columns.max())) / 2 == 24 + (width - 48) / 2


def test_luma_alone_leaves_colours_to_the_chroma_term() -> None:
    inputs = colored(example_inputs())
    loss = TextWeightsLoss(ROWS, planes="luma", chroma_weight=0)
    (gradient,) = torch.autograd.grad(loss(inputs).total, inputs.fused_chroma, allow_unused=True)
    assert gradient is None
    kept = TextWeightsLoss(ROWS)(colored(example_inputs(), learned=False))
    assert float(kept.terms["chroma"]) == 0


@pytest.mark.parametrize(
    ("caption", "row"),
    [
        ("Low-light, and UNDEREXPOSED", "low_light"),
        ("a street with lights low over it", None),
        ("ir_low_contrast", "infrared_low_contrast"),
        ("low light and low contrast", "infrared_low_contrast"),  # the longer text
        ("noise of low light", "low_light"),
        ("noisy", "infrared_noise"),
        ("noiseless", None),
        ("", None),
    ],
)
def test_a_caption_belongs_to_the_longest_text_in_it(caption: str, row: str | None) -> None:
    loss = TextWeightsLoss(ROWS, default="over_exposure")
    assert loss.row_of(caption) == (row or "over_exposure")
    strict = TextWeightsLoss(ROWS, strict=True)
    if row is None:
        with pytest.raises(
            UserError, match=rf"00004N: its caption '{caption}' contains no text of loss.rows"
        ):
            strict.row_of(caption, "00004N")
    else:
        assert strict.row_of(caption, "00004N") == row


def test_pairs_without_captions_get_the_default(caplog: pytest.LogCaptureFixture) -> None:
    inputs = replace(colored(example_inputs()), captions=None)
    loss = TextWeightsLoss(ROWS, default="infrared_noise", strict=True)
    loss.setup(part_of(inputs, [0]))
    assert "no captions, so that every pair gets the weights of 'infrared_noise'" in caplog.text
    alone = TextWeightsLoss({"infrared_noise": ROWS["infrared_noise"]}, default="infrared_noise")
    assert torch.equal(loss(inputs).total, alone(inputs).total)
    assert float(loss(inputs).terms["share_infrared_noise"]) == 1


def test_a_clip_finds_the_nearest_text(micro_clip: FrozenClip) -> None:
    """Words decide where they can; a caption near to a text, by the cosine written out, where they cannot."""
    texts = ["the texture is weak", "an infrared image"]
    rows = {name: {"texts": [text], "ssim": 1.0} for name, text in zip("ab", texts, strict=True)}
    loss = TextWeightsLoss(rows, default="a", clip=micro_clip)
    assert [loss.row_of(text) for text in texts] == ["a", "b"]
    caption = "a visible gray image"
    vectors = micro_clip.encode_text([caption, *texts])
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    assert loss.row_of(caption) == "ab"[int((unit[1:] @ unit[0]).argmax())]
    assert loss.row_of("  ") == "a"
    assert TextWeightsLoss(rows, default="a", clip=micro_clip, strict=True).notices(9) == [
        "loss.strict=True has no effect: with a clip every caption has a nearest row",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"default": "lowlight"}, "default is 'lowlight', which is no row. Did you mean 'low_light'"),
        ({"planes": "hsv"}, "planes is 'hsv'; expected rgb or luma"),
        ({"chroma_weight": -1.0}, "chroma_weight is -1.0; expected 0 or more"),
        ({"rows": {"low_light": {"intensty": 8}}}, "'intensty'. Did you mean 'intensity'"),
        ({"rows": {"low_light": {"ssim": "much"}}}, "rows.low_light.ssim is 'much'; expected a number"),
        ({"rows": {"low_light": {"ssim": -1}}}, "rows.low_light.ssim is -1; expected 0 or more"),
        ({"rows": {"low_light": {"texts": "dark", "ssim": 1}}}, "texts is 'dark'; expected a list"),
        ({"rows": {"low_light": {"texts": ["dark"]}}}, "all weights of rows.low_light are 0"),
        ({"rows": {"low_light": {"ssim": 1, "squared": "no"}}}, "squared is 'no'; expected true or false"),
        (
            {"rows": {"low_light": {"to_visible": 1}}, "auxiliary_weight": 0},
            "all weights of rows.low_light are 0",
        ),
        (
            {"rows": {**ROWS, "haze": {"texts": ["Low_light"], "ssim": 1}}},
            "'Low_light' is a text of low_light and of haze",
        ),
    ],
)
def test_a_wrong_table_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^text_weights loss: .*{message}"):
        TextWeightsLoss(**{"rows": ROWS, **arguments})


def test_a_row_can_be_left_out_and_its_auxiliary_term() -> None:
    loss = TextWeightsLoss({**ROWS, "infrared_noise": None}, auxiliary_weight=0)
    output = loss(colored(example_inputs()))
    assert "to_visible" not in output.terms
    assert "share_infrared_noise" not in output.terms
    assert float(output.terms["share_low_light"]) == 0.5  # the noisy pair gets the default
