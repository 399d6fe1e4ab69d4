import torch

from clipfuse.ops.plain import plain_tensors


def test_tensors_serve_in_training_whatever_surrounds_their_making() -> None:
    with torch.device("meta"), torch.inference_mode(), plain_tensors():
        weights = torch.ones(3)
    assert weights.device.type == "cpu"
    assert not weights.is_inference()
    image = torch.ones(3, requires_grad=True)
    (image * weights).sum().backward()
    assert torch.equal(image.grad, weights)
    with plain_tensors():
        assert not (image * 2).requires_grad
