from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipfuse.api.kinds import check_alike, take
from clipfuse.errors import UserError

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOR = np.stack([GRAY, GRAY.T.reshape(3, 4), 255 - GRAY], axis=-1)


@pytest.mark.parametrize(
    ("given", "form", "shape"),
    [
        (GRAY, "one image", (1, 1, 3, 4)),
        (GRAY[..., None], "one image", (1, 1, 3, 4)),
        (COLOR, "one image", (1, 3, 3, 4)),
        (np.stack([GRAY, GRAY]), "a batch", (2, 1, 3, 4)),
        (np.stack([GRAY, GRAY])[..., None], "a batch", (2, 1, 3, 4)),
        (np.stack([COLOR, COLOR]), "a batch", (2, 3, 3, 4)),
        (torch.from_numpy(GRAY), "one image", (1, 1, 3, 4)),
        (torch.from_numpy(COLOR).movedim(-1, 0), "one image", (1, 3, 3, 4)),
        (torch.from_numpy(COLOR).movedim(-1, 0)[None], "a batch", (1, 3, 3, 4)),
        (GRAY.astype(np.uint16) * 200, "one image", (1, 1, 3, 4)),
        (GRAY.astype(">u2"), "one image", (1, 1, 3, 4)),
        (GRAY[::-1, ::-1], "one image", (1, 1, 3, 4)),
        ((GRAY / 255).astype(np.float16), "one image", (1, 1, 3, 4)),
        ((COLOR / 255), "one image", (1, 3, 3, 4)),
    ],
)
def test_arrays_and_tensors_come_back_as_they_were(given: Any, form: str, shape: tuple[int, ...]) -> None:
    stack = take("visible", given)
    assert (stack.form, stack.parts[0].shape) == (form, torch.Size(shape))
    back = stack.give_back(stack.parts)
    assert type(back) is type(given)
    assert back.dtype == given.dtype.newbyteorder("=") if isinstance(given, np.ndarray) else given.dtype
    np.testing.assert_array_equal(np.asarray(back), np.asarray(given))


def test_the_channels_of_an_array_are_not_its_rows() -> None:
    (part,) = take("visible", COLOR).parts
    np.testing.assert_array_equal(part[0, 2].numpy(), COLOR[..., 2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F"])
def test_pil_images_come_back_in_8_bits(mode: str) -> None:
    image = Image.fromarray(GRAY).convert(mode) if mode not in ("I;16", "F") else None
    if mode == "I;16":
        image = Image.fromarray(GRAY.astype(np.uint16) * 257)
    if mode == "F":
        image = Image.fromarray((GRAY / 255).astype(np.float32))
    assert image is not None
    stack = take("visible", image)
    back = stack.give_back(stack.parts)
    assert back.mode == ("RGB" if mode in ("P", "RGB", "RGBA") else "L")
    if mode != "1":
        np.testing.assert_array_equal(np.asarray(back.convert("L")), GRAY)


def test_a_list_gives_a_list_of_images_of_different_sizes(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    Image.fromarray(COLOR[:2]).save(tmp_path / "b.png")
    stack = take("visible", [tmp_path / "a.png", str(tmp_path / "b.png")])
    first, second = stack.give_back(stack.parts)
    np.testing.assert_array_equal(np.asarray(first), GRAY)
    np.testing.assert_array_equal(np.asarray(second), COLOR[:2])


def test_rounding_is_clamped() -> None:
    (part,) = take("visible", np.array([[-1e-7, 1 + 1e-7]])).parts
    assert part.flatten().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "fused is of type int; expected arrays, tensors, PIL images or paths"),
        ([], "fused is an empty list"),
        (GRAY * 1.0, "with values from 0 to 220; expected [0, 1], or uint8, or uint16"),
        (GRAY - 0.5, "with values from -0.5 to"),
        (np.full((2, 2), np.nan), "with NaN"),
        (GRAY.astype(np.int32), "fused is of type int32; expected uint8"),
        (GRAY > 3, "fused is of type bool; expected uint8"),
        (torch.from_numpy(GRAY).int(), "fused is of type torch.int32; expected uint8"),
        (np.zeros(4), "shape (4,); expected (H, W) or"),
        (np.zeros((2, 3, 4, 2)), "shape (2, 3, 4, 2); expected"),
        (torch.zeros(2, 3, 4), "tensor of shape (2, 3, 4); expected (H, W) or (1 or 3, H, W)"),
        (np.zeros((0, 4)), "fused has no pixels"),
        (
            [GRAY, Image.fromarray(GRAY)],
            "fused[0] is an array, fused[1] is a PIL image; give all as one kind",
        ),
        ([GRAY, np.stack([GRAY, GRAY])], "fused[1] is a batch; expected one image"),
        (Image.fromarray(GRAY.astype(np.int32)), "fused: a PIL image of 32-bit"),
        ("missing.png", "missing.png: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_named(given: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        take("fused", given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (GRAY, torch.from_numpy(GRAY), "is one image (array) but visible is one image (tensor); give both"),
        (GRAY, np.stack([GRAY, GRAY]), "is one image (array) but visible is a batch (array)"),
        ([GRAY], [GRAY, GRAY], "infrared has 1 images but visible 2; give pairs"),
        (GRAY, GRAY[:2], "infrared is 1 x 4 x 3 pixels but visible is 1 x 4 x 2 pixels"),
        ([GRAY, GRAY], [GRAY, GRAY[:, :3]], "infrared[1] is 1 x 4 x 3 pixels but visible[1] is 1 x 3 x 3"),
        (np.stack([GRAY] * 2), np.stack([GRAY] * 5), "infrared is 2 x 4 x 3 pixels but visible is 5 x 4 x 3"),
    ],
)
def test_what_differs_is_named(first: Any, second: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_alike(take("infrared", first), take("visible", second))
    assert message in str(error.value)


def test_types_may_differ() -> None:
    check_alike(take("infrared", GRAY.astype(np.uint16)), take("visible", COLOR / 255))
