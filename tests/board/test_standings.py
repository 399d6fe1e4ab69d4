"""Tables: ranks and intervals against loops, who is left out and why, and what degradations cost."""

from collections.abc import Callable
from dataclasses import replace
from math import nan
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from clipfuse.board.page import overview
from clipfuse.board.results import About, Degradation, Entry
from clipfuse.board.standings import Standing, build_standings, in_words
from clipfuse.metrics.verdict import BALANCED, CLASSIC_EIGHT

Make = Callable[..., Entry]
BALANCED_METRICS = dict.fromkeys(("kept-information", "kept-structure", "local-detail", "clean-detail"), True)
LEVELS = {"good": 0.3, "bad": 0.0, "third": -0.3}


def scene_means(entry: Entry, metric: str) -> dict[str, float]:
    members: dict[str, list[float]] = {}
    for name, pair in entry.pairs.items():
        members.setdefault(pair.scene, []).append(entry.runs[0][metric][name])
    return {scene: fmean(values) for scene, values in members.items()}


def slow_ranks(entries: list[Entry], families: dict[str, tuple[str, ...]]) -> dict[str, list[float]]:
    """Ranks by plain loops: within a scene, 0.5 plus how many are better, ties (also with itself) half."""
    found: dict[str, list[float]] = {each.method: [] for each in entries}
    means = {(e.method, m): scene_means(e, m) for e in entries for ms in families.values() for m in ms}
    for scene in scene_means(entries[0], "EN"):
        for one in entries:
            votes = []
            for members in families.values():
                ranks = []
                for metric in members:
                    own = means[one.method, metric][scene]
                    others = [means[other.method, metric][scene] for other in entries]
                    ranks.append(
                        0.5 + sum(other > own for other in others) + sum(o == own for o in others) / 2
                    )
                votes.append(fmean(ranks))
            found[one.method].append(fmean(votes))
    return found


def test_ranks_intervals_and_wins_are_those_of_loops(entry: Make) -> None:
    entries = [entry("a", 0.6), entry("b", 0.3), entry("trivial:average", 0.0)]
    (standing,) = build_standings(entries)
    assert [each.method for each in standing.entries] == ["a", "b", "trivial:average"]
    assert (standing.images, standing.scenes) == (24, 12)
    for verdict_set, ranked in zip((BALANCED, CLASSIC_EIGHT), standing.ranked, strict=True):
        families = {name: tuple(each) for name, each in ranked.families.items()}
        slow = slow_ranks(entries, families)
        for each, place in zip(standing.entries, ranked.places, strict=True):
            assert place is not None
            own = slow[each.method]
            assert place.rank == pytest.approx(fmean(own), abs=1e-12)  # sums of few halves in float64
            low, high = stats.t.interval(0.95, 11, loc=fmean(own), scale=stats.sem(own))
            assert (place.low, place.high) == pytest.approx((max(low, 0.5), min(high, 3.5)), abs=1e-9)
            wins = [
                own[scene] <= min(ranks[scene] for ranks in slow.values()) + 1e-9 for scene in range(len(own))
            ]
            assert place.wins == pytest.approx(fmean(wins), abs=0.17)  # ties are shared
            assert standing.place(each.method, verdict_set) is place
            gaps = np.array(own) - np.array(slow["a"])
            if place.behind is not None and each.method != "a":
                assert place.behind.value == pytest.approx(gaps.mean(), abs=1e-12)
                assert place.behind.p == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue, rel=1e-6)
        assert sum(place.wins for place in ranked.places if place) == pytest.approx(1)
    column = next(each for each in standing.columns if each.name == "EN")
    means = list(scene_means(entries[1], "EN").values())
    cell = column.cells[1]
    assert cell is not None
    assert (cell.low, cell.high) == pytest.approx(
        stats.t.interval(0.95, 11, loc=fmean(means), scale=stats.sem(means)), abs=1e-9
    )


def words(standing: Standing) -> str:
    return " ".join([*in_words(standing), *standing.notes])


def test_a_winner_is_named_where_scenes_are_enough_and_no_test_is_open(entry: Make) -> None:
    far = [entry("a", 3.0), entry("b", 0.0)]
    assert "'a' has the best average rank" in words(build_standings(far)[0])
    assert "it is clearly before every other method" in words(build_standings(far)[0])
    near = [entry("a", 0.02), entry("b", 0.0)]
    assert "no test separates it from" in words(build_standings(near)[0])
    few = [entry("a", 3.0, scenes=3), entry("b", 0.0, scenes=3)]
    assert "no winner is named, as 3.0 effective scenes are fewer than 10" in words(build_standings(few)[0])


def test_other_images_are_left_out_with_a_line_and_never_ranked(entry: Make) -> None:
    entries = [entry("a"), entry("b"), entry("more", images=30), entry("other", first=100)]
    (standing,) = build_standings(entries)
    assert {each.method for each in standing.entries} == {"a", "b"}
    assert "Left out: 'more': measured on other images of 'road': 30, of which 24 are among" in words(
        standing
    )
    assert "Left out: 'other': measured on other images of 'road': 24, of which 0 are among" in words(
        standing
    )


def test_protocols_sets_and_degradations_are_separate_tables(entry: Make) -> None:
    noise = Degradation("degraded-1", "noise", 1)
    entries = [entry("a"), entry("b"), replace(entry("a"), protocol="strict-1"), entry("a", set="other")]
    entries += [replace(entry("a"), degradation=noise), replace(entry("a"), protocol="cddfuse-1")]
    found = [(each.protocol, each.title, len(each.entries)) for each in build_standings(entries)]
    assert found == [
        ("strict-1", "road", 1),
        ("strict-2", "other", 1),
        ("strict-2", "road", 2),
        ("strict-2", "road, noise 1 (degraded-1, scored against the degraded pairs)", 1),
        ("cddfuse-1", "road", 1),
    ]


def test_two_results_of_one_method_are_refused_and_trivial_ones_joined(
    entry: Make, user_error: Callable[..., str]
) -> None:
    again = replace(entry("a"), source="again.json")
    assert "a.json and again.json: both have a result of 'a' on 'road'" in user_error(
        build_standings, [entry("a"), again]
    )
    trivial = entry("trivial:average")
    part = replace(trivial, runs=[{"EN": trivial.runs[0]["EN"]}], metrics={"EN": True})
    (standing,) = build_standings([part, entry("a"), trivial])
    assert all(cell is not None for column in standing.columns for cell in column.cells)
    changed = {"EN": {name: score + 1 for name, score in trivial.runs[0]["EN"].items()}}
    message = user_error(build_standings, [trivial, replace(part, runs=[changed], source="bad.json")])
    assert "both have unlike scores of 'trivial:average'" in message


def test_a_method_without_a_metric_has_no_rank_and_spoils_no_other(entry: Make) -> None:
    names = {"EN": True, "kept-structure": True}
    (standing,) = build_standings([entry("a", 1.0), entry("b"), entry("c", metrics=names)])
    assert standing.place("c") is None
    assert standing.place("a") is not None
    assert "Without a rank by balanced-1, as metrics of it are missing: 'c'." in words(standing)
    column = next(each for each in standing.columns if each.name == "VIF")
    assert [cell is None for cell in column.cells] == [False, False, True]
    holes = entry("d")
    holes.runs[0]["EN"]["image0"] = nan
    (standing,) = build_standings([entry("a"), holes])
    assert {each.name: each.left_out for each in standing.columns}["EN"] == 1


def test_holes_choose_no_images_and_are_named(entry: Make) -> None:
    """A method that has no scores where it loses has no rank; the others keep theirs."""
    good, bad, third = (entry(name, level, images=60, scenes=60) for name, level in LEVELS.items())
    before = build_standings([good, bad, third])[0]
    for name in BALANCED_METRICS:
        own, other = bad.runs[0][name], good.runs[0][name]
        own.update({image: nan for image in own if own[image] < other[image]})
    (standing,) = build_standings([good, bad, third])
    assert standing.place("bad") is None
    assert standing.place("good") is not None
    assert before.place("good") is not None
    assert "'good' has the best average rank" in words(standing)
    assert "Without a rank by balanced-1: 'bad', as metrics of it are undefined on" in words(standing)
    # What hardly any method defines is left out for all, without blame.
    for each in (good, third):
        each.runs[0]["local-detail"]["image0"] = nan
    (standing,) = build_standings([good, third, entry("fourth", -1.0, images=60, scenes=60)])
    assert all(place is not None for place in standing.ranked[0].places)
    assert standing.ranked[0].scenes == 60


def test_scenes_and_trainings_that_are_ranked_are_counted(entry: Make) -> None:
    """Scores on few images name no winner, however many images there are; seeds count as trainings."""
    entries = [entry("a", 3.0, images=40, scenes=40), entry("b", 0.0, images=40, scenes=40)]
    for each in entries:
        for name in BALANCED_METRICS:
            scores = each.runs[0][name]
            scores.update({image: nan for image in list(scores)[4:]})
    (standing,) = build_standings(entries)
    ranked = standing.ranked[0]
    assert (ranked.scenes, ranked.effective_scenes) == (4, 4.0)
    assert "over 4 scenes; no winner is named, as 4.0 effective scenes are fewer than 10" in words(standing)
    (standing,) = build_standings([entry("a", 0.5, runs=5), entry("b", runs=5)])
    assert "among 10 trainings of 2 methods" in words(standing)
    lines = overview([standing])["strict-2"][1]
    assert all(line.mean is not None and 0 < line.mean <= 1 for line in lines)


def test_the_mean_is_over_tables_of_one_verdict_set(entry: Make) -> None:
    classic = dict.fromkeys(("EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf", "SSIM"), True)
    entries = [entry("a"), entry("b"), *(entry(name, set="z", metrics=classic) for name in ("a", "b"))]
    entries[0] = replace(entries[0], about=About(parameters=5, seconds=0.01))
    entries[2] = replace(entries[2], about=About(seconds=5.0, device="a phone"))
    lines = overview(build_standings(entries))["strict-2"][1]
    assert [line.mean for line in lines] == [None, None]
    about = next(line.about for line in lines if line.method == "a")
    assert about == About(5, 0.01, None)  # time and device of one result


def test_a_method_without_masks_is_named_as_what_costs_a_family(entry: Make) -> None:
    masked = {**BALANCED_METRICS, "kept-targets": True}
    entries = [entry("a", metrics=masked), entry("b", metrics=masked), entry("c", metrics=BALANCED_METRICS)]
    (standing,) = build_standings(entries)
    assert "Ranked by balanced-1 without its family 'targets', which 'c' lack." in words(standing)
    assert "targets" not in standing.ranked[0].families


def test_trivial_fusions_scored_with_unlike_masks_are_joined_without_targets(entry: Make) -> None:
    masked = {**BALANCED_METRICS, "kept-targets": True}

    def given(name: str, mask: str) -> Entry:
        each = entry(name, metrics=masked)
        return replace(each, pairs={k: replace(pair, mask=mask * 16) for k, pair in each.pairs.items()})

    other = given("trivial:average", "1")
    other.runs[0]["kept-targets"].update(dict.fromkeys(other.pairs, 9.0))
    entries = [given("a", "0"), given("trivial:average", "0"), given("b", "1"), other]
    (standing,) = build_standings(entries)
    assert "Left out: metrics of targets, because the results were scored with unlike masks." in words(
        standing
    )
    assert len(standing.entries) == 3


def test_a_drop_is_measured_on_the_same_files(entry: Make) -> None:
    noise = Degradation("degraded-1", "noise", 1, against="clean")
    worse = replace(entry("a", -1.0), degradation=noise)
    (found, _) = build_standings([entry("a"), entry("b"), worse])
    assert [drop.method for drop in found.drops] == ["a"]
    pairs = {name: replace(pair, pair="f" * 16) for name, pair in worse.pairs.items()}
    (found, _) = build_standings([entry("a"), entry("b"), replace(worse, pairs=pairs)])
    assert found.drops == []


def test_the_fewest_scenes_are_taken_and_unlike_masks_cost_the_targets(entry: Make) -> None:
    (standing,) = build_standings([entry("a"), entry("b", scenes=24)])
    assert standing.scenes == 12
    assert "those of a.json are taken, which are the fewest (12)" in words(standing)

    def masked(method: str, mask: str | None) -> Entry:
        made = entry(method, metrics={"kept-targets": True, "kept-structure": True})
        return replace(made, pairs={n: replace(p, mask=mask) for n, p in made.pairs.items()})

    (standing,) = build_standings([masked("a", "0" * 16), masked("b", "1" * 16)])
    assert [each.name for each in standing.columns] == ["kept-structure"]
    assert "unlike masks" in words(standing)
    (standing,) = build_standings([masked("a", "0" * 16), masked("b", "0" * 16), entry("c")])
    assert "kept-targets" in [each.name for each in standing.columns]


def test_a_drop_is_the_paired_difference_over_scenes(entry: Make) -> None:
    noise = Degradation("degraded-1", "noise", 2)
    clean = entry("a", 0.0)
    worse = entry("a")
    generator = np.random.default_rng(1)
    for metric in ("EN", "MSE"):
        for name in worse.pairs:
            worse.runs[0][metric][name] = clean.runs[0][metric][name] - 0.5 + generator.normal(0, 0.2)
    worse = replace(worse, degradation=noise)
    standing = build_standings([clean, worse, replace(entry("b"), degradation=noise)])[0]
    (drop,) = standing.drops  # b has no clean result
    assert (drop.method, drop.degradation) == ("a", noise)
    for metric, sign in (("EN", 1), ("MSE", -1)):
        own, other = scene_means(clean, metric), scene_means(worse, metric)
        gaps = [sign * (own[scene] - other[scene]) for scene in own]
        low, high = stats.t.interval(0.95, 11, loc=fmean(gaps), scale=stats.sem(gaps))
        assert drop.costs[metric].value == pytest.approx(fmean(gaps), abs=1e-12)
        assert drop.costs[metric].interval() == pytest.approx((low, high), abs=1e-9)


def test_several_seeds_are_one_row_with_seeds_and_scenes_as_samples(entry: Make) -> None:
    (standing,) = build_standings([entry("a", 0.5, runs=3), entry("b", runs=3)])
    place = standing.place("b")
    assert place is not None
    assert place.behind is not None
    assert place.behind.runs > 0
    cell = standing.columns[0].cells[0]
    assert cell is not None
    assert cell.std is not None
