"""The study of losses: a rule that knows no loss, runs that say what they were, any CLIP by one word."""

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from experiments.common import compose_run
from experiments.compare_losses import study, zoo
from experiments.downstream import study as downstream
from PIL import Image

from clipfuse.cli.config import check_config, conf_dir
from clipfuse.cli.train import GROUPS
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.fairness import check_mixing
from clipfuse.errors import UserError
from clipfuse.images import write_png
from clipfuse.runs.train import TrainSettings

RESULTS = Path(study.__file__).parent / "results"
SETS = ("roadscene", "synthetic")


def test_the_rate_that_ranks_best_is_chosen_and_of_equals_the_smallest() -> None:
    equal = dict.fromkeys(study.METRICS, 1.0)
    assert study.choose_rate({1e-3: equal, 3e-4: equal, 3e-3: equal}) == 3e-4
    # Better in five of eight: by ranks it wins, though the other metric is of another magnitude.
    better = {**equal, **dict.fromkeys(study.METRICS[:5], 1.1), study.METRICS[7]: -1e6}
    assert study.choose_rate({3e-4: equal, 1e-3: better}) == 1e-3


@pytest.mark.parametrize("loss", study.LOSSES)
def test_its_command_takes_any_clip(loss: str) -> None:
    words = [*study.words(loss, 300), "data=synthetic", "clip=vit_b32_openai", "run_dir=x"]
    config = compose_run(words)
    check_config(config, TrainSettings, GROUPS)
    assert config.clip.model == "ViT-B-32-quickgelu"
    assert config.loader.crop_size == 64


@pytest.mark.parametrize("loss", zoo.LOSSES)
def test_each_of_the_zoo_composes(loss: str) -> None:
    config = compose_run([*downstream.words(zoo.LOSSES[loss], 300), "data=msrs", "data.root=x", "run_dir=x"])
    check_config(config, TrainSettings, GROUPS)
    assert config.steps == 300
    assert config.loss.get("warmup", 60) == 60


def test_the_zoo_has_every_loss() -> None:
    used = " ".join(word for words in zoo.LOSSES.values() for word in words)
    losses = {path.stem for path in (conf_dir() / "loss").glob("*.yaml")} - {"custom"}
    assert losses <= set(re.findall(r"\w+", used))


def test_the_zoo_does_each_part_of_each_loss_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images first, without task networks; these later, and only where they are missing."""
    did: list[tuple[str, list[str]]] = []
    folder = tmp_path / "runs/msrs/samples"

    def write(losses: Iterable[str], file: str) -> None:
        for loss in losses:
            for seed in range(2):
                path = folder / loss / str(seed) / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")

    def train(
        out: Path, name: str, data: object, tiny: bool, losses: Iterable[str], *_: object, clip: str
    ) -> None:
        assert (out, name, tiny, clip) == (folder.parent, "msrs", False, "micro")
        did.append(("train", list(losses)))
        write(losses, "config.yaml")

    def judge(out: Path, tiny: bool, parallel: int, losses: Iterable[str], updates: int) -> None:
        did.append(("judge", list(losses)))
        write(losses, "downstream/segmentation/metrics.json")

    monkeypatch.setattr(zoo, "RESULTS", tmp_path / "kept")
    monkeypatch.setattr(downstream, "train", train)
    monkeypatch.setattr(downstream, "judge", judge)
    monkeypatch.setattr(zoo.prompts, "table", lambda out, losses: [])

    def run(words: str) -> list[tuple[str, list[str]]]:
        did.clear()
        monkeypatch.setattr(
            "sys.argv", ["zoo", "--msrs", "data", "--out", str(tmp_path / "runs"), *words.split()]
        )
        zoo.main()
        return list(did)

    images = [("train", ["pixel", "task"])]
    assert run("--save --part images --loss pixel task") == images
    assert run("--save --part images --loss pixel task") == []
    (folder / "downstream-sources/both").mkdir(parents=True)
    assert run("--save --loss pixel") == [("train", ["pixel"]), ("judge", ["pixel"])]
    assert run("--save --loss pixel task lpips") == [("train", ["task"]), ("judge", ["task"])]  # lpips: --vgg
    assert "machine kept in" in capsys.readouterr().out


def test_its_panel_shows_each_scene_under_each_trained_loss(tmp_path: Path) -> None:
    level = torch.full((3, 60, 80), 0.2)
    for band in ("ir", "vi"):
        for scene in zoo.SCENES:
            write_png(tmp_path / "data/test" / band / f"{scene}.png", level, overwrite=False)
    with Image.open(tmp_path / f"data/test/ir/{zoo.SCENES[0]}.png") as image:  # MSRS at half resolution
        image.save(tmp_path / f"data/test/ir/{zoo.SCENES[0]}.jpg", quality=100)
    (tmp_path / f"data/test/ir/{zoo.SCENES[0]}.png").unlink()
    assert not zoo.trained(tmp_path, ["pixel"])
    folder = tmp_path / "msrs/samples/pixel/0/test"
    for scene in zoo.SCENES:
        write_png(folder / f"color/{scene}.png", level + 0.4, overwrite=False)
    (folder / "metrics.json").write_text("{}")
    panel = zoo.draw(tmp_path / "data", zoo.trained(tmp_path, ["pixel", "task"]), 60)
    counts = {color: count for count, color in panel.getcolors(2**20)}
    assert 0 <= counts[51, 51, 51] - 2 * 6 * 60 * 80 < 100  # some of the captions
    assert 0 <= counts[153, 153, 153] - 6 * 60 * 80 < 100


@pytest.mark.parametrize("name", SETS)
def test_what_was_run_followed_the_rules(name: str) -> None:
    with zipfile.ZipFile(RESULTS / f"{name}_time.zip") as archive:
        seconds = json.loads(archive.read("seconds_per_update.json"))
    for loss in study.LOSSES:
        chosen = study.choose_rate(study.trial_scores(RESULTS / f"{name}_trials.zip/{loss}"))
        steps = {"_trials": study.STEPS, "": study.STEPS}
        steps["_time"] = round(study.STEPS * seconds["pixel"] / seconds[loss])
        for part, count in steps.items():
            runs = find_runs([RESULTS / f"{name}{part}.zip/{loss}"])
            assert len(runs) == 3
            for job, run in enumerate(runs):
                assert run.status == "finished"
                assert run.config["steps"] == count
                assert not str(run.config["data"].get("root")).startswith("/")
                rate, seed = run.config["optimizer"]["lr"], run.seed
                assert (rate, seed) == ((study.RATES[job], 100) if part == "_trials" else (chosen, job))
                assert part == "_trials" or len(run.scores["SSIM"]) in (24, 31)
                assert run.config.get("tuning") == (None if part == "_trials" else study.TUNING)


@pytest.mark.parametrize("name", SETS)
def test_its_losses_compare_at_rates_tuned_by_one_rule(name: str) -> None:
    note, commits = check_mixing(find_runs([RESULTS / f"{name}.zip"]), [])
    assert commits.startswith("The runs come from 2 states of the code")
    assert note.startswith(
        f"optimizer.lr was tuned per loss by one rule ({study.TUNING['rule']}; of 0.0003, "
    )
    with pytest.raises(
        UserError, match=r"differ in optimizer: .*optimizer.lr=0.0003, .*optimizer.lr=0.001; "
    ):
        check_mixing(find_runs([RESULTS / f"{name}_trials.zip"]), [])


def test_its_runs_say_how_their_rate_was_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sweeps: list[list[str]] = []
    monkeypatch.setattr(
        study, "run_sweeps", lambda jobs: sweeps.extend(list(words) for words in jobs.values())
    )
    monkeypatch.setattr(study, "trial_scores", lambda _: {1e-3: dict.fromkeys(study.METRICS, 1.0)})
    (tmp_path / "time").mkdir()
    (tmp_path / "time/seconds_per_update.json").write_text(json.dumps(dict.fromkeys(study.LOSSES, 1.0)))
    study.study(tmp_path, ["data=synthetic"], "micro")
    trials, samples = sweeps[0], sweeps[len(study.LOSSES)]
    assert not any("tuning" in word for word in trials)
    config = compose_run([*(word for word in samples if not word.startswith("seed=")), "run_dir=x"])
    check_config(config, TrainSettings, GROUPS)
    assert config.tuning == study.TUNING
    assert config.optimizer.lr == 1e-3
