"""Sources judged by a tiny task: kept results, repeats after a kill, several processes, both protocols."""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfuse.downstream.evaluation import Evaluation
from clipfuse.downstream.material import Material
from clipfuse.downstream.networks import weights_of
from clipfuse.downstream.protocols import FROZEN, PLAIN, RETRAINED
from clipfuse.downstream.results import Result, results_file
from clipfuse.downstream.segmentation import Segmentation
from clipfuse.downstream.sources import ALWAYS, Source, plain_source

sys.path.append(str(Path(__file__).parents[2]))  # processes import the task by its name
from tests.downstream.tiny import LABELS, TinyPairs, TinyTask, material


def evaluation(given: Material, protocol: str = RETRAINED, **options: Any) -> Evaluation:
    return Evaluation(given, protocol, [0, 1], lambda source: nullcontext(), **options)


def numbers(results: dict[str, list[Result]]) -> dict[str, Any]:
    return {name: [(each.key, each.images) for each in found] for name, found in results.items()}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Result]]]:
    """All plain sources, judged in one process."""
    folder = tmp_path_factory.mktemp("once")
    return folder, evaluation(material()).run([plain_source(name, folder) for name in ALWAYS])


def test_the_results_hold_what_all_scores_follow_from(once: tuple[Path, dict[str, list[Result]]]) -> None:
    folder, results = once
    assert list(results) == list(ALWAYS)
    for name, found in results.items():
        assert [each.seed for each in found] == [0, 1]
        stored = json.loads(results_file(folder / name, "segmentation").read_text())
        assert stored["labels"]["names"] == list(LABELS.names)
        for each in stored["results"]:
            assert list(each["images"]) == ["5D", "6N", "7D"]
            assert [image["scene"] for image in each["images"].values()] == ["yard", "6N", "yard"]
            judgements = [image["judgement"] for image in each["images"].values()]
            assert all(sum(map(sum, one["confusion"])) == 32 * 32 for one in judgements)
            assert each["scores"]["mIoU"] == TinyTask().scores(LABELS, judgements)["mIoU"]
            day, night = [judgements[0], judgements[2]], [judgements[1]]
            for group, chosen in (("day", day), ("night", night)):
                assert each["scores"][f"mIoU/{group}"] == TinyTask().scores(LABELS, chosen)["mIoU"]
            assert each["scores"]["none"] is None
            assert {"updates", "input", "versions"} <= set(each["settings"])
    assert len({each.train_sha256 for found in results.values() for each in found}) == len(ALWAYS)


def test_what_is_done_is_not_computed_again(once: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, results = once
    monkeypatch.setattr(TinyTask, "build", None)  # to train would fail
    lines: list[str] = []
    again = evaluation(material(), note=lines.append)
    sources = [plain_source(name, folder) for name in ALWAYS]
    assert not any(again.missing(sources).values())
    assert numbers(again.run(sources)) == numbers(results)
    assert lines == [f"{name}: done before" for name in ALWAYS]


@pytest.mark.parametrize("change", ["images", "settings", "input", "pairs", "seed"])
def test_what_decides_the_numbers_is_part_of_the_key(change: str, tmp_path: Path) -> None:
    source = plain_source("visible", tmp_path)
    (first,) = evaluation(material()).run([source]).values()
    task = TinyTask(updates=13) if change == "settings" else None
    other = evaluation(material(task, "luma" if change == "input" else "color", 5 * (change == "pairs")))
    if change == "seed":
        other.seeds = [2, 1]
    if change == "images":  # of a source that has changed under its name
        source = plain_source("maximum", tmp_path)
        source = type(source)("visible", tmp_path / "visible", source.origin, source.image)
    assert other.missing([source])["visible"] == ([2] if change == "seed" else [0, 1])
    (second,) = other.run([source]).values()
    both = {each.key for each in (*first, *second)}
    assert len(both) == (3 if change == "seed" else 4)
    kept = json.loads(results_file(source.folder, "segmentation").read_text())["results"]
    # Of other images nothing is kept; other settings and seeds stand beside each other.
    assert len(kept) == {"images": 2, "pairs": 2, "seed": 3}.get(change, 4)


def test_the_same_images_from_elsewhere_need_no_training(tmp_path: Path) -> None:
    source = plain_source("average", tmp_path)
    first = evaluation(material()).run([source])
    other = type(source)(source.name, source.folder, "another origin", source.image)
    lines: list[str] = []
    again = evaluation(material(TinyTask(fails_at=0)), note=lines.append)
    assert again.missing([other])["average"] == [0, 1]
    assert numbers(again.run([other])) == numbers(first)
    assert lines == [f"average, seed {seed}: the images are the same, done before" for seed in (0, 1)]
    assert again.missing([other])["average"] == []


def test_killed_and_repeated_the_numbers_are_the_same(once: Any, tmp_path: Path) -> None:
    _, results = once
    sources = [plain_source(name, tmp_path) for name in ALWAYS]
    with pytest.raises(KeyboardInterrupt):
        evaluation(material(TinyTask(fails_at=1))).run(sources)
    assert not list(tmp_path.rglob("*.partial"))
    done = evaluation(material()).missing(sources)
    assert done == {name: [1] if name == "infrared" else [0, 1] for name in ALWAYS}
    assert numbers(evaluation(material()).run(sources)) == numbers(results)


def test_several_processes_give_the_same_numbers(once: Any, tmp_path: Path) -> None:
    _, results = once
    moved: list[float] = []
    parallel = evaluation(material(), parallel=2, progress=moved.append)
    found = parallel.run([plain_source(name, tmp_path) for name in ALWAYS])
    assert numbers(found) == numbers(results)
    assert sum(moved) == 12 * 2 * len(ALWAYS)


def test_frozen_trains_one_network_for_all_sources_of_three_channels(tmp_path: Path) -> None:
    sources = [plain_source(name, tmp_path) for name in ALWAYS]
    frozen = evaluation(material(), FROZEN)
    assert frozen.trainings(frozen.missing(sources)) == 2
    results = frozen.run(sources)
    assert list(results) == list(ALWAYS[:-1])
    assert len({each.train_sha256 for found in results.values() for each in found}) == 1
    other = plain_source("maximum", tmp_path)
    late = type(other)("late", tmp_path / "late", "its own", other.image)
    more = evaluation(material(), FROZEN).run([*sources, late])
    assert [each.images for each in more["late"]] == [each.images for each in results["maximum"]]
    assert numbers({name: more[name] for name in results}) == numbers(results)
    # The other protocol's results stand beside them.
    retrained = evaluation(material()).run([sources[0]])["infrared"]
    assert retrained[0].images != results["infrared"][0].images
    stored = json.loads(results_file(tmp_path / "infrared", "segmentation").read_text())["results"]
    assert len(stored) == 4


def test_maps_of_the_first_images_are_kept(once: Any) -> None:
    from clipfuse.downstream.results import shown_judgements

    folder, results = once
    shown = shown_judgements(folder / "visible", "segmentation", results["visible"][1])
    assert list(shown) == ["5D", "6N", "7D"]
    labels = {each.name: each.classes for each in material().blank(["5D", "6N", "7D"])}
    for name, judgement in shown.items():
        classes = labels[name]
        assert classes is not None
        pairs = torch.bincount((2 * classes.long() + judgement["map"]).flatten(), minlength=4)
        assert pairs.reshape(2, 2).tolist() == judgement["confusion"]


def test_bad_settings_are_refused_by_name(user_error: Any) -> None:
    assert "protocol is 'retrained-9'" in user_error(evaluation, material(), "retrained-9")
    for seeds in ([], [1, 1]):
        with pytest.raises(Exception, match="seeds is"):
            Evaluation(material(), RETRAINED, seeds, lambda source: nullcontext())


def test_files_of_networks_belong_to_frozen(tmp_path: Path, user_error: Any) -> None:
    task = TinyTask()
    task.save = "judge.pt"
    assert "downstream.save is for frozen-1" in user_error(evaluation, material(task))
    task = TinyTask()
    task.weights = "judge.pt"
    lines: list[str] = []
    given = evaluation(material(task), FROZEN, note=lines.append)
    assert given.seeds == [0]  # each seed would find the same
    assert lines == ["downstream.weights is one network: task seed 0 alone"]
    sources = [plain_source("visible", tmp_path)]
    assert given.trainings(given.missing(sources)) == 0


def test_what_a_data_set_lacks_is_the_kind_that_the_task_needs(tmp_path: Path, user_error: Any) -> None:
    from clipfuse.data.labels.description import Description
    from clipfuse.data.labels.files import no_labels
    from clipfuse.downstream.material import labels_of

    class Unlabelled(TinyPairs):
        def no_labels(self, kind: str) -> str:
            return no_labels(kind, Description("Marks", "voc", LABELS), tmp_path)

    message = user_error(labels_of, Unlabelled(labelled=False), "boxes")
    assert (
        f"the data set 'tiny' has no labels, which a task network learns from: in {tmp_path} no folder"
        in message
    )
    assert "'Marks'" in message


def test_a_network_that_is_to_be_kept_is_trained_again_where_its_file_is_missing(tmp_path: Path) -> None:
    def judged(save: str | None) -> list[str]:
        task = Segmentation("fpn_resnet10", updates=2, batch_size=2, crop=(32, 32), save=save)
        lines: list[str] = []
        given = evaluation(material(task), FROZEN, note=lines.append)
        given.run([plain_source(name, tmp_path) for name in PLAIN])
        return lines

    assert judged(None) == []
    assert len(judged(None)) == 4  # done before
    before = {path: path.read_text() for path in tmp_path.rglob("metrics.json")}
    assert judged(str(tmp_path / "judge.pt")) == []
    assert {path.name for path in tmp_path.glob("*.pt")} == {"judge-0.pt", "judge-1.pt"}
    for path, text in before.items():
        old, new = (json.loads(each)["results"] for each in (text, path.read_text()))
        assert [each["images"] for each in old] == [each["images"] for each in new]
    assert len(judged(str(tmp_path / "judge.pt"))) == 4


def test_a_network_of_a_file_needs_no_training_images(tmp_path: Path) -> None:
    task = Segmentation("fpn_resnet10", updates=2, batch_size=2, crop=(32, 32))
    path = tmp_path / "judge.pt"
    torch.save(weights_of(task.build(LABELS, 3, 0), "fpn_resnet10", LABELS.names), path)
    asked: list[str] = []

    def watched(source: Source) -> Source:
        def image(pair: Any) -> Any:
            asked.append(pair.sample_ids[0])
            return source.image(pair)

        return replace(source, image=image)

    given = evaluation(material(Segmentation("fpn_resnet10", weights=str(path))), FROZEN)
    found = given.run([watched(plain_source(name, tmp_path)) for name in PLAIN])
    assert all(len(results) == 1 for results in found.values())
    assert set(asked) == {"5D", "6N", "7D"}
