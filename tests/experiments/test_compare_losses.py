"""The study of losses: a rule that knows no loss, runs that say what they were, any CLIP by one word."""

import json
import zipfile
from pathlib import Path

import pytest
from experiments.common import compose_run
from experiments.compare_losses import study

from clipfuse.cli.config import check_config
from clipfuse.cli.train import GROUPS
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.fairness import check_mixing
from clipfuse.errors import UserError
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
