import pytest
import torch

from clipfuse.clip.similarity import cosine, direction_loss, margin_ranking, pair_probability, safe_unit


def plain_cosine(a: list[float], b: list[float]) -> float:
    """One pair, number by number."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)


def rows(count: int, seed: int) -> torch.Tensor:
    return 10 * torch.randn(count, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosine() -> None:
    a, b = rows(4, 0), rows(4, 1)
    expected = [plain_cosine(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    torch.testing.assert_close(cosine(a, b), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(
        cosine(a, b[0])[1], torch.tensor(plain_cosine(a[1].tolist(), b[0].tolist())).double()
    )
    assert cosine(torch.zeros(7), torch.ones(7)) == 0


def test_direction_loss() -> None:
    image, source, text, source_text = rows(3, 0), rows(3, 1), rows(1, 2)[0], rows(1, 3)[0]

    def unit(v: list[float]) -> list[float]:
        length = sum(x * x for x in v) ** 0.5
        return [x / length for x in v]

    def way(a: torch.Tensor, b: torch.Tensor) -> list[float]:
        return [x - y for x, y in zip(unit(a.tolist()), unit(b.tolist()), strict=True)]

    expected = [
        1 - plain_cosine(way(i, s), way(text, source_text)) for i, s in zip(image, source, strict=True)
    ]
    found = direction_loss(image, source, text, source_text)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("distance", [0.0, 1e-20, 1e-8, 1e-4, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_way_at_all_is_finite(distance: float, dtype: torch.dtype) -> None:
    source = rows(2, 0).to(dtype)
    image = (source + distance * rows(2, 1).to(dtype)).requires_grad_()
    loss = direction_loss(image, source, rows(1, 2)[0].to(dtype), rows(1, 3)[0].to(dtype))
    (gradient,) = torch.autograd.grad(loss.sum(), image)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.norm(dim=-1).max() * source.norm(dim=-1).max() < 3e3  # 1 / shortest, per unit length
    if distance == 0:
        assert torch.equal(loss, torch.ones_like(loss))
        assert (gradient.norm(dim=-1) > 0).all()  # a net that starts at the source can leave it


def test_gradients_are_those_of_the_formulas() -> None:
    a, b = rows(3, 0).requires_grad_(), rows(3, 1).requires_grad_()
    text, source_text = rows(1, 2)[0], rows(1, 3)[0]
    assert torch.autograd.gradcheck(cosine, (a, b))
    assert torch.autograd.gradcheck(lambda x, y: direction_loss(x, y, text, source_text), (a, b))
    assert torch.autograd.gradcheck(lambda x: safe_unit(x, 1.0), (1e-3 * rows(2, 0)).requires_grad_())


@pytest.mark.parametrize("log", [False, True])
def test_pair_probability(log: bool) -> None:
    images, positive, negative = rows(5, 0), rows(2, 1), rows(2, 2)
    expected = torch.empty(5, 2, dtype=torch.float64)
    for n, image in enumerate(images.tolist()):
        for k in range(2):
            pair = torch.tensor([plain_cosine(image, t[k].tolist()) for t in (positive, negative)]).double()
            softmax = (20 * pair).log_softmax(0)[0]
            expected[n, k] = softmax if log else softmax.exp()
    # the list of cosines passes through float32
    found = pair_probability(images, positive, negative, scale=20, log=log)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pair_probability(images, positive[1], negative[1], 20, log), found[:, 1])


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match=r"\(2, 7\) and \(7,\)"):
        pair_probability(rows(5, 0), rows(2, 1), rows(1, 2)[0], scale=1)


def test_margin_ranking() -> None:
    ranks = [each[0] for each in (rows(1, 0), rows(1, 1), rows(1, 2))]
    expected = [
        max(0.0, a - b + 0.5) + max(0.0, b - c + 2) + max(0.0, a - c + 3)
        for a, b, c in zip(*(each.tolist() for each in ranks), strict=True)
    ]
    torch.testing.assert_close(margin_ranking(ranks, [0.5, 2], 3), torch.tensor(expected).double())
    risen = [torch.full((2,), level) for level in (0.0, 0.5, 1.0)]
    assert not margin_ranking(risen, [0.4, 0.4]).any()
