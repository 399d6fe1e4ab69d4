"""Where a run goes on, begins anew or is left alone."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from clipfuse.errors import UserError
from clipfuse.losses.base import FusionLoss
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.owner import owned
from clipfuse.runs.train import train
from clipfuse.training.checkpoints import CheckpointFiles
from clipfuse.training.module import FusionModule
from clipfuse.types import LossInputs, LossOutput

Config = Callable[..., DictConfig]


def status(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "status.json").read_text()))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = {path for path in folder.rglob("*") if path.is_file()}
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


class _PowerCut(Callback):
    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.updates:
            raise RuntimeError("power cut")


def break_after(updates: int) -> str:
    return f"+callbacks.cut={{_target_: {__name__}._PowerCut, updates: {updates}}}"


def test_last_needs_a_checkpoint(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"checkpoint=last: there is no .*last\.ckpt; give the run_dir of a run"
    ):
        train(tiny_config("checkpoint=last"))
    assert not (tmp_path / "run").exists()


def test_last_is_the_checkpoint_of_the_run_folder(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(4)))
    train(tiny_config("test=false", "checkpoint=last"))
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 6
    with pytest.raises(UserError, match="is the end of its run; score it with: clipfuse evaluate"):
        train(tiny_config("test=false", "checkpoint=last"))


def test_a_finished_run_is_left_alone(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = train(tiny_config("auto_resume=true"))
    before = contents(tmp_path / "run")
    assert train(tiny_config("auto_resume=true")) == objective
    assert "holds this run, finished; nothing is left to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"its backbone\.width is 8, this run's is 16"):
        train(tiny_config("auto_resume=true", "backbone.width=16"))
    assert contents(tmp_path / "run") == before
    (tmp_path / "run/checkpoints/last.ckpt").unlink()
    with pytest.raises(UserError, match=r"holds a finished run, and its .*last\.ckpt is gone"):
        train(tiny_config("auto_resume=true"))
    assert contents(tmp_path / "run").keys() == before.keys() - {"checkpoints/last.ckpt"}


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(tiny_config: Config, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(2)))
    (run_dir / ".metrics.csv.4711.partial").write_text("half")
    (run_dir / "log.txt").write_text("opened by the sweep")
    train(tiny_config("test=false", "auto_resume=true"))
    assert status(run_dir)["status"] == "finished"
    assert not (run_dir / ".metrics.csv.4711.partial").exists()
    assert (run_dir / "log.txt").read_text() == "opened by the sweep"
    assert len((run_dir / "metrics.csv").read_text().splitlines()) == 7


def test_a_folder_that_is_no_run_is_not_cleared(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.thesis.csv.2024").write_text("years of work")
    (tmp_path / "run/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds files that are not a run"):
        train(tiny_config("auto_resume=true"))
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_what_a_kill_half_wrote_goes_when_the_run_goes_on(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config(break_after(4)))
    (tmp_path / "run/checkpoints/.last.ckpt.4711.partial").write_text("half")
    (tmp_path / "run/notes").mkdir()
    (tmp_path / "run/notes/.0a1b2c3d.4711.partial").write_text("half")
    train(tiny_config("auto_resume=true"))
    assert [str(path) for path in (tmp_path / "run").rglob(".*")] == []


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_folder_elsewhere_keeps_its_own_best_checkpoint(
    tiny_config: Config, tmp_path: Path, how: str
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(4)))
    first = tmp_path / "run"
    state = next(
        each
        for each in read_checkpoint(first / "checkpoints/last.ckpt")["callbacks"].values()
        if "dirpath" in each
    )
    assert (state["dirpath"], state["best_model_path"]) == (
        "${run_dir}/checkpoints",
        "${run_dir}/checkpoints/best.ckpt",
    )
    # As if the first validation had been unusually good: what follows is worse.
    _improve(first / "checkpoints/last.ckpt")
    other = tmp_path / "other"
    (shutil.move if how == "moved" else shutil.copytree)(first, other)
    before = (other / "checkpoints/best.ckpt").read_bytes()
    train(tiny_config("test=false", "auto_resume=true", f"run_dir={other}"))
    assert (other / "checkpoints/best.ckpt").read_bytes() == before
    end = read_checkpoint(other / "checkpoints/last.ckpt")
    assert end["global_step"] == 6
    assert any(float(each.get("best_model_score", 0)) == 99 for each in end["callbacks"].values())
    if how == "copied":
        assert (first / "checkpoints/best.ckpt").read_bytes() == before


def _improve(path: Path, absolute: str | None = None) -> None:
    content = torch.load(path, weights_only=False)
    for state in content["callbacks"].values():
        if "dirpath" in state:
            best = f"{state['dirpath']}/best.ckpt"
            score = torch.tensor(99.0)
            state |= {"best_model_score": score, "best_k_models": {best: score}}
            state |= {"kth_best_model_path": best, "kth_value": score}
    if absolute:  # as an earlier version wrote it
        content["callbacks"] = _absolute(content["callbacks"], absolute)
    torch.save(content, path)


def _absolute(node: Any, folder: str) -> Any:
    if isinstance(node, dict):
        return {_absolute(key, folder): _absolute(value, folder) for key, value in node.items()}
    return node.replace("${run_dir}", folder) if isinstance(node, str) else node


def test_a_folder_of_an_earlier_version_keeps_its_best_checkpoint_too(
    tiny_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(4)))
    _improve(tmp_path / "run/checkpoints/last.ckpt", "/gone/runs/x")
    before = (tmp_path / "run/checkpoints/best.ckpt").read_bytes()
    train(tiny_config("test=false", "auto_resume=true"))
    assert (tmp_path / "run/checkpoints/best.ckpt").read_bytes() == before


def test_another_run_that_begins_from_a_checkpoint_has_a_best_of_its_own(
    tiny_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(4)))
    _improve(tmp_path / "run/checkpoints/last.ckpt")
    before = contents(tmp_path / "run")
    start = tmp_path / "run/checkpoints/last.ckpt"
    train(tiny_config("test=false", f"checkpoint={start}", f"run_dir={tmp_path / 'other'}"))
    assert contents(tmp_path / "run") == before
    assert (tmp_path / "other/checkpoints/best.ckpt").is_file()


def test_a_checkpoint_removes_no_file_outside_of_its_run(tiny_config: Config, tmp_path: Path) -> None:
    """A stranger's run folder: Lightning deletes what stands in it as the best so far."""
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(4)))
    (tmp_path / "thesis.ckpt").write_text("years of work")
    path = tmp_path / "run/checkpoints/last.ckpt"
    content = torch.load(path, weights_only=False)
    for state in content["callbacks"].values():
        if "dirpath" in state:
            bad, score = str(tmp_path / "thesis.ckpt"), torch.tensor(-99.0)
            state |= {"kth_best_model_path": bad, "kth_value": score, "best_k_models": {bad: score}}
    torch.save(content, path)
    train(tiny_config("test=false", "auto_resume=true"))
    assert (tmp_path / "thesis.ckpt").read_text() == "years of work"


def test_a_run_that_has_ended_before_its_checkpoint_gives_way_to_itself_alone(
    tiny_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(2)))
    before = contents(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"holds another run: its backbone\.width is 8, this run's is 16; choose"
    ):
        train(tiny_config("auto_resume=true", "backbone.width=16"))
    assert contents(tmp_path / "run") == before
    (tmp_path / "run/config.yaml").write_text("a: [")
    with pytest.raises(
        UserError, match=r"config\.yaml: cannot be read as YAML .*choose another run_dir, or set"
    ):
        train(tiny_config("auto_resume=true"))
    (tmp_path / "run/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"not a run's: thesis\.tex"):
        train(tiny_config("auto_resume=true", "overwrite=true", "backbone.width=16"))
    (tmp_path / "run/thesis.tex").unlink()
    train(tiny_config("test=false", "auto_resume=true", "overwrite=true", "backbone.width=16"))
    assert status(tmp_path / "run")["status"] == "finished"


def test_a_run_from_before_some_settings_goes_on_with_their_defaults(
    tiny_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(4)))
    path = tmp_path / "run/checkpoints/last.ckpt"
    content = torch.load(path, weights_only=False)
    record = content["clipfuse"]["config"]
    for group, key in (("loss", "ssim_weight"), ("loss", "difference_weight"), ("data", "scenes")):
        del record[group][key]
    for key in ("solver", "ema", "skip_nonfinite", "input_noise", "tuning", "threads", "started_in"):
        del record[key]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"its skip_nonfinite is 0, this run's is 3"):
        train(tiny_config("test=false", "auto_resume=true", "skip_nonfinite=3"))
    with pytest.raises(UserError, match=r"its loss\.ssim_weight is 0\.0, this run's is 0\.5"):
        train(tiny_config("test=false", "auto_resume=true", "loss.ssim_weight=0.5"))
    train(tiny_config("test=false", "auto_resume=true"))
    assert read_checkpoint(path)["global_step"] == 6


@pytest.mark.filterwarnings("ignore:this CLIP has never seen")
def test_a_run_of_an_earlier_edition_of_micro_goes_on_by_it_alone(
    tiny_config: Config, tmp_path: Path
) -> None:
    """A run from before the second edition has recorded `micro`, version 1: today this is `clip=micro_1`."""
    words = ["test=false", "loss=clip_ratio"]
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("clip=micro_1", *words, break_after(4)))
    path = tmp_path / "run/checkpoints/last.ckpt"
    content = torch.load(path, weights_only=False)
    record = content["clipfuse"]["config"]
    assert (record["clip_identity"]["version"], record["clip_identity"].pop("pretrained")) == (1, "micro_1")
    assert record["clip"].pop("pretrained") == "micro_1"
    record["clip_identity"]["pretrained"] = None
    torch.save(content, path)
    before = contents(tmp_path / "run")
    with pytest.raises(
        UserError,
        match=r"its clip\.pretrained is 'micro_1', this run's is None \(add clip=micro_1\); a resumed",
    ):
        train(tiny_config("auto_resume=true", *words))
    assert contents(tmp_path / "run") == before
    train(tiny_config("clip=micro_1", "auto_resume=true", *words))
    assert read_checkpoint(path)["global_step"] == 6


def test_other_conditions_of_a_run_that_goes_on_are_named(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(4)))
    path = tmp_path / "run/checkpoints/last.ckpt"
    content = torch.load(path, weights_only=False)
    assert content["clipfuse"]["config"]["threads"] == torch.get_num_threads()
    content["clipfuse"]["config"]["threads"] = 64
    torch.save(content, path)
    train(tiny_config("test=false", "auto_resume=true"))
    line = f"last digits may differ: threads 64 -> {torch.get_num_threads()}"
    assert line in caplog.text
    assert line in (tmp_path / "run/notes/settings.txt").read_text()


def test_a_run_folder_in_use_is_refused_whatever_is_asked(tiny_config: Config, tmp_path: Path) -> None:
    train(tiny_config("test=false"))
    with owned(tmp_path / "run"):
        before = contents(tmp_path / "run")
        for words in ([], ["overwrite=true"], ["auto_resume=true"], ["checkpoint=last"]):
            with pytest.raises(UserError, match=r"run is in use by process \d+ on .* since 20"):
                train(tiny_config("test=false", *words))
        assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("options", [(), ("ema=0.7",)], ids=["plain", "averaged"])
def test_a_run_that_died_in_its_test_is_tested(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    options = (*options, "objective=val/loss/total", "auto_resume=true")
    objective = train(tiny_config(*options, f"run_dir={tmp_path / 'straight'}"))

    def die(*_: Any) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(FusionModule, "test_step", die)
        with pytest.raises(RuntimeError, match="power cut"):
            train(tiny_config(*options))
    assert train(tiny_config(*options)) == objective
    for name in ("test/metrics.json", "test/per_image.csv", "metrics.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    ends = [status(tmp_path / name) for name in ("run", "straight")]
    assert [end.pop("fit")["updates"] for end in ends] == [0, 6]  # the cost of this part alone
    assert ends[0] == ends[1]


class _Draws(FusionLoss):
    """Draws from the global generators, as a user's loss may."""

    def forward(self, inputs: LossInputs) -> LossOutput:
        weight = random.random() + np.random.rand() + float(torch.rand(()))
        return LossOutput(weight * (inputs.fused - inputs.infrared).abs().mean(), {})


def test_the_global_generators_go_on(tiny_config: Config, tmp_path: Path) -> None:
    found = []
    for name, stops in {"straight": [], "broken": [break_after(4)]}.items():
        for option in ([stop] for stop in [*stops, "auto_resume=true"]):
            config = tiny_config("test=false", f"run_dir={tmp_path / name}", *option)
            config.loss = {"_target_": f"{__name__}._Draws"}
            if option == ["auto_resume=true"]:
                train(config)
            else:
                with pytest.raises(RuntimeError, match="power cut"):
                    train(config)
        found.append((tmp_path / name / "metrics.csv").read_text())
    assert found[0] == found[1]


def test_auto_resume_needs_what_writes_the_checkpoint(tiny_config: Config) -> None:
    with pytest.raises(UserError, match=r"auto_resume=true needs the checkpoint that callbacks\.last writes"):
        train(tiny_config("auto_resume=true", "callbacks.last=null"))


def test_the_checkpoint_of_a_resume_is_read_once(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("test=false", break_after(4)))
    read = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: read.append(a) or load(*a, **k))
    written = []
    save = CheckpointFiles.save_checkpoint

    def counted(self: CheckpointFiles, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        written.append(str(path))
        save(self, checkpoint, path)

    monkeypatch.setattr(CheckpointFiles, "save_checkpoint", counted)
    train(tiny_config("test=false", "auto_resume=true"))
    assert len(read) == 1
    assert len([path for path in written if path.endswith("last.ckpt")]) == 1


def test_a_file_of_weights_may_not_change_on_the_way() -> None:
    from clipfuse.runs.resume import _difference

    one, other = ({"loss": {"weights": "a.pt"}, "loss_files": {"weights": each}} for each in "12")
    assert _difference(one, other) == "loss_files.weights is '1', this run's is '2'"
    assert not _difference({"loss": {"weights": "a.pt"}}, other)  # a run of an earlier version goes on
