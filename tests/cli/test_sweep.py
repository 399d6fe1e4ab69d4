"""`clipfuse train -m`: one fresh process per job, some of them failing, waiting or being stopped.

Most jobs here are stand-ins that start in milliseconds; what they do is said by their seed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfuse.cli.config import conf_dir
from clipfuse.errors import UserError
from clipfuse.runs.folder import is_running, read_status
from clipfuse.runs.owner import owned
from hydra_plugins.clipfuse_launcher import _jobs, cluster
from hydra_plugins.clipfuse_launcher._display import Display
from hydra_plugins.clipfuse_launcher.cluster import ClusterLauncher
from hydra_plugins.clipfuse_launcher.launcher import SubprocessLauncher

Clipfuse = Callable[..., tuple[int, str, str]]

STAND_IN = """
import json, os, pathlib, re, signal, sys, time
text = pathlib.Path(sys.argv[-1]).read_text()
value = lambda key: re.search(f"^  {key}: (.*)$", text, re.M)[1].strip("'")
folder, seed = pathlib.Path(value("run_dir")), int(value("seed"))
kept = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "MINE", "RANK", "WANDB_RUN_ID")}
words = dict(environment=kept, pid=os.getpid(), steps=value("steps"), auto_resume=value("auto_resume"))
words |= dict(cwd=os.getcwd(), root=value("name"))
def write(status, reason=None):
    content = dict(status=status, reason=reason, objective=seed / 10, **words)
    (folder / "partial").write_text(json.dumps(content))
    (folder / "partial").rename(folder / "status.json")
def stopped(number, frame):
    write("failed", "interrupted")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stopped)
signal.signal(signal.SIGINT, signal.SIG_IGN if seed == 9 else stopped)
write("running")
print("training:  50%|#####     | 3/6 [00:01<00:01]", flush=True)
if seed == 1 and not (folder.parent / "repaired").exists():
    sys.exit(3)
if seed == 2:
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 4:  # waits for a job that runs at the same time
    while not (folder.parent / "1/status.json").exists():
        time.sleep(0.01)
if seed >= 8:
    time.sleep(600)
write("finished")
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder, with jobs that start at once; returns that folder."""
    script = tmp_path / "job.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(_jobs, "command", lambda file: [sys.executable, "-S", str(script), str(file)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def statuses(sweep: Path) -> dict[int, dict[str, Any]]:
    found = {int(path.parent.name): json.loads(path.read_text()) for path in sweep.glob("*/status.json")}
    return dict(sorted(found.items()))


def objectives(sweep: Path) -> list[object]:
    return [status["objective"] for status in statuses(sweep).values()]


def devices(status: dict[str, Any]) -> object:
    return status["environment"]["CUDA_VISIBLE_DEVICES"]


def is_alive(pid: int) -> bool:
    return is_running({"status": "running", "host": os.uname().nodename, "pid": pid})


def test_a_failing_job_does_not_stop_the_others(
    clipfuse: Clipfuse, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real jobs; the failed one and one that was lost are run again."""
    monkeypatch.chdir(tmp_path)
    # As a rank of somebody's distributed run; the jobs must not take it for theirs.
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    common = [f"data.root={pairs_folder}", "data=folder", "trainer=cpu", "steps=2", "validate_every=1"]
    common += ["loader.crop_size=32", "backbone=conv_tiny", "backbone.width=4", "backbone.depth=0"]
    # In batches of one job, as a searching sweeper asks for them; the folder's name needs quoting.
    words = [*common, "test=false", "loss.gradient_weight=-1,5", "hydra.sweeper.max_batch_size=1"]
    words += ['hydra.sweep.dir="it\'s a=sweep"']
    sweep = Path("it's a=sweep")
    code, output, errors = clipfuse("train", "-m", *words)
    assert code == 2
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"clipfuse: error: 1 of 2 jobs failed; see {sweep}/0/log.txt")
    assert re.search(r"FAILED \(exit code 2\): loss: .*gradient_weight is -1", output)
    reason = json.loads((sweep / "0/status.json").read_text())["reason"]
    assert re.match("exit code 2: loss: .*gradient_weight is -1", reason)
    assert f"in {sweep}/1 (loss.gradient_weight=5)" in output
    assert "best val/metric/SSIM: " in output
    assert "... done in" in output
    jobs = OmegaConf.load(sweep / "sweep.yaml").jobs
    assert [list(jobs[number])[-1] for number in (0, 1)] == [
        "loss.gradient_weight=-1",
        "loss.gradient_weight=5",
    ]
    failed, finished = (json.loads((sweep / f"{number}/status.json").read_text()) for number in (0, 1))
    assert failed["status"] == "failed"
    assert "gradient_weight is -1" in (sweep / "0/log.txt").read_text()
    assert finished["status"] == "finished"
    assert OmegaConf.load(sweep / "1/config.yaml").loss.gradient_weight == 5
    assert (sweep / "1/checkpoints/last.ckpt").is_file()
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    code, _, errors = clipfuse("train", "-m", *words)
    assert code == 2
    assert "holds an earlier sweep; choose another folder" in errors
    assert before == {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}


def test_a_search_is_a_sweep(clipfuse: Clipfuse, stand_in: Path) -> None:
    """It would train one job with the defaults of what is searched."""
    Path("mine/sweep").mkdir(parents=True)
    Path("mine/sweep/seeds.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {seed: '0,3'}}}\n"
    )
    words = ["train", "sweep=seeds", "--config-dir", "mine"]
    code, _, errors = clipfuse(*words)
    assert (code, "sweep=seeds is for several jobs: clipfuse train -m sweep=seeds" in errors) == (2, True)
    assert clipfuse(*words, "-m", "hydra.sweep.dir=s")[0] == 0
    assert len(statuses(Path("s"))) == 2


def test_a_sweep_makes_its_own_run_folders(clipfuse: Clipfuse) -> None:
    code, _, errors = clipfuse("train", "-m", "seed=0,1", "run_dir=mine")
    assert code == 2
    assert "instead of run_dir=X give hydra.sweep.dir=X" in errors


def test_a_resumed_sweep_runs_what_is_missing_or_failed(clipfuse: Clipfuse, stand_in: Path) -> None:
    sweep = Path("my sweep")
    code, output, errors = clipfuse("train", "-m", "seed=0,1,2,3", "steps=7", f"hydra.sweep.dir={sweep}")
    assert code == 2
    assert "job 2: seed=2 ... FAILED (killed by SIGKILL)" in output
    assert errors.strip().endswith("run them again by: clipfuse train -m 'sweep.resume=my sweep'")
    found = statuses(sweep)
    assert [found[number]["status"] for number in range(4)] == ["finished", "failed", "failed", "finished"]
    assert found[2]["reason"] == "killed by SIGKILL, see log.txt"
    # Job 1 got so far as to have a checkpoint; 2 was lost with the launcher; 3 was never started.
    (sweep / "1/checkpoints").mkdir()
    (sweep / "1/checkpoints/last.ckpt").touch()
    ended = subprocess.Popen(["true"])
    ended.wait()
    lost = {"status": "running", "reason": None, "pid": ended.pid, "host": os.uname().nodename}
    (sweep / "2/status.json").write_text(json.dumps(lost))
    for file in (sweep / "3").iterdir():
        file.unlink()
    (sweep / "3").rmdir()
    (sweep / "repaired").touch()
    first = (sweep / "0/status.json").read_bytes()
    code, output, _ = clipfuse("train", f"sweep.resume={sweep}", "hydra.launcher.max_parallel=3")
    assert code == 2  # job 2 kills itself again
    assert "job 0: seed=0 ... done before" in output
    assert (sweep / "0/status.json").read_bytes() == first
    found = statuses(sweep)
    assert [found[number]["status"] for number in range(4)] == ["finished", "finished", "failed", "finished"]
    assert [found[number]["auto_resume"] for number in (1, 3)] == ["true", "false"]
    assert found[3]["steps"] == "7"
    record = OmegaConf.load(sweep / "sweep.yaml")
    assert [list(record.jobs[number]) for number in range(4)] == [
        [f"seed={number}", "steps=7"] for number in range(4)
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.resume=absent"], "there is no absent/sweep.yaml; expected the folder of a sweep"),
        (
            ["sweep.resume=done", "seed=0,1"],
            "seed=0,1 is not among those in done/sweep.yaml",
        ),
        (["sweep.resume=old"], "old/sweep.yaml does not hold the words of its command"),
        (["sweep.resume=other"], "job 0 of other was seed=5; now it would be seed=0"),
        (["sweep.resume=busy"], "the job in busy/0 is running (process "),
        (
            ["-m", "seed=0", "hydra.launcher.max_parallel=0"],
            "max_parallel is 0; expected a whole number, at least 1",
        ),
        (
            ["-m", "seed=0", "hydra.launcher.gpus_per_job=yes"],
            "gpus_per_job is 'yes'; expected a whole number, at least 0",
        ),
        (["-m", "seed=0", "hydra.launcher.max_jobs=2"], "unknown key 'hydra.launcher.max_jobs'"),
    ],
)
def test_what_a_sweep_refuses(clipfuse: Clipfuse, stand_in: Path, words: list[str], message: str) -> None:
    for name, job in {"done": "seed=0", "other": "seed=5", "busy": "seed=0"}.items():
        Path(name).mkdir()
        Path(name, "sweep.yaml").write_text(f"words: [seed=0]\njobs: {{0: [{job}]}}\n")
    Path("old").mkdir()
    Path("old/sweep.yaml").write_text("jobs: {0: [seed=0]}\n")
    Path("busy/0").mkdir()
    running = {"status": "running", "reason": None, "pid": os.getpid(), "host": os.uname().nodename}
    Path("busy/0/status.json").write_text(json.dumps(running))
    code, _, errors = clipfuse("train", *words, *(["hydra.sweep.dir=new"] if words[0] == "-m" else []))
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert not Path("new").exists()


def test_a_sweep_folder_has_one_owner(clipfuse: Clipfuse, stand_in: Path) -> None:
    """Of a sweep or a study that goes on, too; the second one writes nothing."""
    assert clipfuse("train", "-m", "seed=0,1", "hydra.sweep.dir=s")[0] == 2  # of which one is to be run again
    before = {path: path.read_bytes() for path in Path("s").rglob("*") if path.is_file()}
    with owned(Path("s"), kind="sweep"):
        for words in (["-m", "seed=0,1", "hydra.sweep.dir=s"], ["sweep.resume=s"]):
            code, _, errors = clipfuse("train", *words)
            assert code == 2
            assert (
                f"the sweep folder s is in use by process {os.getpid()} on {os.uname().nodename} since"
                in errors
            )
    assert before == {path: path.read_bytes() for path in Path("s").rglob("*") if path.is_file()}


def test_sweeps_of_one_second_get_folders_of_their_own(
    clipfuse: Clipfuse, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Stopped":
            return cls(2026, 1, 1)

    monkeypatch.setattr("hydra.core.utils.datetime", Stopped)
    for _ in range(3):
        assert clipfuse("train", "-m", "seed=0")[0] == 0
    names = [f"2026-01-01_00-00-00{end}" for end in ("", "-2", "-3")]
    assert sorted(os.listdir("runs/sweeps")) == names
    assert [objectives(Path("runs/sweeps", name)) for name in names] == [[0.0]] * 3


def test_a_sweep_does_not_begin_among_other_files(clipfuse: Clipfuse, stand_in: Path) -> None:
    Path("s/photos").mkdir(parents=True)
    code, _, errors = clipfuse("train", "-m", "seed=0", "hydra.sweep.dir=s")
    assert code == 2
    assert (
        "the sweep folder s holds what no sweep writes: photos; choose another by hydra.sweep.dir=X" in errors
    )
    assert os.listdir("s") == ["photos"]


@pytest.mark.parametrize("status", ["", '{"status": "fin', "[1, 2]", "\x00", '{"status": 7}'])
def test_a_spoiled_status_stops_no_sweep(clipfuse: Clipfuse, stand_in: Path, status: str) -> None:
    assert clipfuse("train", "-m", "seed=0,3", "hydra.sweep.dir=s")[0] == 0
    Path("s/1/status.json").write_text(status)
    code, output, _ = clipfuse("train", "sweep.resume=s")
    assert code == 2
    assert "job 0: seed=0 ... done before" in output
    assert "LEFT OUT: s/1/status.json: " in output
    assert Path("s/1/status.json").read_text() == status


def test_jobs_run_side_by_side(clipfuse: Clipfuse, stand_in: Path) -> None:
    """The first job waits for the second; one after the other they would never end."""
    code, output, _ = clipfuse(
        "train", "-m", "seed=4,0,3", "hydra.sweep.dir=s", "hydra.launcher.max_parallel=2"
    )
    assert code == 0
    assert objectives(Path("s")) == [0.4, 0.0, 0.3]
    assert output.index("job 1: seed=0 ... started") < output.index("job 0: seed=4 ... done")


def test_each_slot_has_its_own_devices(
    clipfuse: Clipfuse, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,GPU-7,8")
    words = ["-m", "hydra.sweep.dir=s", "hydra.launcher.gpus_per_job=2"]
    code, _, _ = clipfuse("train", *words, "seed=4,0,3,5", "hydra.launcher.max_parallel=2")
    assert code == 0
    found = [devices(status) for status in statuses(Path("s")).values()]
    assert found[:2] == ["4,5", "6,GPU-7"]
    assert set(found) == {"4,5", "6,GPU-7"}
    code, _, errors = clipfuse("train", *words, "seed=0,1", "hydra.launcher.max_parallel=3")
    assert code == 2
    assert "need 6 GPUs; there are 5 in CUDA_VISIBLE_DEVICES=4,5,6,GPU-7,8" in errors


def test_without_a_number_of_devices_the_environment_stays(
    clipfuse: Clipfuse, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert clipfuse("train", "-m", "seed=0", "hydra.sweep.dir=s")[0] == 0
    assert devices(statuses(Path("s"))[0]) == "2,3"


@pytest.fixture
def sender() -> Iterator[Callable[[Path, int], None]]:
    """Send this process a signal as soon as a job runs."""
    threads = []

    def send(status: Path, number: int) -> None:
        def wait() -> None:
            while not status.exists() or b"running" not in status.read_bytes():
                time.sleep(0.01)
            os.kill(os.getpid(), number)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()

    yield send
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_the_jobs_and_they_close_their_runs(
    clipfuse: Clipfuse, stand_in: Path, sender: Callable[[Path, int], None], number: int, code: int
) -> None:
    sweep = Path("s")
    words = ("train", "-m", "seed=0,8,18,3", "hydra.sweep.dir=s", "hydra.launcher.max_parallel=2")
    sender(sweep / "2/status.json", number)
    before = signal.getsignal(signal.SIGTERM)
    if number == signal.SIGINT:
        assert clipfuse(*words)[0] == code
    else:
        with pytest.raises(SystemExit) as stop:
            clipfuse(*words)
        assert stop.value.code == code
    assert signal.getsignal(signal.SIGTERM) == before
    found = statuses(sweep)
    assert [status["status"] for status in found.values()] == ["finished", "failed", "failed"]
    assert found[2]["reason"] == "interrupted"
    assert not any(is_alive(int(str(status["pid"]))) for status in found.values())


def test_a_job_that_does_not_stop_is_killed(
    clipfuse: Clipfuse, stand_in: Path, sender: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_jobs, "GRACE", 0.1)
    sender(Path("s/0/status.json"), signal.SIGINT)
    code, _, errors = clipfuse("train", "-m", "seed=9", "hydra.sweep.dir=s")
    assert code == 130
    assert "Traceback" not in errors
    assert statuses(Path("s"))[0]["status"] == "failed"
    assert statuses(Path("s"))[0]["reason"] == "killed by SIGKILL, see log.txt"


@pytest.mark.skipif(sys.platform != "linux", reason="by a service of Linux")
def test_no_job_is_left_when_the_launcher_is_killed(stand_in: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hydra_plugins.clipfuse_launcher import _jobs\n"
        "_jobs.command = lambda file: [sys.executable, '-S', 'job.py', str(file)]\n"
        "job = _jobs.Job(0, Path('file'), Path('s/0'))\n"
        "with _jobs.supervised([job]):\n    job.start()\n    job.close()"
    )
    Path("file").write_text("  seed: 8\n  run_dir: s/0\n  steps: 1\n  auto_resume: false\n  name: x\n")
    launcher = subprocess.Popen([sys.executable, "-c", code])
    while not statuses(Path("s")):
        time.sleep(0.02)
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 60
    while statuses(Path("s"))[0]["status"] != "failed" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert statuses(Path("s"))[0]["reason"] == "interrupted"


def test_a_terminal_shows_one_line_per_running_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Redrawn in place, and gone when the job has ended."""
    jobs = [_jobs.Job(number, tmp_path, tmp_path / str(number), f"seed={number}") for number in range(2)]
    for job in jobs:
        job.folder.mkdir()
        (job.folder / "log.txt").touch()
    display = Display(live=True)
    for job in jobs:
        display.start(job)
    (tmp_path / "1/log.txt").write_text("training:   0%|    | 0/6\rtraining:  50%|██  | 3/6 [00:01<00:01]")
    display.update(jobs[1])
    display.end(jobs[0], "FAILED (exit code 2)")
    display.close()
    shown = capsys.readouterr().out
    assert "job 0: seed=0 ... starting [00:00]" in shown
    assert "job 1: seed=1 ... training 3/6 [00:00]" in shown
    assert "  job 0: seed=0 ... FAILED (exit code 2)\n" in shown
    assert "\x1b[A" in shown  # back up to the line of the first job


SEARCH = ["sweep=optuna", "hydra.sweeper.n_trials=2", "seed=choice(0,3)", "hydra.sweep.dir=s"]


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["objective=test/SSIM"],
            "this search would select by test/SSIM, and the test images would then measure",
        ),
        (
            ["objective=test/SSIM", "test=false", "objective_on_test=true"],
            "test=false computes no scores on the",
        ),
        (["objective=val/SSIM"], "Did you mean 'val/metric/SSIM'? Known are val/metric/"),
        (
            ["objective=val/metric/SSIM", "metrics.validation=[EN]"],
            "objective is val/metric/SSIM, which nothing",
        ),
    ],
)
def test_a_search_has_its_objective_before_any_job(
    clipfuse: Clipfuse, stand_in: Path, words: list[str], message: str
) -> None:
    code, _, errors = clipfuse("train", "-m", *SEARCH, *words)
    assert code == 2
    assert message in errors.strip().splitlines()[-1]
    assert not Path("s").exists()


@pytest.mark.reliability
def test_a_search_on_test_scores_that_was_asked_for_twice(clipfuse: Clipfuse, stand_in: Path) -> None:
    assert clipfuse("train", "-m", *SEARCH, "objective=test/SSIM", "objective_on_test=true")[0] == 0
    assert len(statuses(Path("s"))) == 2


@pytest.mark.reliability
def test_a_search_passes_over_failed_trials(clipfuse: Clipfuse, stand_in: Path) -> None:
    words = ("sweep=optuna", "hydra.sweeper.n_trials=6", "seed=choice(0,1,3)", "hydra.sweep.dir=s")
    code, _, errors = clipfuse("train", "-m", *words)
    assert code == 2
    assert "of 6 jobs failed" in errors
    assert {status["status"] for status in statuses(Path("s")).values()} == {"failed", "finished"}
    found = OmegaConf.load("s/optimization_results.yaml")
    assert (found.best_value, found.best_params.seed) == (0.3, 3)


LOSS = "_target_: clipfuse.losses.pixel.PixelLoss\nssim_weight: 0.25\n"


def job(sweep: str, number: int) -> Any:
    """The configuration from which a job was started."""
    return OmegaConf.load(Path(sweep, ".jobs", f"{number}.yaml")).config


@pytest.mark.parametrize(
    "options",
    [
        ["--config-dir", "mine", "loss=theirs"],
        ["loss=theirs", "hydra.searchpath=[file://mine]"],
        ["--config-dir=mine", "--config-name=other"],
        ["--config-path", "{here}/whole", "--config-name", "all"],
        ["experiment=theirs", "hydra.searchpath=[mine]"],
        ["loss=weighted_sum", "+loss.parts={theirs:1}", "--config-dir", "mine"],
    ],
)
def test_jobs_get_what_was_composed_here(clipfuse: Clipfuse, stand_in: Path, options: list[str]) -> None:
    for name in ("mine/loss/theirs", "mine/experiment/theirs", "mine/other", "whole/all"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path("mine/loss/theirs.yaml").write_text(LOSS)
    Path("mine/experiment/theirs.yaml").write_text(
        "# @package _global_\ndefaults: [override /loss: theirs]\n"
    )
    Path("mine/other.yaml").write_text("defaults: [train, override loss: theirs, _self_]\n")
    whole = OmegaConf.create({"seed": 0, "steps": 1, "name": "whole", "run_dir": "runs/x", "loss": {}})
    whole.loss = OmegaConf.create(LOSS)
    defaults = {"defaults": ["_self_", {"override hydra/launcher": "clipfuse"}]}
    OmegaConf.save({**defaults, **whole}, "whole/all.yaml")
    if "whole" in str(options):
        shutil.copytree(conf_dir() / "hydra", "whole/hydra")
    words = [word.format(here=stand_in) if "{here}" in word else word for word in options]
    code, _, errors = clipfuse("train", "seed=0,3", "-m", *words, "hydra.sweep.dir=s")
    assert code == 0, errors
    for number, seed in enumerate((0, 3)):
        loss = job("s", number).loss
        assert (
            loss.get("of", {"theirs": loss}).theirs.ssim_weight == 0.25 if "of" in loss else loss.ssim_weight
        )
        assert (job("s", number).seed, job("s", number).run_dir) == (seed, f"s/{number}")


EXPERIMENT = """# @package _global_
hydra:
  mode: MULTIRUN
  sweeper: {params: {seed: "0,1"}}
  sweep: {dir: s, subdir: "${loss.ssim_weight}-${hydra:runtime.choices.loss}-${hydra.job.num}"}
  job: {env_set: {MINE: "${oc.env:CLIPFUSE_TEST_SECRET}"}}
loss: {ssim_weight: 0.5}
"""


def test_an_experiment_that_is_a_sweep(
    clipfuse: Clipfuse, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mode makes no sweep of each job; its exit code tells of the failed one; nothing of it is lost."""
    monkeypatch.setenv("CLIPFUSE_TEST_SECRET", "hunter2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/sweep.yaml").write_text(EXPERIMENT)
    words = ["train", "experiment=sweep", "hydra.searchpath=[file://mine]"]
    code, output, errors = clipfuse(*words)
    assert code == 2
    assert "1 of 2 jobs failed; see s/0.5-pixel-1/log.txt" in errors
    status = read_status(Path("s/0.5-pixel-0"))
    kept = {"MINE": "hunter2", "RANK": None, "WANDB_RUN_ID": None}
    assert {name: status["environment"][name] for name in kept} == kept
    assert sorted(path.name for path in Path("s").iterdir() if path.is_dir()) == [
        *(".jobs", "0.5-pixel-0", "0.5-pixel-1")
    ]
    secrets = [path for path in Path().rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert secrets == [Path("s/0.5-pixel-0/status.json")]  # where the stand-in put its environment
    Path("s/repaired").touch()
    code, output, _ = clipfuse("train", "sweep.resume=s")
    assert code == 0
    assert "job 0: seed=0 ... done before" in output
    assert read_status(Path("s/0.5-pixel-1"))["status"] == "finished"
    code, _, errors = clipfuse(*words, "run_dir=mine", "hydra.sweep.dir=t")
    assert "instead of run_dir=X give hydra.sweep.dir=X" in errors
    code, _, errors = clipfuse(*words, "hydra.sweep={dir: t, subdir: same}")
    assert (code, "hydra.sweep.subdir gives several jobs the folder t/same" in errors) == (2, True)
    assert not Path("t").exists()


def test_a_launcher_of_an_experiment_is_honoured(
    clipfuse: Clipfuse, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine/experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [override /hydra/launcher: submitit_local]\n"
    Path("mine/experiment/cluster.yaml").write_text(text)
    asked: list[str] = []

    def gone(name: str) -> None:
        asked.append(name)
        raise ImportError

    monkeypatch.setattr(cluster, "resolve_name", gone)
    words = ["-m", "experiment=cluster", "--config-dir", "mine", "seed=0,3", "hydra.sweep.dir=s"]
    code, _, errors = clipfuse("train", *words)
    assert (code, len(asked)) == (2, 1)
    assert "submitit_launcher.LocalLauncher is not there; install the extra 'sweep'" in errors
    assert clipfuse("train", *words, "hydra/launcher=clipfuse")[0] == 0  # a word goes before a file


def test_a_ray_cluster_that_refuses_is_named_and_so_is_the_mode_that_sends_a_token(
    clipfuse: Clipfuse, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def __init__(self, **_: object) -> None: ...
        def setup(self, **_: object) -> None: ...
        def launch(self, *_: object) -> None:
            raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6379")

        @staticmethod
        def shutdown() -> None: ...

    monkeypatch.setattr(cluster, "resolve_name", lambda name: Refusing)
    code, _, errors = clipfuse("train", "-m", "hydra/launcher=ray", "seed=0,3", "hydra.sweep.dir=s")
    assert code == 2
    assert "Refusing" not in errors
    assert "RayLauncher: Failed to connect to Ray cluster at 192.0.2.1:6379 (where its head has" in errors
    assert (
        "set RAY_AUTH_MODE=token here); run the missing jobs by: clipfuse train -m sweep.resume=s" in errors
    )


def test_a_sweep_resumed_from_elsewhere_takes_its_paths_from_where_it_was_started(
    clipfuse: Clipfuse, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clipfuse("train", "-m", "seed=1,3", "data.root=pairs", "data=folder", "hydra.sweep.dir=s")[0] == 2
    Path("s/repaired").touch()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    code, _, _ = clipfuse("train", "sweep.resume=../s")
    assert code == 0
    monkeypatch.chdir(stand_in)
    assert read_status(Path("s/0"))["cwd"] == str(stand_in)
    assert (job("s", 0).data.root, job("s", 0).auto_resume) == ("pairs", True)
    # Moved, it is started from what its words compose, with paths of the new place.
    shutil.move("s", "moved")
    (Path("moved/1") / "status.json").write_text('{"status": "failed", "reason": "x"}')
    assert clipfuse("train", "sweep.resume=moved")[0] == 0
    assert job("moved", 1).callbacks.best.dirpath == "moved/1/checkpoints"


@pytest.mark.parametrize("launcher", ["clipfuse", "ray", "submitit_slurm", "submitit_local"])
def test_the_launchers_compose(launcher: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert config.hydra.launcher._target_.startswith("hydra_plugins.clipfuse_launcher.")


def test_the_default_is_one_job_at_a_time() -> None:
    assert SubprocessLauncher().max_parallel == 1


def test_a_launcher_that_is_not_installed_is_named(tmp_path: Path) -> None:
    class Absent(ClusterLauncher):
        via = "hydra_plugins.absent.AbsentLauncher"

    config = OmegaConf.create(
        {"hydra": {"overrides": {"task": []}, "sweeper": {"_target_": "hydra._internal.x"}}}
    )
    config.hydra.sweep = {"dir": str(tmp_path / "s")}
    missing = r"absent.AbsentLauncher is not there; install the extra 'sweep'"
    with pytest.raises(UserError, match=missing), Absent.owner:
        Absent().setup(hydra_context=None, task_function=None, config=config)
    assert not (tmp_path / "s").exists()
