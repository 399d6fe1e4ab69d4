"""Every sentence that a verdict can print, word for word, from tables made by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from clipfuse.comparison.statistics import Estimate
from clipfuse.comparison.table import Column, Difference, Rival, Row, Table
from clipfuse.comparison.verdict import verdict
from clipfuse.metrics.protocols import STRICT
from clipfuse.metrics.verdict import CLASSIC, VerdictSet

OWN = VerdictSet("own", 3, "", {"structure": ("SSIM", "VIF"), "error": ("MSE",)})
SURE, UNSURE = Estimate(2.0, 0.01, 0.0, 8.0), Estimate(0.1, 0.01, 0.0, 8.0)
CLEAR = Difference(SURE, True, 0.001, 0.001, 1.0, 0.5)
NOTHING = Difference(UNSURE, True, 0.9, 0.8, 0.1, 0.5)
CORRECTIONS = (
    "Clearly: t-test over seeds and scenes, Holm-corrected over 3 tests, p < 0.05; likely: by Benjamini and "
    "Hochberg's correction, so that about one in twenty of these is none."
)
POWER = (
    "A difference that is not found may still exist: column 'found with 80 %' holds the smallest that so "
    "many seeds and scenes show; clipfuse compare --plan computes how many seeds a smaller one needs."
)


def row(name: str, rank: float, seeds: int = 5, trivial: bool = False) -> Row:
    first = {"a": 0.9, "b": 0.1}.get(name, 0.0)
    return Row(name, trivial, tuple(range(0 if trivial else seeds)), rank=rank, first=first, stable=first)


def column(name: str, left_out: int = 0) -> Column:
    return Column(name, name != "MSE", True, 3, 24, left_out)


def made(**changes: object) -> Table:
    """Two losses, five seeds, 24 scenes: a beats b by ranks and is clearly better on one metric."""
    table = Table(
        protocol=STRICT,
        verdict_set=OWN,
        families=OWN.members,
        columns=[column(name) for name in ("SSIM", "VIF", "MSE")],
        rows=[row("a", 3.5), row("b", 7.5)],
        against=[("b", "a")],
        differences={
            ("b", "a"): {"SSIM": NOTHING, "VIF": NOTHING, "MSE": replace(CLEAR, higher_is_better=False)}
        },
        rivals=[Rival("b", SURE, False)],
        better=np.array([[0.5, 0.9], [0.1, 0.5]]),
        images=[f"{i}" for i in range(24)],
        scenes=24,
        effective_scenes=24.0,
    )
    return replace(table, **changes)  # type: ignore[arg-type]


def test_a_win() -> None:
    assert verdict(made()) == [
        "'a' wins: its trainings rank before those of 'b' (largest p < 0.001).",
        "The trainings of 'a' rank 3.50 of 10 on average over own-3 (3 metrics in 2 families) and 24 scenes, "
        "those of 'b', which is next, 7.50.",
        "'a' comes first in 90% of resamples over seeds and scenes, which describes these trainings and "
        "tests nothing.",
        "By random halves of the metrics of own-3 'a' is first in 90%.",
        "'b' against 'a' on 3 metrics: clearly better on 0 and worse on 1.",
        CORRECTIONS,
        POWER,
    ]


def test_a_win_over_several() -> None:
    weaker = Rival("c", Estimate(0.5, 0.04, 0.0, 8.0), False)
    told = verdict(
        made(rows=[row("a", 3.5), row("b", 7), row("c", 8)], rivals=[Rival("b", SURE, False), weaker])
    )
    assert (
        told[0]
        == "'a' wins: its trainings rank before those of every other loss (largest p 0.037, against 'c')."
    )


def test_a_win_needs_every_rival_beaten() -> None:
    rows = [row("a", 3.5), row("b", 7), row("c", 8)]
    told = verdict(made(rows=rows, rivals=[Rival("b", UNSURE, False), Rival("c", SURE, False)]))
    assert told[0] == "Undecided: 'a' has the best average rank, but no test separates it from 'b' (p 0.347)."
    told = verdict(made(rows=rows, rivals=[Rival("b", UNSURE, False), Rival("c", UNSURE, False)]))
    assert told[0].endswith("no test separates it from 'b' (p 0.347) and 'c' (p 0.347).")


def test_five_rivals_are_cut_short() -> None:
    rivals = [Rival(name, UNSURE, False) for name in "bcdef"]
    told = verdict(made(rows=[row("a", 3.5), *(row(name, 7) for name in "bcdef")], rivals=rivals))
    assert told[0].endswith("'b' (p 0.347), 'c' (p 0.347), 'd' (p 0.347) and 2 more.")


def test_nothing_wins_behind_a_trivial_fusion() -> None:
    trivial = [
        row("average", 2.25, trivial=True),
        row("maximum", 9, trivial=True),
        row("sum", 3, trivial=True),
    ]
    told = verdict(made(rows=[row("a", 3.5), row("b", 7.5), *trivial]))
    assert told[0] == (
        "Nothing wins: 'a' ranks before 'b', but behind the trivial fusion 'average', which takes no "
        "training."
    )
    assert told[-1] == "Trivial fusions that rank before the best loss by own-3: average (2.25), sum (3.00)."
    rows = [row("a", 3.5), row("b", 7), row("c", 8), *trivial]
    told = verdict(made(rows=rows, rivals=[Rival(name, SURE, False) for name in "bc"]))
    assert told[0].startswith(
        "Nothing wins: 'a' ranks before every other loss, but behind the trivial fusion"
    )


def test_a_trivial_fusion_without_a_rank_is_in_nobodys_way() -> None:
    nameless = replace(row("average", 0, trivial=True), rank=None)
    assert verdict(made(rows=[row("a", 3.5), row("b", 7.5), nameless]))[0].startswith("'a' wins")


@pytest.mark.parametrize(
    ("seeds", "scenes", "reason"),
    [
        (3, 24.0, "3 seeds per loss are fewer than 4."),
        (5, 2.74, "2.7 effective scenes are fewer than 10."),
        (2, 9.9, "2 seeds per loss are fewer than 4, and 9.9 effective scenes are fewer than 10."),
    ],
)
def test_too_little_for_a_winner(seeds: int, scenes: float, reason: str) -> None:
    rows = [row("a", 3.5), row("b", 7.5, seeds=seeds)]
    told = verdict(made(rows=rows, effective_scenes=scenes))
    assert told[0] == f"No winner is named: {reason}"
    if scenes < 20:
        assert f"24 scenes ({scenes:.1f} effective)" in told[1]
    assert not any("wins" in sentence or "ahead" in sentence for sentence in told)


def test_four_seeds_and_ten_scenes_are_enough() -> None:
    rows = [row("a", 3.5, seeds=4), row("b", 7.5, seeds=4)]
    assert verdict(made(rows=rows, effective_scenes=10.0))[0].startswith("'a' wins")


def test_one_training_each_is_two_networks() -> None:
    single = Estimate(1.0, 0.0, 0.0, math.nan)
    untested = Difference(single, True, 1.0, 1.0, 1.0, math.inf)
    told = verdict(
        made(
            rows=[row("a", 1.25, seeds=1), row("b", 1.75, seeds=1)],
            rivals=[Rival("b", single, False)],
            differences={("b", "a"): {"SSIM": untested}},
        )
    )
    assert told == [
        "One training each: these are two networks, not two losses.",
        "On these scenes the network trained with 'a' ranks best: 1.25 of 2 on average over own-3 (3 metrics "
        "in 2 families) and 24 scenes; next is that of 'b' with 1.75. With another seed this may differ.",
        "By random halves of the metrics of own-3 'a' is first in 90%.",
    ]


def test_one_training_of_some() -> None:
    told = verdict(made(rows=[row("a", 3.5), row("b", 7.5, seeds=1)]))
    assert told[0] == "No winner is named: of 'b' there is one training, which is a network, not a loss."
    unsampled = [replace(each, first=None) for each in (row("a", 3.5), row("b", 7.5, seeds=1))]
    assert not any("resamples" in sentence for sentence in verdict(made(rows=unsampled)))


def test_one_loss() -> None:
    told = verdict(made(rows=[row("a", 1)], rivals=[], differences={}, against=[], better=None))
    assert told == ["There is one loss, 'a': nothing to compare it with."]


def test_equal_losses_are_said_to_be_equal() -> None:
    same = Rival("b", Estimate(0.0, 0.01, 0.0, 8.0), True)
    told = verdict(made(rivals=[same], twins=[("a", "b")]))
    assert told[0] == "Undecided: 'a' has the best average rank, but no test separates it from 'b' (p 1.000)."
    assert "'a' and 'b' have the same scores to the last bit: their settings differ without effect." in told


def test_a_rank_that_is_better_is_no_rival_beaten() -> None:
    """The sign counts: a rival whose rank is better is never beaten, however sure the difference."""
    assert not Rival("b", Estimate(-2.0, 0.01, 0.0, 8.0), False).beaten
    assert Rival("b", Estimate(2.0, 0.01, 0.0, 8.0), False).beaten
    assert not Rival("b", Estimate(2.0, 0.01, 0.0, 8.0), True).beaten


def test_likely_and_nothing() -> None:
    likely = replace(CLEAR, holm=0.2, discovery=0.04)
    told = verdict(made(differences={("b", "a"): {"SSIM": likely, "VIF": CLEAR, "MSE": NOTHING}}))
    assert (
        "'b' against 'a' on 3 metrics: clearly better on 1 and worse on 0; likely better on 1 and worse on 0."
        in told
    )
    told = verdict(made(differences={("b", "a"): {"SSIM": NOTHING}}))
    assert "'b' against 'a' on 1 metric: no difference is found." in told


def test_mean_and_median_that_disagree_are_said() -> None:
    divided = replace(CLEAR, median=-1.0)
    told = verdict(made(differences={("b", "a"): {"SSIM": divided, "VIF": divided, "MSE": NOTHING}}))
    assert "'b' against 'a' on 3 metrics: no difference is found." in told
    assert (
        "On SSIM and VIF mean and median of the difference between 'b' and 'a' disagree in sign: few images "
        "decide the mean, so neither is called better." in told
    )


def test_the_classic_set_warns() -> None:
    told = verdict(made(verdict_set=CLASSIC, families={name: (name,) for name in ("SSIM", "VIF", "MSE")}))
    assert "over classic-1 (3 metrics) and 24 scenes" in told[1]
    assert told[-1] == (
        "Classic-1 gives each usual metric a vote; copies of a band, stretched contrast and sharpening win "
        "by it, so that a good rank is no proof of a good image."
    )


def test_images_left_out() -> None:
    told = verdict(made(columns=[column("SSIM", 2), column("VIF"), column("MSE", 1)]))
    assert told[-1] == (
        "Images left out, as a metric is not defined on them for every run: SSIM (2), MSE (1)."
    )


def test_better_has_the_sign_of_the_mean() -> None:
    """A better rank of most images is no better mean; the direction is the metric's."""
    assert (CLEAR.word, CLEAR.better) == ("clearly", 1)
    assert replace(CLEAR, higher_is_better=False).better == -1
    worse = replace(CLEAR, estimate=Estimate(-2.0, 0.01, 0.0, 8.0), median=-1.0)
    assert worse.better == -1
    assert replace(worse, higher_is_better=False).better == 1
    for changed in (
        {"median": -1.0},
        {"holm": 0.06, "discovery": 0.06},
        {"estimate": Estimate(2.0, 0.0, 0.0, math.nan)},
    ):
        assert (replace(CLEAR, **changed).word, replace(CLEAR, **changed).better) == ("", 0)
    assert replace(CLEAR, holm=0.06).word == "likely"
