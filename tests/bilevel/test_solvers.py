"""What all solvers owe their caller: state, schedules, ranks, accumulation, and nothing left behind."""

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call

from clipfuse.bilevel import Alternate, GaussNewton, Joint, Meha, Solver, Unrolled, ValuePenalty
from clipfuse.testing.ranks import Ranks

ADAM = partial(torch.optim.Adam, lr=0.05)
SOLVERS: dict[str, Callable[..., Solver]] = {
    "linear": partial(ValuePenalty, ADAM, z_steps=3, y_steps=4, every=1),
    "quadratic": partial(ValuePenalty, ADAM, z_steps=3, y_steps=4, every=1, penalty="quadratic"),
    "log": partial(ValuePenalty, ADAM, z_steps=3, y_steps=4, every=1, penalty="log"),
    "order 2": partial(ValuePenalty, ADAM, z_steps=3, y_steps=4, every=1, order=2, w0=3.0),
    "until done": partial(ValuePenalty, ADAM, z_steps=9, y_steps=9, every=1, order=2, w0=3.0, tolerance=0.02),
    "alternate": partial(Alternate, ADAM, steps=3, every=1),
    "gauss_newton": partial(GaussNewton, partial(torch.optim.SGD, lr=0.1, momentum=0.9), steps=2, every=1),
    "meha": partial(Meha, ADAM, steps=2, every=1, gamma=0.5, power=0.4),
    "unrolled": partial(Unrolled, ADAM, steps=2, rate=0.1, every=1),
    "first_order": partial(Unrolled, ADAM, rate=0.1, every=1, first_order=True),
}


class _Batch:
    """A network as x, two tensors as y, and means over samples, so that ranks can share them out."""

    def __init__(self, network: Callable[..., Any], y: Sequence[Tensor], samples: Tensor) -> None:
        self.y, self.samples = y, samples
        self.network = getattr(network, "module", network)
        self.seen = network(samples)

    def lower_parameters(self) -> Sequence[Tensor]:
        return self.y

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        fit = (self.seen - self.samples[:, :2]).square().mean()
        return fit + (self.seen * lower[0]).sum(1).tanh().mean() + (lower[1] - 1).square().sum()

    def upper_parameters(self) -> Sequence[Tensor]:
        return list(self.network.parameters())

    def at(self, upper: Sequence[Tensor], part: slice) -> "_Batch":
        names = [name for name, _ in self.network.named_parameters()]
        values = dict(zip(names, upper, strict=True))
        return _Batch(lambda x: functional_call(self.network, values, x), self.y, self.samples[part])

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        wave = torch.sin(self.seen + lower[0]).mean()
        return wave + (self.seen[:, 0] - lower[1]).square().mean()


def start() -> tuple[nn.Linear, list[Tensor]]:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double(), [torch.tensor([0.3, -0.2]).double(), torch.tensor(0.7).double()]


def samples(step: int) -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


class _Run:
    def __init__(self, solver: Solver) -> None:
        self.network, self.y = start()
        self.solver = solver
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)

    def go(self, steps: range) -> list[dict[str, float]]:
        return [
            self.solver.step(
                _Batch(self.network, self.y, samples(k)), self.optimizer, backward=Tensor.backward
            )
            for k in steps
        ]

    def state(self) -> list[Tensor]:
        moving = [*self.network.parameters(), *self.y, *second_values(self.solver)]
        return [value.detach().clone() for value in moving]


def second_values(solver: Solver) -> list[Tensor]:
    """Return what a solver moves beside y: z of `ValuePenalty`, theta of `Meha`."""
    state = solver.state_dict()
    return state.get("z") or state.get("theta") or []


@pytest.mark.parametrize("name", SOLVERS)
def test_resumes_bit_equal(name: str) -> None:
    whole = _Run(SOLVERS[name](every=3))
    logs = whole.go(range(9))
    first = _Run(SOLVERS[name](every=3))
    first.go(range(4))
    file = io.BytesIO()
    x, y = first.network.state_dict(), first.y
    torch.save({"solver": first.solver.state_dict(), "x": x, "y": y, "o": first.optimizer.state_dict()}, file)
    first.go(range(3))  # what was saved must not move with it
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = _Run(SOLVERS[name](every=3))
    second.go(range(1))  # nor may what was there before the load
    second.network.load_state_dict(saved["x"])
    second.optimizer.load_state_dict(saved["o"])
    second.solver.load_state_dict(saved["solver"])
    second.y = [value.clone() for value in saved["y"]]
    again = second.solver.state_dict()
    assert again["updates"] == 4
    assert second.go(range(4, 9)) == logs[4:]
    assert all(map(torch.equal, second.state(), whole.state()))


@pytest.mark.parametrize("name", SOLVERS)
def test_state_before_the_first_step_is_a_start(name: str) -> None:
    fresh, loaded = _Run(SOLVERS[name]()), _Run(SOLVERS[name]())
    loaded.solver.load_state_dict(SOLVERS[name]().state_dict())
    assert fresh.go(range(3)) == loaded.go(range(3))
    assert all(map(torch.equal, fresh.state(), loaded.state()))


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("name", SOLVERS)
def test_leaves_nothing_behind(name: str, wanted: bool) -> None:
    network, y = start()
    for value in y:
        value.requires_grad_(wanted)
    before = [value.detach().clone() for value in y]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses: list[Tensor] = []
    SOLVERS[name]().step(_Batch(network, y, samples(0)), optimizer, backward=losses.append)
    assert len(losses) == 1
    assert all(parameter.grad is None for parameter in network.parameters())
    losses[0].backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert [value.requires_grad for value in y] == [wanted, wanted]
    assert all(value.grad is None for value in y)
    assert not any(map(torch.equal, before, y))


def train_on_ranks(name: str) -> list[Tensor]:
    """Train for six updates on this rank's half of the samples, or alone on all."""
    rank, world = (distributed.get_rank(), 2) if distributed.is_initialized() else (0, 1)
    network, y = start()
    if rank:
        y[0] += 0.5  # the solver begins with rank 0's
    module = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    solver = SOLVERS[name](every=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for k in range(6):
        share = samples(k).chunk(world)[rank]
        log = solver.step(_Batch(module, y, share), optimizer, backward=Tensor.backward)
    logged = torch.tensor(list(log.values()), dtype=torch.float64)
    return [value.detach() for value in [*network.parameters(), *y, *second_values(solver), logged]]


@pytest.mark.parametrize("name", SOLVERS)
def test_ranks_hold_the_same_bits_and_do_what_one_would(name: str, ranks: Ranks) -> None:
    first, second = ranks.run(train_on_ranks, name)
    assert all(map(torch.equal, first, second))
    # Means of halves against means of the whole: rounding in float64, amplified by Adam.
    torch.testing.assert_close(first, train_on_ranks(name), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_lower_level_moves_once_per_accumulated_update(name: str) -> None:
    from clipfuse.losses.base import ParameterGroup  # not on the ranks
    from clipfuse.training.accumulation import AccumulatingOptimizer
    from clipfuse.training.parameter_groups import Group

    run = _Run(SOLVERS[name]())
    sgd = torch.optim.SGD(run.network.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(sgd, factor=1)
    all_of_it = Group("", list(run.network.parameters()), ParameterGroup())
    optimizer = AccumulatingOptimizer(sgd, schedule, [all_of_it], 3, None)
    for update in range(2):
        states, logs = [run.state()], []
        for part in range(3):
            batch = _Batch(run.network, run.y, samples(3 * update + part))
            logs.append(run.solver.step(batch, optimizer, backward=lambda loss: (loss / 3).backward()))
            states.append(run.state())
        network, lower = slice(0, 2), slice(2, None)
        assert not any(map(torch.equal, states[0][2:4], states[1][2:4]))
        for state in states[2:]:
            assert all(map(torch.equal, states[1][lower], state[lower]))
        assert all(map(torch.equal, states[0][network], states[2][network]))
        assert not any(map(torch.equal, states[2][network], states[3][network]))
        assert len({(log.get("w"), log.get("c")) for log in logs}) == 1
    assert run.solver.state_dict()["updates"] == 2


def test_lower_level_moves_every_so_many_updates() -> None:
    run = _Run(SOLVERS["linear"](every=3))
    moved = []
    for k in range(7):
        before = run.y[1].clone()
        run.go(range(k, k + 1))
        moved.append(not torch.equal(before, run.y[1]))
    assert moved == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ValuePenalty(ADAM, z_steps=0), "z_steps is 0; expected 1 or more"),
        (lambda: ValuePenalty(ADAM, y_steps=-1), "y_steps is -1"),
        (lambda: ValuePenalty(ADAM, every=0), "every is 0"),
        (lambda: ValuePenalty(ADAM, w0=-1), "w0 is -1; expected 0 or more"),
        (lambda: ValuePenalty(ADAM, w0=3, w_max=2), "w_max is 2, below w0"),
        (lambda: ValuePenalty(ADAM, mu0=-0.1), "mu0 is -0.1"),
        (lambda: ValuePenalty(ADAM, theta0=math.nan), "theta0 is nan"),
        (lambda: ValuePenalty(ADAM, power=-1), "power is -1"),
        (lambda: ValuePenalty(ADAM, decay=-1), "decay is -1"),
        (lambda: ValuePenalty(ADAM, penalty="cubic"), "expected one of linear, quadratic, log"),
        (lambda: ValuePenalty(ADAM, order=3), "order is 3; expected 1 or 2"),
        (lambda: ValuePenalty(ADAM, order=2, penalty="log"), "take penalty=linear optimistic=true"),
        (lambda: ValuePenalty(ADAM, order=2, optimistic=False), "take penalty=linear optimistic=true"),
        (lambda: ValuePenalty(ADAM, tolerance=-1), "tolerance is -1; expected 0 or more"),
        (lambda: GaussNewton(ADAM, tolerance=math.nan), "tolerance is nan"),
        (lambda: Alternate(ADAM, steps=0), "steps is 0"),
        (lambda: GaussNewton(ADAM, steps=0), "steps is 0"),
        (lambda: GaussNewton(ADAM, eta=-1), "eta is -1"),
        (lambda: GaussNewton(ADAM, damping=-1), "damping is -1"),
        (lambda: Meha(ADAM, steps=0), "steps is 0"),
        (lambda: Meha(ADAM, every=0), "every is 0"),
        (lambda: Meha(ADAM, gamma=0), "gamma is 0; expected a number above 0"),
        (lambda: Meha(ADAM, c0=math.nan), "c0 is nan; expected a number above 0"),
        (lambda: Meha(ADAM, power=-1), "power is -1; expected 0 or more"),
        (lambda: Meha(ADAM, delay=-1), "delay is -1; expected 0 or more updates"),
    ],
)
def test_refuses_by_name(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("name", SOLVERS)
def test_needs_a_lower_level(name: str) -> None:
    network, _ = start()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    solver = SOLVERS[name]()
    with pytest.raises(ValueError, match="no lower parameters; take Joint"):
        solver.step(_Batch(network, [], samples(0)), optimizer, backward=Tensor.backward)
    assert Joint().step(_Plain(network), optimizer) == {}


class _Plain(_Batch):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, [], samples(0))

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        return self.seen.square().mean()


@pytest.mark.parametrize("name", SOLVERS)
def test_refuses_a_lower_level_of_another_shape(name: str) -> None:
    run = _Run(SOLVERS[name]())
    run.go(range(1))
    run.y = [torch.zeros(1, 2).double(), run.y[1]]
    with pytest.raises(ValueError, match=r"lower parameters have shapes \[\(1, 2\), \(\)\]"):
        run.go(range(1))
