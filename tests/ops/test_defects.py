import pytest
import torch
from torch import Tensor

from clipfuse.ops.defects import MAKERS, bad_pictures


@pytest.fixture(scope="module")
def three() -> tuple[Tensor, Tensor, Tensor]:
    """Good, infrared, visible: four samples of noise in [0.2, 0.8]."""
    noise = 0.2 + 0.6 * torch.rand(3, 4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    return noise[0], noise[1], noise[2]


def test_each_kind_is_what_its_name_says(three: tuple[Tensor, Tensor, Tensor]) -> None:
    good, infrared, visible = three

    def made(kind: str) -> Tensor:
        return bad_pictures([kind], good, infrared, visible, [1, 2, 3, 4])

    assert torch.equal(made("infrared"), infrared)
    assert torch.equal(made("visible"), visible)
    assert torch.equal(made("average"), (infrared + visible) / 2)
    assert (made("blur").std(dim=(1, 2, 3)) < 0.6 * good.std(dim=(1, 2, 3))).all()
    torch.testing.assert_close(made("blur").mean(), good.mean(), rtol=0, atol=5e-3)
    added = (made("noise") - good).std(dim=(1, 2, 3))
    assert ((added > 0.04) & (added < 0.2)).all()
    spread = made("low_contrast").std(dim=(1, 2, 3))
    assert ((spread > 0.019) & (spread < 0.056)).all()


def test_a_seed_gives_its_picture_wherever_it_stands(three: tuple[Tensor, Tensor, Tensor]) -> None:
    seeds, kinds = [5, 6, 7, 8], list(MAKERS)
    before = torch.random.get_rng_state()
    found = bad_pictures(kinds, *three, seeds)
    assert torch.equal(torch.random.get_rng_state(), before)
    for index, seed in enumerate(seeds):
        alone = bad_pictures(kinds, *(each[index : index + 1] for each in three), [seed])
        torch.testing.assert_close(alone, found[index : index + 1], rtol=0, atol=1e-6)  # float32


def test_all_kinds_are_drawn_about_equally_often() -> None:
    planes = [torch.full((60, 1, 4, 4), level) for level in (0.0, 0.4, 0.8)]
    found = bad_pictures(["infrared", "visible"], *planes, range(60))
    share = (found.mean(dim=(1, 2, 3)) < 0.5).float().mean()
    assert 0.3 < float(share) < 0.7
    assert len(set(found.mean(dim=(1, 2, 3)).tolist())) == 2
