import torch

from clipfuse.losses.pixel import PixelLoss
from clipfuse.testing.examples import example_inputs
from clipfuse.testing.short_training import ShortTraining, default_solver, unlike


def test_updates_are_those_of_plain_torch() -> None:
    """Written out: the gradient of the loss, clipped at a norm of 1, and a step of Adam."""
    training = ShortTraining(PixelLoss(), example_inputs(), default_solver(PixelLoss()))
    twin = ShortTraining(PixelLoss(), example_inputs(), default_solver(PixelLoss()))
    optimizer = torch.optim.Adam(twin.network.parameters(), lr=1e-3)
    for _ in range(2):
        total = twin.loss(twin.batch()).total
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(twin.network.parameters(), 1.0)
        optimizer.step()
        assert training.update() == float(total.detach())
    assert not unlike(training.network.state_dict(), twin.network.state_dict())


def test_states_are_compared_by_name_and_value() -> None:
    one, other = {"a": torch.zeros(2), "b": torch.ones(1)}, {"a": torch.zeros(2), "b": torch.zeros(1)}
    assert unlike(one, other) == ["b"]
    assert sorted(unlike(one, {"a": torch.zeros(2), "c": torch.ones(1)})) == ["b", "c"]
    assert not unlike(one, dict(one))
