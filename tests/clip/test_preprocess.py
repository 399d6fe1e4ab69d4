from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.preprocess import Preprocess

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def pillow(preprocess: Preprocess, picture: Image.Image, resize: str) -> torch.Tensor:
    """open_clip's own transform."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    height, width = preprocess.size
    config = PreprocessCfg(
        size=height if height == width else preprocess.size,
        mean=preprocess.mean,
        std=preprocess.std,
        interpolation=preprocess.interpolation,
        resize_mode=resize,
    )
    return image_transform_v2(config, is_train=False)(picture)[None]


def tensor(picture: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    return pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_real_images_come_out_as_from_pillow(roadscene: Path, vit_clip: FrozenClip, resize: str) -> None:
    infrared, visible = (sorted((roadscene / band).iterdir()) for band in ("ir", "vi"))
    for path in [*infrared[::60], *visible[::60]]:
        picture = Image.open(path)
        expected = pillow(vit_clip.preprocess, picture, resize)
        ours = vit_clip.preprocess(tensor(picture), torch.float32, resize)
        # Pillow rounds to 8 bits twice: 2 / 255 / 0.26 at most, half of that on the whole
        assert (ours - expected).abs().max() < 2e-2
        embedding = vit_clip.encode_image(tensor(picture), resize=resize)
        reference = vit_clip.model.encode_image(expected)
        assert F.cosine_similarity(embedding, reference) >= 0.999


# open_clip itself forgets the interpolation of models that are not square.
@pytest.mark.parametrize(
    ("size", "interpolation"), [((32, 32), "bicubic"), ((32, 32), "bilinear"), ((32, 20), "bicubic")]
)
@pytest.mark.parametrize("shape", [(40, 57), (57, 40), (16, 40), (32, 32), (33, 32), (8, 9), (3, 90)])
def test_any_size_comes_out_as_from_pillow(
    shape: tuple[int, int], size: tuple[int, int], interpolation: str
) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(60, 196, shape, dtype=np.uint8))
    preprocess = Preprocess(size, (0.0,) * 3, (1.0,) * 3, interpolation)
    for resize in ("shortest", "squash"):
        expected = pillow(preprocess, picture, resize)
        ours = preprocess(tensor(picture), torch.float32, resize)
        assert (
            ours - expected
        ).abs().max() <= 2.01 / 255  # its two roundings, on noise; nothing to clamp, so in any order


def test_the_resize_is_torch_s_own() -> None:
    images = 0.3 + 0.4 * torch.rand(2, 1, 50, 81, dtype=torch.float64)  # nothing to clamp
    preprocess = Preprocess((20, 30), (0.0,) * 3, (1.0,) * 3)
    expected = F.interpolate(images, size=(20, 30), mode="bicubic", antialias=True)
    torch.testing.assert_close(preprocess(images, torch.float64, "squash")[:, :1], expected)


@pytest.mark.parametrize("shape", [(40, 57), (57, 40), (12, 9)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_bicubic_overshoot_is_clamped_after_each_side(shape: tuple[int, int], resize: str) -> None:
    """Black beside white: the kernel's negative lobes leave [0, 1] along either side."""
    picture = np.zeros(shape, dtype=np.uint8)
    picture[shape[0] // 3 :, shape[1] // 2 :] = 255
    preprocess = Preprocess((32, 32), (0.0,) * 3, (1.0,) * 3)
    image = tensor(Image.fromarray(picture))
    found = preprocess(image, torch.float32, resize)
    assert found.min() == 0
    assert found.max() == 1
    # Pillow clamps after each side and rounds twice; it takes the width first, or, turned, the height.
    expected = pillow(preprocess, Image.fromarray(picture), resize)
    turned = pillow(preprocess, Image.fromarray(picture.T), resize).mT
    assert min((found - either).abs().max() for either in (expected, turned)) <= 2.01 / 255
    # Something was there to clamp: torch's bicubic of the same edge overshoots by about 1 / 20.
    free = F.interpolate(image, size=(32, 32), mode="bicubic", antialias=True)
    assert free.min() < -0.02
    assert free.max() > 1.02


def test_the_gradient_is_that_of_the_formula() -> None:
    images = torch.rand(1, 3, 6, 7, dtype=torch.float64).mul_(0.4).add_(0.3).requires_grad_()
    preprocess = Preprocess((4, 4), MEAN, STD)
    assert torch.autograd.gradcheck(lambda x: preprocess(x, torch.float64), images)


def test_gray_is_repeated_before_the_normalisation() -> None:
    gray = torch.rand(2, 1, 9, 9)
    preprocess = Preprocess((8, 8), MEAN, STD)
    torch.testing.assert_close(
        preprocess(gray, torch.float32), preprocess(gray.repeat(1, 3, 1, 1), torch.float32)
    )


def test_one_pixel_becomes_a_plain_image() -> None:
    out = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3)(torch.full((1, 1, 1, 1), 0.25), torch.float32)
    torch.testing.assert_close(out, torch.full((1, 3, 8, 8), 0.25))


def test_reduced_precision_does_not_reach_it() -> None:
    preprocess = Preprocess((8, 8), MEAN, STD)
    images = torch.rand(1, 1, 20, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = preprocess(images, torch.float32)
    # float32 sums of ten weighted pixels, over a deviation of 0.26; bfloat16 is off by 2**-8.
    torch.testing.assert_close(inside, preprocess(images, torch.float32), rtol=0, atol=1e-5)


def test_what_was_kept_from_inference_mode_serves_in_training() -> None:
    preprocess = Preprocess((9, 9), MEAN, STD)
    with torch.inference_mode():
        preprocess(torch.rand(1, 1, 21, 23), torch.float32)
    preprocess(torch.rand(1, 1, 21, 23, requires_grad=True), torch.float32).sum().backward()


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (torch.rand(1, 2, 8, 8), r"\(1, 2, 8, 8\)"),
        (torch.rand(1, 4, 8, 8), r"\(1, 4, 8, 8\)"),
        (torch.rand(3, 8, 8), r"\(3, 8, 8\)"),
        (torch.rand(0, 1, 8, 8), r"\(0, 1, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "uint8"),
    ],
)
def test_other_images_are_refused(images: torch.Tensor, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Preprocess((8, 8), MEAN, STD)(images, torch.float32)


def test_other_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="interpolation is 'nearest'"):
        Preprocess((8, 8), MEAN, STD, "nearest")
    with pytest.raises(ValueError, match="resize is 'longest'"):
        Preprocess((8, 8), MEAN, STD, resize="longest")
    with pytest.raises(ValueError, match="std above 0"):
        Preprocess((8, 8), MEAN, (0.2, 0.0, 0.2))
    with pytest.raises(ValueError, match="resize is 'fit'"):
        Preprocess((8, 8), MEAN, STD)(torch.rand(1, 1, 8, 8), torch.float32, "fit")
