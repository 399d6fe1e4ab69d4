"""Texts with commas, quotes, umlauts and line breaks go through a sweep as they were written."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from clipfuse.cli.config import conf_dir
from clipfuse.cli.repeat import command_line
from clipfuse.files import write_json
from clipfuse.runs.composed import read_composed
from clipfuse.runs.folder import LOG, STATUS
from clipfuse.runs.overrides import quoted
from hydra_plugins.clipfuse_launcher._jobs import Job
from hydra_plugins.clipfuse_launcher._sweep import readable

Clipfuse = Callable[..., tuple[int, str, str]]
TEXTS = ["sharp, bright", "wärmer: a=b, [c] {d} 100 %", 'it\'s "clear"\nin two lines', "null", "a, 'b' \\"]
BASE = ["loss=clip_ratio", "hydra.sweep.dir=s"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Job]:
    """Work in an empty folder, with jobs that end at once; those that were started."""
    jobs: list[Job] = []

    def start(job: Job, *_: object) -> None:
        job.started = 0.0
        job.folder.mkdir(parents=True)
        (job.folder / LOG).touch()
        write_json(job.folder / STATUS, {"status": "finished"})
        jobs.append(job)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "start", start)
    monkeypatch.setattr(Job, "is_alive", lambda job: False)
    monkeypatch.setattr(Job, "close", lambda job: "")
    return jobs


def test_texts_are_swept(clipfuse: Clipfuse, started: list[Job]) -> None:
    texts, swept = TEXTS, f"loss.positive={','.join(map(quoted, TEXTS))}"
    code, output, errors = clipfuse("train", "-m", *BASE, swept)
    assert code == 0, errors
    assert [read_composed(job.file).config.loss.positive for job in started] == texts
    lines = [line for line in output.splitlines() if line.startswith("  job ")]
    assert len(lines) == 2 * len(texts)  # start and end of each: a line break of a text is none on the screen
    assert all("loss.positive=" in line for line in lines)
    jobs = yaml.safe_load(Path("s/sweep.yaml").read_text(encoding="utf-8"))["jobs"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert [compose("train", jobs[n]).loss.positive for n in range(len(texts))] == texts
    code, output, errors = clipfuse("train", "-m", "sweep.resume=s")
    assert (code, len(started)) == (0, len(texts)), errors
    assert output.count("done before") == len(texts)


def test_a_run_is_repeated_with_its_text() -> None:
    for text in TEXTS:
        words = ["loss=clip_ratio", f"loss.positive={quoted(text)}", "run_dir=run", "name=x"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", words, return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            line = command_line("train", config)
            (again,) = [word for word in shlex.split(line) if word.startswith("loss.positive=")]
            assert compose("train", ["loss=clip_ratio", again]).loss.positive == text


def test_what_can_be_read_is_left_as_it_is() -> None:
    for word in (
        "loss.weight=1",
        "loss.text='a, b'",
        r"loss.text=a\,\ b",
        "+loss.parts={a:1}",
        "~callbacks.x",
    ):
        assert readable(word) == word
    # As Optuna's sweeper writes choice('ä, b').
    assert readable("loss.text=ä\\,\\ b") == "loss.text='ä, b'"


def test_a_text_without_its_quotes_is_refused(clipfuse: Clipfuse, started: list[Job]) -> None:
    code, _, errors = clipfuse("train", "-m", *BASE, "loss.positive=wärmer,kälter")
    assert code == 2
    assert "quote such a value twice" in errors
    assert not started
