"""What a record and a started process get: all resolved, but no value of the environment."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from clipfuse.runs.composed import plain, read_composed, resolved, write_composed
from clipfuse.runs.resume import _difference

CONFIG = """
seed: 3
rate: 1.0e-05
switch: "off"
when: ${clock:}
text: ${oc.env:CLIPFUSE_TEST_SECRET}
mixed: runs/${oc.env:CLIPFUSE_TEST_SECRET}-${seed}
through: ${text}
node: ${sub}
sub: {1: "${oc.env:CLIPFUSE_TEST_SECRET}", list: ["${text}", null, 1.5]}
number: ${oc.decode:${oc.env:CLIPFUSE_TEST_NUMBER}}
shout: ${upper:${text}}
default: ${oc.env:CLIPFUSE_TEST_ABSENT,none}
other: ${oc.select:text}
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CLIPFUSE_TEST_SECRET", "hunter2")
    monkeypatch.setenv("CLIPFUSE_TEST_NUMBER", "5")
    OmegaConf.register_new_resolver("clock", lambda: datetime.now().isoformat(), use_cache=True)
    OmegaConf.register_new_resolver("upper", lambda text: text.upper())
    yield
    OmegaConf.clear_resolver("clock")
    OmegaConf.clear_resolver("upper")


def test_the_environment_stays_unresolved_and_all_else_is_resolved() -> None:
    config = OmegaConf.create(CONFIG)
    now = config.when
    secret = "${oc.env:CLIPFUSE_TEST_SECRET}"
    assert plain(config) == {
        **{"seed": 3, "rate": 1e-5, "switch": "off", "when": now, "text": secret, "through": secret},
        "mixed": f"runs/{secret}-3",
        "node": {1: secret, "list": [secret, None, 1.5]},
        "sub": {1: secret, "list": [secret, None, 1.5]},
        "number": "${oc.decode:${oc.env:CLIPFUSE_TEST_NUMBER}}",
        "shout": "${upper:${text}}",
        "default": "${oc.env:CLIPFUSE_TEST_ABSENT,none}",
        "other": secret,
    }
    assert (config.text, config.number) == ("hunter2", 5)  # in memory it is what it was


def test_another_process_reads_the_same_settings(tmp_path: Path) -> None:
    config = OmegaConf.create(CONFIG)
    before = OmegaConf.to_container(config, resolve=True)
    write_composed(tmp_path / "job.yaml", "train", config, {"mode": "MULTIRUN", "run": {"dir": "${x}"}})
    assert "hunter2" not in (tmp_path / "job.yaml").read_text().lower()
    job = read_composed(tmp_path / "job.yaml")
    assert OmegaConf.to_container(job.config, resolve=True) == before
    assert (job.name, job.hydra) == ("train", {"mode": "MULTIRUN", "run": {"dir": "${x}"}})


@pytest.mark.parametrize("content", [None, "", "[1, 2]", "name: x", "name: x\nconfig: 1\nhydra: {}", "{"])
def test_a_file_that_is_something_else(
    tmp_path: Path, content: str | None, user_error: Callable[..., str]
) -> None:
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_text(content)
    line = user_error(read_composed, path)
    assert line.startswith(f"{path}: ")
    assert line.endswith("start the run anew by its own command")


def test_a_run_goes_on_whose_older_record_resolved_the_environment() -> None:
    asked = {"loss": {"text": "a ${oc.env:CLIPFUSE_TEST_SECRET}"}, "split_of": "x"}
    assert not _difference({"loss": {"text": "a hunter2"}, "split_of": "x"}, asked)
    line = _difference({"loss": {"text": "a hunter3"}, "split_of": "x"}, asked)
    assert "this run's is 'a ${oc.env:CLIPFUSE_TEST_SECRET}'" in line
    assert resolved("${oc.env:CLIPFUSE_TEST_ABSENT}") is None
