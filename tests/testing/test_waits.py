import torch
from torch import Tensor

from clipfuse.testing.waits import HostWaits


def test_what_is_counted() -> None:
    image, mask = torch.rand(2, 3), torch.rand(2, 3) > 0.5
    with HostWaits() as waits:
        _read(image, mask)
        drawn = torch.rand(3, generator=torch.Generator().manual_seed(0))
        (drawn[0].item(), (2 * drawn).tolist(), torch.tensor(3.0).item())  # the host's own
        torch.where(mask, image, 0.0).sum()
    expected = {"_local_scalar_dense": 3, "tolist": 1, "nonzero": 1, "index": 1, "cpu": 1, "one_hot": 1}
    assert waits.found == expected
    assert waits.operators > 10
    before = waits.operators
    image.tolist()
    assert waits.found == expected
    assert waits.operators == before


def _read(image: Tensor, mask: Tensor) -> None:
    float(image.sum()), bool(mask.any()), image[0, 0].item()
    image.tolist(), mask.nonzero(), image[mask], image.cpu()
    torch.nn.functional.one_hot((2 * image).long())
    torch.nn.functional.one_hot((2 * image).long(), 2)
