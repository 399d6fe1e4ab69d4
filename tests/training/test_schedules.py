import pytest
import torch

from clipfuse.training import schedules


def rates(schedule: object, steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, steps, **options)  # type: ignore[operator]
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_constant_stays_after_warm_up() -> None:
    assert rates(schedules.constant, 8, warmup=0.5) == pytest.approx([0.5, 1, 1.5, 2, 2, 2, 2, 2])


def test_cosine_passes_the_middle_at_half() -> None:
    found = rates(schedules.cosine, 9, warmup=0.0, final=0.0)
    assert found[0] == 2
    assert sorted(found, reverse=True) == found
    assert rates(schedules.cosine, 8, warmup=0.0, final=0.5)[4] == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["cosine", "constant", "milestones"])
def test_shares_outside_zero_to_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"scheduler.warmup is 1.5; expected a share from 0 to 1"):
        rates(getattr(schedules, name), 4, warmup=1.5)


def test_milestones_halve_where_they_stand() -> None:
    found = rates(schedules.milestones, 100)
    assert found == pytest.approx([2.0] * 50 + [2 * 0.5**k for k in range(1, 6) for _ in range(10)])
    assert rates(schedules.milestones, 10, warmup=0.2, at=(0.5,), factor=0.1) == pytest.approx(  # type: ignore[arg-type]
        [1, 2, 2, 2, 2, 0.2, 0.2, 0.2, 0.2, 0.2]
    )


def test_milestones_outside_the_run_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scheduler.at is \[0.5, 50\]; expected shares of the run"):
        rates(schedules.milestones, 4, at=(0.5, 50))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scheduler.factor is 0"):
        rates(schedules.milestones, 4, factor=0)
