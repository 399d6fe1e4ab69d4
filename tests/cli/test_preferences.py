from pathlib import Path

import pytest

from clipfuse.cli.preferences import Choice, accuracy, counted, divide, wilson
from clipfuse.errors import UserError


def choice(scene: int, wins: float = 1.0, score: str = "overall", rater: str = "") -> Choice:
    names = (f"ir{scene}.png", f"vi{scene}.png", "a.png", "b.png")
    return Choice(tuple(map(Path, names)), wins, rater, score)


def test_scenes_are_held_out_whole_and_by_the_seed_alone() -> None:
    choices = [choice(scene) for scene in range(10) for _ in range(3)]
    learnt, out = divide(choices, 0.3, seed=0)
    assert {each.scene for each in learnt}.isdisjoint({each.scene for each in out})
    assert (len(learnt), len(out)) == (21, 9)
    assert divide(choices[::-1], 0.3, 0)[1][0].scene in {each.scene for each in out}
    assert {each.scene for each in divide(choices, 0.3, 1)[1]} != {each.scene for each in out}
    assert divide(choices, 0.0, 0) == (choices, [])
    assert counted(learnt, out) == "30 choices on 10 scenes (overall 30); 9 of them held out, of 3 scenes"


def test_too_little_to_divide_is_refused() -> None:
    with pytest.raises(UserError, match="all choices are of one scene"):
        divide([choice(0), choice(0)], 0.2, 0)
    ties = [choice(0, 0.5), choice(1, 0.5), choice(2)]
    seed = next(
        seed for seed in range(20) if divide([choice(n) for n in range(3)], 0.34, seed)[1] == [choice(2)]
    )
    with pytest.raises(UserError, match="have ties alone"):
        divide(ties, 0.34, seed)


def test_accuracy_counts_choices_and_its_interval_scenes() -> None:
    choices = [choice(0), choice(0, 0.0), choice(1), choice(1, 0.5), choice(2, 0.0, "sharpness")]
    found = accuracy(choices, lambda each: {"overall": 1.0, "sharpness": 0.0})
    assert found["overall"] == pytest.approx((2 / 3, *wilson(2 / 3, 2), 3))
    assert found["sharpness"][0] == 0.5  # equal scores are half of an agreement
    # Wilson's interval of 8 of 10, as in Newcombe (Statistics in Medicine 17, 1998), method 3.
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
