from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2

from clipfuse.data.pairs import Pair
from clipfuse.data.transforms import collate, paired_crop, whole
from clipfuse.errors import UserError
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit
from clipfuse.types import IGNORED, Boxes

HEIGHT, WIDTH = 40, 60
PLANES = ("infrared", "visible", "chroma", "target_mask", "reference")


def noise(channels, dtype=torch.uint8, high=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, (channels, HEIGHT, WIDTH), generator=generator).to(dtype)


def crop(pair, size=32, seed=3, position=5, sample_id="a", **options):
    return paired_crop(pair, size, seed, position, sample_id, **options)


@pytest.mark.parametrize("size", [24, 40, 70])
def test_all_planes_move_together(size):
    # Each plane holds its pixel's own number, so any disagreement shows anywhere in the patch.
    numbers = torch.arange(HEIGHT * WIDTH).reshape(1, HEIGHT, WIDTH)
    pair = Pair(
        infrared=numbers.to(torch.uint16),
        visible=numbers.expand(3, -1, -1).to(torch.uint16),
        target_mask=numbers % 7 == 0,
        reference=(numbers % 256).to(torch.uint8),
    )
    mirrored = set()
    for position in range(8):
        patch = crop(pair, size, position=position, min_std=0)
        found = (patch.infrared * 65535).round().long()
        assert found.shape == (1, 1, size, size)
        torch.testing.assert_close(patch.visible, patch.infrared)
        assert torch.equal(patch.target_mask, found % 7 == 0)
        assert torch.equal((patch.reference * 255).round().long(), found % 256)
        mirrored.add(bool(found[0, 0, size // 2, 0] > found[0, 0, size // 2, 1]))
    if size < HEIGHT:
        assert mirrored == {False, True}


def test_a_marker_pixel_lands_on_the_same_place_in_both_bands():
    infrared, visible = torch.zeros(1, HEIGHT, WIDTH), torch.zeros(3, HEIGHT, WIDTH)
    infrared[:, 20, 30] = visible[:, 20, 30] = 1
    places = set()
    for position in range(30):
        patch = crop(Pair(infrared, visible), position=position)
        place = patch.infrared[0, 0].nonzero().tolist()
        assert place == (patch.visible[0, 0] > 0.9).nonzero().tolist()
        places.update(map(tuple, place))
    assert len(places) > 5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_patch_has_the_values_of_the_stored_kind(dtype):
    high = {torch.uint8: 256, torch.uint16: 65536, torch.float32: 2}[dtype]
    pair = Pair(noise(1, dtype, high), noise(3, dtype, high, seed=1))
    patch = crop(pair)
    assert patch.infrared.dtype == patch.visible.dtype == patch.chroma.dtype == torch.float32
    assert {type(getattr(patch, name)) for name in PLANES} == {torch.Tensor, type(None)}
    assert patch.sample_ids == ("a",)
    windows = to_unit(pair.infrared)[0].unfold(0, 32, 1).unfold(1, 32, 1)
    same = [
        (windows == plane).all(dim=(2, 3)).sum().item() for plane in (patch.infrared, patch.infrared.flip(-1))
    ]
    assert sorted(same) == [0, 1]


def test_draws_depend_on_seed_position_and_name_alone():
    pair = Pair(noise(1), noise(3, seed=1))
    torch.manual_seed(1)
    first = crop(pair)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = crop(pair)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in PLANES[:3])
    for change in ({"seed": 4}, {"position": 6}, {"sample_id": "b"}):
        assert not torch.equal(first.infrared, crop(pair, **change).infrared)


def test_patches_of_low_contrast_in_both_bands_are_drawn_anew():
    infrared = torch.full((1, HEIGHT, WIDTH), 100, dtype=torch.uint8)
    infrared[:, :, 44:] = noise(1)[:, :, 44:]
    flat = torch.full((3, HEIGHT, WIDTH), 50, dtype=torch.uint8)

    def flat_patches(pair, **options):
        patches = [crop(pair, 16, position=position, **options) for position in range(60)]
        return sum(patch.infrared.std() < 0.05 for patch in patches)

    assert flat_patches(Pair(infrared, flat), attempts=1) > 20
    assert flat_patches(Pair(infrared, flat), attempts=20) == 0
    assert flat_patches(Pair(infrared, flat), attempts=20, min_std=0) > 20
    # Contrast in one band is enough.
    assert flat_patches(Pair(infrared, noise(3)), attempts=20) > 20
    assert flat_patches(Pair(flat[:1], flat)) == 60


@pytest.mark.parametrize("band", ["infrared", "visible"])
def test_the_least_contrast_of_a_patch_is_a_deviation_of_a_twentieth(band: str) -> None:
    """A board of +-12 levels has 12 / 255 = 0.047, one of +-13 levels 0.051; the other band is flat."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    flat = torch.full((1, HEIGHT, WIDTH), 100, dtype=torch.uint8)

    def draws(levels: int) -> int:
        board = (100 + levels * (1 - 2 * ((rows + columns) % 2)))[None].to(torch.uint8)
        planes = {"infrared": flat, "visible": flat} | {band: board}
        drawn = 0

        class Counting(v2.Compose):
            def forward(self, *inputs):
                nonlocal drawn
                drawn += 1
                return super().forward(*inputs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("clipfuse.data.transforms.v2.Compose", Counting)
            crop(Pair(**planes), 16)
        return drawn

    assert draws(12) == 8
    assert draws(13) == 1


def test_an_image_too_small_to_reflect_is_refused():
    pair = Pair(noise(1), noise(3))
    assert crop(pair, 79).infrared.shape == (1, 1, 79, 79)
    with pytest.raises(
        UserError,
        match=r"a is 60 x 40 pixels, too small for patches of 80; set loader.crop_size to at most 79",
    ):
        crop(pair, 80)


def test_whole_converts_and_does_not_crop():
    pair = Pair(noise(1), noise(3, seed=1), target_mask=noise(1) > 99, reference=noise(1, seed=2))
    batch = whole(pair, "street")
    luma, chroma = rgb_to_luma_chroma(pair.visible[None] / 255)
    assert batch.sample_ids == ("street",)
    torch.testing.assert_close(batch.infrared, pair.infrared[None] / 255)
    torch.testing.assert_close(batch.visible, luma)
    torch.testing.assert_close(batch.chroma, chroma)
    assert torch.equal(batch.target_mask, pair.target_mask[None])
    torch.testing.assert_close(batch.reference, pair.reference[None] / 255)


def test_whole_of_gray_without_extras():
    batch = whole(Pair(noise(1), noise(1, seed=1)))
    assert batch.visible.shape == (1, 1, HEIGHT, WIDTH)
    assert torch.equal(batch.chroma, torch.full((1, 2, HEIGHT, WIDTH), 0.5))
    assert batch.target_mask is None
    assert batch.reference is None


def test_batches_are_joined_plane_by_plane():
    pairs = [Pair(*(noise(1, seed=2 * i + j) for j in (0, 1)), target_mask=noise(1) > i) for i in range(3)]
    pairs[0] = replace(pairs[0], reference=noise(1))
    ones = [whole(pair, name) for pair, name in zip(pairs, "abc", strict=True)]
    joined = collate([*ones[:2], collate(ones[2:])])
    assert joined.sample_ids == ("a", "b", "c")
    assert len(joined) == 3
    assert joined.reference is None  # two of three have none
    for name in PLANES[:4]:
        assert torch.equal(getattr(joined, name), torch.cat([getattr(one, name) for one in ones]))
    assert collate(ones[:1]).reference is not None


@pytest.mark.parametrize("size", [24, 40, 70])
def test_labels_move_with_the_pixels_and_end_where_the_image_is_continued(size):
    """Each pixel holds its own number; the boxes are those of single pixels, so none is ever cut."""
    numbers = torch.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    marked = torch.tensor([[x, y] for y in range(0, HEIGHT, 4) for x in range(0, WIDTH, 4)])
    boxes = Boxes(torch.cat([marked, marked + 1], dim=1).float(), numbers[marked[:, 1], marked[:, 0]])
    pair = Pair(
        numbers[None].to(torch.uint16),
        numbers[None].to(torch.uint16),
        classes=(numbers % 9).to(torch.uint8),
        boxes=boxes,
        caption="two cars",
    )
    for position in range(6):
        patch = crop(pair, size, position=position, min_std=0)
        found = (patch.infrared * 65535).round().long()[0, 0]
        (classes,), (cut,) = patch.classes, patch.boxes
        assert patch.captions == ("two cars",)
        assert (classes.dtype, cut.xyxy.dtype, cut.classes.dtype) == (torch.int64, torch.float32, torch.int64)
        assert {type(each) for each in (classes, cut.xyxy, cut.classes)} == {torch.Tensor}
        real = classes != IGNORED
        assert torch.equal(classes[real], found[real] % 9)
        # Of a continued image all its own rows or columns are inside, and nothing else has a label.
        inside = [min(size, HEIGHT), min(size, WIDTH)]
        assert (real.any(dim=1).sum(), real.any(dim=0).sum()) == tuple(inside)
        assert real.sum() == inside[0] * inside[1]
        left, top = cut.xyxy.long().T[:2]
        assert torch.equal(cut.xyxy[:, 2:] - cut.xyxy[:, :2], torch.ones(len(cut), 2))
        assert torch.equal(found[top, left], cut.classes)
        here = real & torch.isin(found, boxes.classes)
        assert len(cut) == here.sum()
    assert torch.equal(pair.boxes.classes, boxes.classes)


def test_a_box_ends_at_the_border_and_is_left_out_where_a_sliver_is_inside():
    """Boxes of 20 x 20 pixels in a column at the left: a patch holds a share of each by its own left edge."""
    numbers = torch.arange(HEIGHT * WIDTH).reshape(1, HEIGHT, WIDTH).to(torch.uint16)
    xyxy = torch.tensor([[0.0, 0, 20, 40], [30, 10, 30, 20]])  # the second has no area
    pair = Pair(numbers, numbers, boxes=Boxes(xyxy, torch.tensor([3, 4])))
    kept = set()
    for position in range(60):
        patch = crop(pair, 40, position=position, min_std=0)
        columns = (patch.infrared * 65535).round().long()[0, 0, 0] % WIDTH
        offset, mirrored = int(columns.min()), bool(columns[0] > columns[1])
        share = max(0, 20 - offset) / 20
        (cut,) = patch.boxes
        assert cut.classes.tolist() == ([3] if share >= 0.1 else []), offset
        if len(cut):
            wide = 20.0 - offset
            assert cut.xyxy.tolist() == [[40 - wide, 0, 40, 40] if mirrored else [0, 0, wide, 40]]
            kept.add(mirrored)
    assert kept == {False, True}


def test_labels_of_whole_pairs_are_joined_and_an_image_without_objects_has_an_empty_list():
    none = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    one = Boxes(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([1]))
    bands, classes = (noise(1), noise(3, seed=1)), noise(1, high=9)[0]
    pairs = [Pair(*bands, classes=classes, boxes=boxes, caption="x") for boxes in (none, one)]
    joined = collate([whole(pair, name) for pair, name in zip(pairs, "ab", strict=True)])
    assert torch.equal(joined.classes, classes.long()[None].expand(2, -1, -1))
    assert [len(boxes) for boxes in joined.boxes] == [0, 1]
    assert joined.captions == ("x", "x")
    assert crop(pairs[0]).boxes[0].xyxy.shape == (0, 4)
    lacking = collate([whole(pairs[0], "a"), whole(Pair(*bands), "b")])
    assert (lacking.classes, lacking.boxes, lacking.captions) == (None, None, None)
