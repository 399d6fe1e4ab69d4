import pytest
import torch
from torch import Tensor

from clipfuse.backbones.blocks import (
    ChannelAttention,
    ChannelNorm,
    GatedFeedForward,
    InvertibleNode,
    RestormerBlock,
)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def attention_in_loops(layer: ChannelAttention, features: Tensor) -> Tensor:
    """Channel attention as the paper writes it: a sample, a head and a pair of channels at a time."""
    samples, dim, height, width = features.shape
    size = dim // layer.heads
    result = torch.empty_like(features)
    for sample in range(samples):
        query, key, value = layer.spread(layer.expand(features[sample : sample + 1]))[0].chunk(3)
        mixed = torch.empty(dim, height, width, dtype=features.dtype)
        for head in range(layer.heads):
            for row in range(size):
                ours = query[head * size + row].flatten()
                theirs = [key[head * size + column].flatten() for column in range(size)]
                cosines = torch.stack([ours @ other / (ours.norm() * other.norm()) for other in theirs])
                weights = (cosines * layer.temperature[head, 0, 0]).softmax(0)
                mixed[head * size + row] = sum(weights[j] * value[head * size + j] for j in range(size))
        for channel in range(dim):
            result[sample, channel] = sum(layer.project.weight[channel, j] * mixed[j] for j in range(dim))
    return result


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_channel_attention_is_what_the_loops_say(heads: int, dense: bool) -> None:
    torch.manual_seed(heads)
    layer = ChannelAttention(6, heads, dense).double()
    with torch.no_grad():
        layer.temperature.uniform_(0.5, 4)
    features = noise(2, 6, 5, 7)
    with torch.no_grad():
        # float64: sums in another order.
        torch.testing.assert_close(
            layer(features), attention_in_loops(layer, features), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("heads", [1, 2])
def test_channel_attention_has_the_gradient_of_its_value(heads: int) -> None:
    torch.manual_seed(0)
    layer = ChannelAttention(4, heads).double()
    assert torch.autograd.gradcheck(layer, noise(2, 4, 3, 4).requires_grad_())


def test_the_cosines_ignore_scale_and_a_black_image_is_finite() -> None:
    torch.manual_seed(0)
    layer = ChannelAttention(4, 2)
    features = noise(1, 4, 6, 6).float()
    torch.testing.assert_close(layer(8 * features), 8 * layer(features))
    black = torch.zeros(1, 4, 6, 6, requires_grad=True)
    layer(black).sum().backward()
    assert black.grad is not None
    assert bool(black.grad.isfinite().all())


def test_channel_norm_is_per_pixel() -> None:
    norm = ChannelNorm(6).double()
    with torch.no_grad():
        norm.weight.copy_(noise(6))
        norm.bias.copy_(noise(6) + 1)
    features = noise(2, 6, 3, 4)
    pixel = features[1, :, 2, 3]
    scaled = (pixel - pixel.mean()) / (pixel.var(unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(norm(features)[1, :, 2, 3], scaled * norm.weight + norm.bias)


def test_feed_forward_gates() -> None:
    layer = GatedFeedForward(4, expansion=3).double()
    features = noise(2, 4, 5, 6)
    inside = layer.spread(layer.expand(features))
    assert inside.shape[1] == 24
    gated = torch.nn.functional.gelu(inside[:, :12]) * inside[:, 12:]
    expected = torch.einsum("oc,nchw->nohw", layer.project.weight[:, :, 0, 0], gated)
    torch.testing.assert_close(layer(features), expected)


@pytest.mark.parametrize(("dim", "expansion", "dense"), [(4, 2, False), (4, 1, True), (36, 1, False)])
def test_without_gradient_strips_give_what_the_whole_gives(
    dim: int, expansion: int, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    block = RestormerBlock(dim, 2, expansion, dense).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    features = noise(2, dim, 23, 9)
    whole = block(features)
    assert whole.requires_grad
    monkeypatch.setattr("clipfuse.ops.strips._BYTES", 1)
    with torch.no_grad():
        parts = block(features)
        black = block(torch.zeros_like(features))
    # float64: sums over pixels in another order.
    torch.testing.assert_close(parts, whole, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(black, block(torch.zeros_like(features)), rtol=1e-11, atol=1e-11)


def test_a_block_adds_to_its_input() -> None:
    block = RestormerBlock(8, 2).double()
    with torch.no_grad():
        block.attention.project.weight.zero_()
        block.feed_forward.project.weight.zero_()
    features = noise(2, 8, 4, 5)
    assert torch.equal(block(features), features)


@pytest.mark.parametrize("published", [False, True])
def test_the_node_inverts_exactly(published: bool) -> None:
    torch.manual_seed(0)
    node = InvertibleNode(8, published).double()
    features = noise(2, 8, 5, 6)
    with torch.no_grad():
        detail = node(features)
        assert detail.shape == features.shape
        assert float((detail - features).abs().max()) > 0.1
        # float64 through two bottlenecks and a well-conditioned 8x8 system.
        torch.testing.assert_close(node.inverse(detail), features, rtol=0, atol=1e-12)


def test_the_exponent_of_the_node_is_bounded() -> None:
    torch.manual_seed(0)
    large = 1e4 * noise(1, 8, 5, 6).float()
    ours, theirs = InvertibleNode(8), InvertibleNode(8, published=True)
    theirs.load_state_dict(ours.state_dict())
    for node in (ours, theirs):
        with torch.no_grad():
            node.upper_scale[-1].weight.mul_(100)  # type: ignore[operator, union-attr]
    assert bool(ours(large).isfinite().all())
    assert not bool(theirs(large).isfinite().all())


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads and dim 8"):
        ChannelAttention(8, 3)
    with pytest.raises(ValueError, match="0 heads"):
        ChannelAttention(8, 0)
    with pytest.raises(ValueError, match="dim 7; expected an even"):
        InvertibleNode(7)
