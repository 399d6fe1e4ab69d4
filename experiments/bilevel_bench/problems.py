"""The bench's two problems, sums over samples whose derivatives are written out.

The quadratic one is generated from the description of the public bilevel benchmark (Dagréou et al., NeurIPS
2022; benchopt/benchmark_bilevel): dimensions 100 and 10, 32,768 and 1,024 samples, eigenvalues from 0.1 to 1,
cross terms up to 0.1. Data cleaning follows Franceschi et al. (ICML 2017) on the digits of scikit-learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

CONDITION = 0.1  # least eigenvalue; the greatest is 1


@dataclass(frozen=True)
class Samples:
    """One level: the mean of (a y)^2 / 2 + (b x)^2 / 2 + (u x)(v y) + c y + d x, with vectors of a sample.

    Attributes:
        a, v, c: (N, dim y).
        b, u, d: (N, dim x).
    """

    a: Tensor
    b: Tensor
    u: Tensor
    v: Tensor
    c: Tensor
    d: Tensor

    def loss(self, x: Tensor, y: Tensor, index: Tensor | None) -> Tensor:
        """Return the mean over the samples of an index, or over all."""
        a, b, u, v, c, d = (part if index is None else part[index] for part in vars(self).values())
        squares = (a @ y).square().mean() / 2 + (b @ x).square().mean() / 2
        return squares + ((u @ x) * (v @ y)).mean() + (c @ y).mean() + (d @ x).mean()

    def means(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the mean Hessians in y and in x, the mean cross term (dim x, dim y) and linear terms."""
        count = len(self.a)
        hessians = (self.a.T @ self.a / count, self.b.T @ self.b / count, self.u.T @ self.v / count)
        return *hessians, self.c.mean(0), self.d.mean(0)


class QuadraticSums:
    """The quadratic problem; the value function h(x) = F(x, y*(x)) and its minimum are known in closed form.

    The matrices of a sample are of rank one, as in the public benchmark. Their means have exactly the
    eigenvalues, geometric from 0.1 to 1, and singular values (0.1 to 0.1 times 0.1) asked for: samples are
    whitened (own design), so that a small problem has the condition of a large one.

    Args:
        seed: of all random draws.
        lower, upper: numbers of samples.
        y, x: dimensions of the lower and the upper variable.

    Attributes:
        lower, upper: the samples of f and of F.
        best: min h.
        start: (x0, y0), x0 normal and y0 zero.
    """

    def __init__(self, seed: int, lower: int = 32768, upper: int = 1024, y: int = 100, x: int = 10) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.sizes = (lower, upper)
        self.lower, self.upper = (self._level(count, y, x) for count in self.sizes)
        self.start = self._normal(x), torch.zeros(y, dtype=torch.float64)
        hy, _, cross, c, _ = self.lower.means()
        fy, fx, fcross, fc, fd = self.upper.means()
        gain, shift = -torch.linalg.solve(hy, cross.T), -torch.linalg.solve(hy, c)  # y* = gain x + shift
        self._gain, self._shift = gain, shift
        half = fcross @ gain
        self._hessian = fx + gain.T @ fy @ gain + half + half.T
        self._slope = fd + fcross @ shift + gain.T @ (fy @ shift + fc)
        self._constant = shift @ fy @ shift / 2 + fc @ shift
        if float(torch.linalg.eigvalsh(self._hessian)[0]) <= 0:
            raise ValueError(f"the value function of seed {seed} has no minimum; take another seed")
        self.solution = -torch.linalg.solve(self._hessian, self._slope)
        self.best = self.value(self.solution)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def _white(self, count: int, dim: int) -> Tensor:
        """Return samples whose mean square is exactly the identity."""
        rows = self._normal(count, dim)
        return rows @ torch.linalg.inv(torch.linalg.cholesky(rows.T @ rows / count)).T

    def _basis(self, dim: int) -> Tensor:
        return torch.linalg.qr(self._normal(dim, dim)).Q

    def _level(self, count: int, y: int, x: int) -> Samples:
        def scaled(dim: int) -> Tensor:
            roots = torch.logspace(-0.5, 0, dim, dtype=torch.float64)
            basis = self._basis(dim)
            return self._white(count, dim) @ (basis * roots) @ basis.T

        a, b, common = scaled(y), scaled(x), self._white(count, y)
        left, right = self._basis(x) * torch.logspace(-2, -1, x, dtype=torch.float64), self._basis(y)
        c, d = self._normal(count, y), self._normal(count, x)
        return Samples(a, b, common[:, :x] @ left.T, common @ right.T, c, d)

    def value(self, x: Tensor) -> float:
        """Return h(x)."""
        return float(x @ self._hessian @ x / 2 + self._slope @ x + self._constant)

    def suboptimality(self, x: Tensor) -> float:
        """Return h(x) - min h, from the distance to the minimum: without cancellation."""
        far = x - self.solution
        return float(far @ self._hessian @ far / 2)

    def lower_loss(self, x: Tensor, y: Tensor, index: Tensor | None = None) -> Tensor:
        """Return f, the mean over the samples of an index or over all."""
        return self.lower.loss(x, y, index)

    def upper_loss(self, x: Tensor, y: Tensor, index: Tensor | None = None) -> Tensor:
        """Return F alike."""
        return self.upper.loss(x, y, index)

    def lower_parts(self, x: Tensor, y: Tensor, v: Tensor, index: Tensor) -> Tensor:
        """Return by sample f_y, f_yy v and f_xy v side by side, (B, 2 dim y + dim x)."""
        a, p, q, c = (getattr(self.lower, name)[index] for name in ("a", "u", "v", "c"))
        slope = a * (a @ y)[:, None] + q * (p @ x)[:, None] + c
        return torch.cat([slope, a * (a @ v)[:, None], p * (q @ v)[:, None]], 1)

    def upper_parts(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return by sample F_y and F_x side by side, (B, dim y + dim x)."""
        a, b, p, q, c, d = (part[index] for part in vars(self.upper).values())
        of_y = a * (a @ y)[:, None] + q * (p @ x)[:, None] + c
        return torch.cat([of_y, b * (b @ x)[:, None] + p * (q @ y)[:, None] + d], 1)


class DataCleaning:
    """Digits with corrupted labels; x weighs the samples, by sigmoid(x_i), that the classifier y learns from.

    f = mean sigmoid(x_i) l_i(y) + 0.01 |y|^2 / 2 over 900 samples, F = mean l over 300 clean ones, l the
    cross-entropy of multinomial logistic regression on the 64 pixels and a constant. With probability p a
    label is drawn anew from all ten. The other 597 samples test.

    Args:
        p: probability of a new label, from 0 to 1.
        seed: of the split and the labels.
        samples: of the 900, how many are used; fewer for a test.
    """

    decay = 0.01

    def __init__(self, p: float, seed: int, samples: int = 900) -> None:
        generator = torch.Generator().manual_seed(seed)
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=generator)
        pixels = torch.tensor(digits.data, dtype=torch.float64)[order] / 16
        pixels = torch.cat([pixels, torch.ones(len(pixels), 1, dtype=torch.float64)], 1)
        labels = torch.tensor(digits.target)[order]
        self.learnt, self.judged, self.tested = pixels[:samples], pixels[900:1200], pixels[1200:]
        self.clean, self.judge_labels, self.test_labels = labels[:samples], labels[900:1200], labels[1200:]
        drawn = torch.randint(10, (samples,), generator=generator)
        replaced = torch.rand(samples, generator=generator) < p
        self.labels = torch.where(replaced, drawn, self.clean)
        self.corrupted = self.labels != self.clean
        self.sizes = (samples, len(self.judged))
        self.start = torch.zeros(samples, dtype=torch.float64), torch.zeros(650, dtype=torch.float64)

    def _matrix(self, y: Tensor) -> Tensor:
        return y.view(10, 65)

    def lower_loss(self, x: Tensor, y: Tensor, index: Tensor | None = None) -> Tensor:
        """Return f, the mean over the samples of an index or over all."""
        rows = torch.arange(len(self.labels)) if index is None else index
        scores = self.learnt[rows] @ self._matrix(y).T
        losses = functional.cross_entropy(scores, self.labels[rows], reduction="none")
        return (torch.sigmoid(x[rows]) * losses).mean() + self.decay * y.square().sum() / 2

    def upper_loss(self, x: Tensor, y: Tensor, index: Tensor | None = None) -> Tensor:
        """Return F alike; x has no part in it, and a gradient of zero."""
        rows = slice(None) if index is None else index
        scores = self.judged[rows] @ self._matrix(y).T
        return functional.cross_entropy(scores, self.judge_labels[rows]) + 0 * x.sum()

    def lower_parts(self, x: Tensor, y: Tensor, v: Tensor, index: Tensor) -> Tensor:
        """Return by sample f_y, f_yy v and f_xy v side by side, (B, 2 dim y + dim x)."""
        pixels, weight = self.learnt[index], torch.sigmoid(x[index])[:, None]
        chances = (pixels @ self._matrix(y).T).softmax(1)
        error = chances - functional.one_hot(self.labels[index], 10)
        along = pixels @ self._matrix(v).T
        bend = chances * (along - (chances * along).sum(1, keepdim=True))
        slope, curved = ((part[:, :, None] * pixels[:, None]).flatten(1) for part in (error, bend))
        cross = torch.zeros(len(index), len(x), dtype=x.dtype)
        share = weight[:, 0] * (1 - weight[:, 0])
        cross[torch.arange(len(index)), index] = share * (error * along).sum(1)
        return torch.cat([weight * slope + self.decay * y, weight * curved + self.decay * v, cross], 1)

    def upper_parts(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return by sample F_y and F_x side by side, (B, dim y + dim x)."""
        pixels = self.judged[index]
        error = (pixels @ self._matrix(y).T).softmax(1) - functional.one_hot(self.judge_labels[index], 10)
        slope = (error[:, :, None] * pixels[:, None]).flatten(1)
        return torch.cat([slope, torch.zeros(len(index), len(x), dtype=x.dtype)], 1)

    def accuracy(self, y: Tensor) -> float:
        """Return the share of test samples that y classifies right."""
        return float(((self.tested @ self._matrix(y).T).argmax(1) == self.test_labels).double().mean())


Problem = QuadraticSums | DataCleaning


@dataclass
class Tilt:
    """What a batch's loss lacks of that of all samples: q -> g (q - m) + (q - m) M (q - m) / 2, q = (x, y).

    g is the missing gradient at the middle m of two points, and M the smallest symmetric matrix that has the
    missing difference of gradients between the points (Powell's symmetric Broyden form), or zero.
    """

    middle: Tensor
    slope: Tensor
    along: Tensor
    bend: Tensor

    def __call__(self, q: Tensor) -> Tensor:
        """Return the scalar."""
        far = q - self.middle
        share = far @ self.along
        cut = self.bend - self.along * (self.bend @ self.along) / 2
        return self.slope @ far + (cut @ far) * share


class Feed(nn.Module):
    """A problem as our solvers see it: a `BilevelProblem` on some samples per update, and a counter of calls.

    Noise is reduced by control variates (after SVRG, Johnson and Zhang, 2013): at a snapshot the gradients
    over all samples are taken at the solver's points, y and z or theta, and each loss of a batch gets the
    terms that give it these gradients there (`Tilt`; own design: a difference of two points is what our
    solvers learn x's direction from, and one point would leave its noise). A solver sees nothing of it: it is
    given other losses with the same mean.

    Attributes:
        x: the upper variable, a parameter.
        y: the lower variable, a parameter that solvers change in place.
        calls: evaluations so far, in samples. A loss with its gradients in y and in x is one call per sample.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__()
        self.problem, self.calls = problem, 0
        x, y = problem.start
        self.x, self.y = nn.Parameter(x.clone()), nn.Parameter(y.clone())
        self._losses = problem.lower_loss, problem.upper_loss
        self._generator = torch.Generator().manual_seed(seed)
        self._index: list[Tensor | None] = [None, None]
        self._points: list[Tensor] = []
        self._whole: list[list[Tensor]] = [[], []]
        self._tilts: list[Tilt | None] = [None, None]

    def draw(self, batch: int, points: list[Tensor] | None = None) -> None:
        """Take samples of each level for the next update.

        Args:
            batch: samples per level; a level that has no more is taken whole.
            points: one or two values of y for a new snapshot; None keeps the last one.
        """
        counts = self.problem.sizes
        if points is not None and batch < counts[0]:
            self._points = [torch.cat([self.x.detach(), y.detach()]) for y in points]
            self._whole = [
                self._slopes(level, None) if batch < count else [] for level, count in enumerate(counts)
            ]
        for level, count in enumerate(counts):
            index = None if batch >= count else torch.randperm(count, generator=self._generator)[:batch]
            self._index[level] = index
            self._tilts[level] = None if index is None or not self._points else self._tilt(level, index)

    def _slopes(self, level: int, index: Tensor | None) -> list[Tensor]:
        found: list[Tensor] = []
        for point in self._points:
            q = point.clone().requires_grad_()
            self._count(level, index)
            x, y = q[: len(self.x)], q[len(self.x) :]
            found += torch.autograd.grad(self._losses[level](x, y, index), q)
        return found

    def _tilt(self, level: int, index: Tensor) -> Tilt:
        pairs = zip(self._whole[level], self._slopes(level, index), strict=True)
        missing = [whole - part for whole, part in pairs]
        middle, slope = (torch.stack(each).mean(dim=0) for each in (self._points, missing))
        step = self._points[0] - self._points[-1]
        length = step.norm().clamp(min=1e-300)
        return Tilt(middle, slope, step / length, (missing[0] - missing[-1]) / length)

    def _count(self, level: int, index: Tensor | None) -> None:
        self.calls += self.problem.sizes[level] if index is None else len(index)

    def _loss(self, level: int, y: Tensor) -> Tensor:
        index, tilt = self._index[level], self._tilts[level]
        self._count(level, index)
        total = self._losses[level](self.x, y, index)
        return total if tilt is None else total + tilt(torch.cat([self.x, y]))

    def lower_parameters(self) -> list[Tensor]:
        """Return y."""
        return [self.y]

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return f."""
        return self._loss(0, lower[0])

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return F."""
        return self._loss(1, lower[0])
