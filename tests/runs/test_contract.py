"""Every key of every composed configuration is decided: it must agree, names a row, or is harmless."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from clipfuse.cli.config import conf_dir
from clipfuse.cli.parts import join_parts
from clipfuse.comparison.collect import Run
from clipfuse.comparison.fairness import check_mixing
from clipfuse.comparison.variants import group
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.errors import UserError
from clipfuse.losses.base import ParameterGroup
from clipfuse.ops.settings import leaves
from clipfuse.runs import resume
from clipfuse.runs.contract import (
    KINDS,
    RULES,
    decide,
    earlier_edition,
    flatten,
    present_name,
    read_tuning,
)
from clipfuse.runs.record import run_record
from clipfuse.runs.train import train

# What the runs of one row may differ in. The contract says why; that it is no more than this, stands here.
HARMLESS = (
    *(
        "name",
        "run_dir",
        "overwrite",
        "checkpoint",
        "auto_resume",
        "objective",
        "objective_on_test",
        "test",
        "validate_every",
    ),
    *(
        "seed",
        "loss.seed",
        "loss.network.seed",
        "loss.task.seed",
        "loss.of.*.seed",
        "clip.*",
        "clip_identity",
        "logger.*",
    ),
    *("clip_identity.model", "clip_identity.pretrained", "clip_identity.preprocess.size"),
    *("data.root", "data.sources.*.root", "loader.workers", "loader.cache_mb"),
    *("data.labels", "data.labels.*", "data.captions", "data.sources.*.labels", "data.sources.*.captions"),
    *("trainer.accelerator", "trainer.max_time", "trainer.log_every_n_steps", "trainer.enable_model_summary"),
    *("callbacks.best.[!_]*", "callbacks.last.path", "callbacks.test.[!_]*", "callbacks.notes.[!_]*"),
    *("metrics.protocol", "metrics.validation", "metrics.test", "metrics.own", "metrics.lpips_weights"),
    "versions.git_commit",
    *("split_of", "names_sha256", "scenes.*", "pairs", "threads", "started_in"),
    *("downstream.*", "downstream_seeds"),
)
# What a run that goes on may change.
RESUMABLE = (
    *(
        "name",
        "run_dir",
        "overwrite",
        "checkpoint",
        "auto_resume",
        "objective",
        "objective_on_test",
        "test",
        "tuning",
        "logger.*",
    ),
    *("data.root", "data.sources.*.root", "loader.workers", "loader.cache_mb", "callbacks.*", "versions.*"),
    *("data.labels", "data.labels.*", "data.captions", "data.sources.*.labels", "data.sources.*.captions"),
    *("trainer.accelerator", "trainer.max_time", "trainer.log_every_n_steps"),
    *("split_of", "names_sha256", "scenes.*", "pairs", "threads", "started_in"),
    *("downstream.*", "downstream_seeds", "metrics.lpips_weights"),
)
NEEDED = {  # words without which an option cannot be composed
    "loss/custom": ["loss._target_=my_loss.MyLoss", "+loss.weight=2"],
    "loss/weighted_sum": ["+loss.parts={promptfusion:1,ldfusion:0.1}"],
    "backbone/custom": ["backbone._target_=my_net.MyNet", "+backbone.width=8"],
    **{
        f"data/{name}": ["data.root=x"]
        for name in ("fmb", "folder", "llvip", "m3fd", "mfnet", "msrs", "tno", "roadscene")
    },
    "data/mixed": ["data.sources.roadscene.root=x"],
    "experiment/best": ["data.sources.roadscene.root=x"],
}
TUNING = {"key": "optimizer.lr", "grid": [1e-3, 2e-3], "rule": "best SSIM", "trials": "one"}


def choices() -> list[list[str]]:
    """Return options that, composed together, hold every option of every group once; experiments alone."""
    groups: dict[str, list[str]] = {}
    for file in sorted(conf_dir().glob("*/*.yaml")):
        if file.parent.name not in ("hydra", "sweep", "wandb"):  # say how jobs are run, and end in no record
            groups.setdefault(file.parent.name, []).append(f"{file.parent.name}/{file.stem}")
    alone = [[option] for option in groups.pop("experiment")]
    return [[option for option in each if option] for each in zip_longest(*groups.values())] + alone


class WithLpips(str):
    """Stands for a protocol that has LPIPS."""

    lpips = SimpleNamespace(features=SimpleNamespace(sha256="5f"))


def composed(options: list[str], loss: Any) -> dict[str, Any]:
    words = [word for each in options for word in (each.replace("/", "="), *NEEDED.get(each, []))]
    config = compose("train", [*words, "run_dir=runs/x"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    join_parts(config)
    metrics = SimpleNamespace(test=SimpleNamespace(protocol=WithLpips("strict-1")))
    source = SyntheticPairs(train=1, val=1, test=1, size=64)
    source.labels_fingerprint = lambda: "1a"  # type: ignore[attr-defined]
    return run_record(config, source, metrics, loss)


IDENTITY = {"model": "micro", "pretrained": None, "weights_sha256": "92", "preprocess": {"size": [112, 112]}}


@pytest.fixture(scope="module")
def records() -> dict[str, dict[str, Any]]:
    """Of each key the record of the first option that has it."""
    found: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(conf_dir()), version_base="1.3"):
        patch.setattr("clipfuse.runs.record.git_commit", lambda: "c0ffee")
        clips = [SimpleNamespace(clip=SimpleNamespace(identity=IDENTITY))]
        asks = SimpleNamespace(
            modules=lambda: clips,
            required=lambda: {"classes": "task"},
            parameter_groups=lambda: {"head": ParameterGroup(lr=0.1)},
        )
        for index, options in enumerate(choices()):
            record = composed(options, asks if index else None)
            for key in leaves(record):
                found.setdefault(key, record)
    return found


def changed(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the record with another value at one key."""
    copy = deepcopy(dict(record))
    *parents, last = key.split(".")
    node = copy
    for parent in parents:
        node = node[parent]
    value = node[last]
    if key == "tuning":
        node[last] = TUNING
    elif key.startswith("versions."):
        node[last] = "99.9.0"
    elif isinstance(value, bool):
        node[last] = not value
    elif isinstance(value, int | float):
        node[last] = value + 1
    elif isinstance(value, list):
        node[last] = [*value, "more"]
    else:
        node[last] = f"other.{value}"
    return copy


def run(record: Mapping[str, Any], folder: str) -> Run:
    fit = {"seconds": 1.0, "updates": 10, "samples": 40, "device": "cpu"}
    return Run(Path(folder), record, "finished", None, 40, fit, {}, {}, {})


def outcome(record: Mapping[str, Any], key: str) -> str:
    """Say what `clipfuse compare` does with two runs that differ in one key, and in nothing else."""
    other = changed(record, key)
    runs = [run(record, "one"), run(other, "two")]
    try:
        assert all("git" in note for note in check_mixing(runs, []))
    except UserError as error:
        text = str(error)
        named = f"one has {key}=" in text or (key == "tuning" and "one has tuning=" in text)
        kind = text.partition("differ in ")[2].partition(":")[0]
        assert f"add --mix {kind} " in text
        return "refused" if named and kind in KINDS[:-1] else text
    other["seed"] = record["seed"] + 1
    names = [variant.name for variant in group([runs[0], run(other, "two")])]
    if len(names) == 1:
        return "harmless"
    word = key.removeprefix("loss.").removesuffix("._target_")
    told = key == "loss._target_" or any(f"{word}=" in name for name in names)
    return "named" if told and names[0] != names[1] else f"rows {names}"


def matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, each) for each in patterns)


def test_each_key_is_refused_or_named_or_listed_as_harmless(records: Mapping[str, dict[str, Any]]) -> None:
    assert len(records) > 200
    wrong = {}
    for key, record in records.items():
        expected = "refused"
        if matches(key, HARMLESS):
            expected = "harmless"
        elif key.startswith(("loss.", "solver.", "parameter_groups.")):
            expected = "named"
        if (found := outcome(record, key)) != expected:
            wrong[key] = f"expected to be {expected}: {found}"
    assert wrong == {}


def test_each_key_may_change_on_resume_or_not(
    records: Mapping[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = []
    for key, record in records.items():
        whole = {"global_step": 1, "callbacks": {}, "loops": {}, "optimizer_states": [], "lr_schedulers": []}
        checkpoint = {**whole, "clipfuse": {"config": record}}
        monkeypatch.setattr(resume, "read_checkpoint", lambda path, found=checkpoint: found)
        resume.find_start("last.ckpt", False, tmp_path, record)
        expects = (
            nullcontext() if matches(key, RESUMABLE) else pytest.raises(UserError, match=f"its {key} is ")
        )
        try:
            with expects:
                resume.find_start("last.ckpt", False, tmp_path, changed(record, key))
        except (UserError, pytest.fail.Exception) as error:
            wrong.append(f"{key}: {error}")
    assert wrong == []


def test_each_decision_is_one_and_has_its_reason(records: Mapping[str, dict[str, Any]]) -> None:
    for rule in RULES:
        assert rule.compare in (*KINDS, "row", "harmless")
        assert rule.compare != "unknown"
        assert len(rule.reason.split()) > 1
    assert [key for key in records if decide(key).compare == "unknown"] == []
    # A rule that no key of any option needs is no decision, but a leftover.
    used = {
        decide(key) for key in [*records, "trainer.num_nodes", "trainer.enable_progress_bar", "loader.other"]
    }
    used |= {decide(key) for key in ("callbacks.mine.path", "tuning.rule", "loss_files.weights")}
    assert [rule.keys for rule in RULES if rule not in used] == []
    assert {decide(key).compare for key in records} - {"row", "harmless"} == set(KINDS) - {"unknown"}


def test_a_key_that_nothing_decides_is_not_free() -> None:
    assert decide("seeds").compare == decide("nameless").compare == "unknown"  # no prefix of a word
    assert not decide("names").resume


def test_values_are_held_in_the_terms_of_the_rules() -> None:
    record = {"run_dir": "runs/x", "callbacks": {"a": "runs/x/a", "b": "runs/xy"}, "data": {"root": "runs/x"}}
    record |= {"versions": {"torch": "2.15.0+cu128", "clipfuse": "0.1.0", "git_commit": "a.b.c"}}
    record |= {"clip_identity": [{"weights_sha256": "b", "model": "x"}, {"weights_sha256": "a"}]}
    assert flatten(record) == {
        "run_dir": "${run_dir}",
        "callbacks.a": "${run_dir}/a",
        "callbacks.b": "runs/xy",
        "data.root": "${run_dir}",
        "versions.torch": "2.15",
        "versions.clipfuse": "0.1.0",
        "versions.git_commit": "a.b.c",
        "clip_identity.weights_sha256": ["a", "b"],
    }


def test_the_edition_of_the_bundled_clip_is_the_one_of_the_record() -> None:
    """`clip=micro` of a record is the edition of its version, by whatever name it is had today."""
    clip = {"_target_": "clipfuse.clip.encoder.FrozenClip.load", "model": "micro"}
    old = {
        "loss": {"clip": clip},
        "clip": clip,
        "clip_identity": {"model": "micro", "version": 1, "pretrained": None},
    }
    given = {**clip, "pretrained": "micro_1"}
    new = {
        "loss": {"clip": given},
        "clip": given,
        "clip_identity": {**old["clip_identity"], "pretrained": "micro_1"},
    }
    assert earlier_edition(old) == "micro_1"
    assert earlier_edition({"clip_identity": [{"model": "ViT-B-32"}, old["clip_identity"]]}) == "micro_1"
    assert flatten(old) == flatten(new)
    newest = {**old, "clip_identity": {"model": "micro", "version": 2, "pretrained": None}}
    for record in (
        new,
        newest,
        {"clip_identity": None},
        {"clip_identity": {"model": "ViT-B-32", "version": 1}},
        {},
    ):
        assert earlier_edition(record) is None
    assert flatten(newest)["clip.pretrained"] is None
    folder = {
        **old,
        "clip": {**clip, "pretrained": "mine"},
        "clip_identity": {**old["clip_identity"], "version": 5},
    }
    assert flatten(folder)["clip.pretrained"] == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": None}, r"tuning.grid is None; expected the two or more numbers"),
        ({"grid": [1e-3]}, r"tuning.grid is \[0.001\]; expected the two or more"),
        ({"key": "gradient_clip"}, r"tuning.key is gradient_clip; expected a setting of the optimiser"),
        ({"rule": " "}, r"tuning.rule is ' '; expected words"),
        ({"more": 1}, r"tuning is .*; expected null or the keys key, grid, rule, trials"),
        ({"key": "optimizer.eps"}, r"optimizer.eps is None, which is not in tuning.grid \(0.001, 0.002\)"),
    ],
)
def test_a_tuning_is_whole(change: dict[str, Any], message: str) -> None:
    record = {"optimizer": {"lr": 1e-3}, "tuning": TUNING}
    found = read_tuning(record)
    assert found is not None
    assert (found.key, found.grid) == ("optimizer.lr", (1e-3, 2e-3))
    assert read_tuning({"optimizer": {"lr": 1e-3}}) is None
    with pytest.raises(UserError, match=f"^here: {message}"):
        read_tuning({**record, "tuning": {**TUNING, **change}}, "here: ")
    with pytest.raises(UserError, match=r"^tuning is 'best'; expected null or the keys"):
        read_tuning({"tuning": "best"})


def test_a_training_beside_its_grid_does_not_begin(
    tiny_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    config = tiny_config("tuning={key:optimizer.lr,grid:[1,2],rule:best,trials:one}")
    with pytest.raises(UserError, match=r"optimizer.lr is 0.001, which is not in tuning.grid \(1, 2\)"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_an_option_compares(records: Mapping[str, dict[str, Any]]) -> None:
    record = records["backbone.detail_gain"]
    older = deepcopy(dict(record))
    assert older["backbone"].pop("detail_gain") == 1.0
    assert check_mixing([run(record, "one"), run(older, "two")], []) == []
    assert flatten(older)["backbone.detail_gain"] == 1.0
    with pytest.raises(UserError, match="differ in network"):
        check_mixing([run(changed(record, "backbone.detail_gain"), "one"), run(older, "two")], [])


# Every name of the former package `engine` that conf/ has held; it may stand in older run folders.
FORMER = (
    *("callbacks.TestWriter", "checkpoints.LastCheckpoint", "loggers.CsvLogger", "loggers.RunWandbLogger"),
    *("notes.LossNotes", "progress.RunProgress", "wandb_run.RunWandbLogger"),
    *("schedules.constant", "schedules.cosine", "schedules.milestones"),
)


@pytest.mark.parametrize("name", FORMER)
def test_a_name_of_an_older_record_is_found_under_its_present_one(name: str) -> None:
    present = present_name(f"clipfuse.engine.{name}")
    assert resolve_name(present).__name__ == present.rpartition(".")[2]
    assert present_name(present) == present
    if name != "notes.LossNotes":
        assert present.endswith(name.rpartition(".")[2])


def test_former_names_are_those_of_the_present_configuration(records: Mapping[str, dict[str, Any]]) -> None:
    found = {
        value
        for record in records.values()
        for key, value in leaves(record).items()
        if key.endswith("_target_") and value.startswith(("clipfuse.tracking.", "clipfuse.runs."))
    }
    assert {present_name(f"clipfuse.engine.{name}") for name in FORMER} >= found - {
        "clipfuse.tracking.tensorboard.RunTensorBoardLogger"  # has come since
    }


@pytest.mark.parametrize("name", ["my_engine.Loss", "clipfuse.losses.pixel.PixelLoss"])
def test_other_names_stay(name: str) -> None:
    assert present_name(name) == name
