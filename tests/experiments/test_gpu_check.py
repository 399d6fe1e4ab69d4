"""The check for machines with a GPU, on a CPU: what it runs, keeps, does again, and that it can say no."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from experiments.gpu import agreement, check, computing, seeing, training
from experiments.gpu.case import Case, Machine, Part, relative, verdict
from experiments.gpu.meter import ClipClock, covered, idle_share
from torch.autograd import DeviceType

from clipfuse.clip.encoder import FrozenClip
from clipfuse.errors import UserError

CPU = torch.device("cpu")
Measure = Callable[[], Mapping[str, Any]]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(CPU, True, tmp_path)


def results(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "cpu-tiny.json").read_text())["parts"])


def part(**rows: Measure) -> Part:
    return Part("Why?", 9, lambda _: {"size": 1}, lambda _: [Case({"row": key}, rows[key]) for key in rows])


def run(out: Path, *names: str, again: bool = False, limit: float = 600) -> bool:
    return check.check(CPU, True, names, out, again, limit)


def test_a_part_that_has_finished_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "contourlet")
    found = results(tmp_path)["contourlet"]
    assert found["status"] == "finished"
    assert [row["pass"] for row in found["rows"]] == ["forward", "forward + backward"]
    assert all(row["ratio"] == row["contourlet_ms"] / row["fft_ms"] for row in found["rows"])
    assert found["settings"]["torch"] == torch.__version__.partition("+")[0]
    assert "| 1x1x32x32 | forward |" in (tmp_path / "cpu-tiny.md").read_text()

    monkeypatch.setattr(computing, "measure_contourlet", lambda *_: pytest.fail("measured again"))
    assert run(tmp_path, "contourlet")
    assert results(tmp_path)["contourlet"] == found
    assert "contourlet: finished" in capsys.readouterr().out
    monkeypatch.setitem(check.PARTS, "contourlet", part(new=lambda: {"figure": 1.0}))
    assert run(tmp_path, "contourlet", again=True)
    assert [row["row"] for row in results(tmp_path)["contourlet"]["rows"]] == ["new"]


def test_what_fails_stops_nothing_and_is_tried_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"good": 0, "bad": 0}

    def good() -> dict[str, Any]:
        counts["good"] += 1
        return {"figure": 1.5}

    def bad() -> dict[str, Any]:
        counts["bad"] += 1
        if counts["bad"] == 1:
            raise RuntimeError("first line\nCUDA out of | memory\n")
        return {"figure": 2.5}

    def broken(_: Machine) -> list[Case]:
        raise ValueError("no rows")

    monkeypatch.setattr(check, "PARTS", {
        "contourlet": part(bad=bad, good=good),
        "fuse": Part("?", 9, lambda _: {}, broken),
        "compile": part(last=lambda: {}),
    })  # fmt: skip
    assert not run(tmp_path, *check.PARTS)
    found = results(tmp_path)
    assert [found[name]["status"] for name in check.PARTS] == ["failed", "failed", "finished"]
    assert found["contourlet"]["error"] == "RuntimeError: CUDA out of | memory"
    assert found["fuse"]["error"] == "ValueError: no rows"
    assert [row.get("figure") for row in found["contourlet"]["rows"]] == [None, 1.5]
    assert "| bad | - | 0" in (tmp_path / "cpu-tiny.md").read_text()
    assert run(tmp_path, "contourlet")
    assert counts == {"good": 1, "bad": 2}
    assert [row["figure"] for row in results(tmp_path)["contourlet"]["rows"]] == [2.5, 1.5]


def test_other_settings_do_not_stand_beside_old_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad() -> dict[str, Any]:
        raise RuntimeError

    monkeypatch.setitem(check.PARTS, "fuse", part(old=lambda: {"figure": 1}, bad=bad))
    run(tmp_path, "fuse")
    monkeypatch.setitem(check.PARTS, "fuse", part(old=lambda: {"figure": 2}, bad=lambda: {"figure": 2}))
    monkeypatch.setattr(check, "git_commit", lambda: "another")
    run(tmp_path, "fuse")
    assert [row["figure"] for row in results(tmp_path)["fuse"]["rows"]] == [2, 2]


def test_what_there_is_no_time_for_says_so_and_is_run_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(check.PARTS, "fuse", part(one=lambda: {}, two=lambda: {}))
    assert not run(tmp_path, "fuse", limit=0)
    entry = results(tmp_path)["fuse"]
    assert entry["status"] == "unfinished"
    assert [row["result"] for row in entry["rows"]] == ["not run: out of time"] * 2
    assert run(tmp_path, "fuse")


def test_a_row_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang() -> dict[str, Any]:
        while True:
            try:
                time.sleep(1)
            except Exception:  # as compilers do
                continue

    monkeypatch.setattr(check, "GRACE", 0.2)
    monkeypatch.setitem(check.PARTS, "fuse", part(hang=hang, other=lambda: {}))
    assert not run(tmp_path, "fuse", limit=0.3)
    first, other = results(tmp_path)["fuse"]["rows"]
    assert first["result"].startswith("failed: OutOfTime: stopped after")
    assert other["result"] == check.NO_TIME


def test_a_verdict_against_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check.PARTS, "fuse", part(one=lambda: verdict(difference=(2.0, 1.0))))
    assert not run(tmp_path, "fuse")
    assert results(tmp_path)["fuse"]["status"] == "finished"
    assert verdict(a=(0.0, 0.0))["result"] == "ok"
    assert verdict(a=(0.0, 1.0), b=(float("nan"), 1.0))["result"] == "not ok"
    assert relative(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])) == pytest.approx(1 / 18**0.5)


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "cpu-tiny.json").write_text('["mine"]')
    with pytest.raises(UserError, match="holds no results of this check"):
        run(tmp_path, "fuse")
    assert (tmp_path / "cpu-tiny.json").read_text() == '["mine"]'


def test_a_lost_gpu_is_taken_again_by_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def lose(*_: Any) -> bool:
        raise check.LostContext("export")

    monkeypatch.setattr(check, "check", lose)
    monkeypatch.setattr(subprocess, "call", started.append)
    monkeypatch.setattr(sys, "argv", ["check", "--device", "cpu", "--tiny", "--out", "x"])
    assert check.main() == 1
    (words,) = started
    assert words[words.index("--part") + 1 :] == ["training", "compile"]
    assert "--tiny" in words
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["check"])
    assert check.main() == 2


def test_the_time_in_clip_is_counted_forward_and_backward_and_changes_nothing() -> None:
    clip = FrozenClip.load("micro")
    images = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before, encode = clip.encode_image(images), FrozenClip.encode_image
    (expected,) = torch.autograd.grad(before.sum(), images)
    clock = ClipClock(CPU)
    with clock.running():
        after = clip.encode_image(images * 1)
        assert len(clock.spans) == 1
        forward = clock.seconds()
        (found,) = torch.autograd.grad(after.sum(), images)
        assert len(clock.spans) == 2
        clip.encode_image(images.detach())
        assert len(clock.spans) == 3
    assert clock.seconds() > forward > 0
    assert FrozenClip.encode_image is encode
    assert torch.equal(after, before)
    assert torch.equal(found, expected)  # the same operations in the same order


def test_idle_is_what_kernels_leave_of_the_time() -> None:
    assert covered([(5, 6), (0, 2), (1, 3)]) == 4

    def event(
        start: float,
        end: float,
        name: str = "kernel",
        device: DeviceType = DeviceType.CUDA,
        note: bool = False,
    ) -> SimpleNamespace:
        times = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(time_range=times, name=name, device_type=device, is_user_annotation=note)

    events = [
        event(0, 2e6),
        event(1e6, 3e6, "Memcpy HtoD"),
        event(0, 9e6, "Context Sync"),
        event(0, 9e6, "Optimizer.step", note=True),
        event(0, 9e6, "cudaLaunchKernel", DeviceType.CPU),
    ]
    trace: Any = SimpleNamespace(events=lambda: events)
    assert idle_share(trace, 4.0) == {"idle_share": 0.25}
    del events[:2]
    assert "idle_share" not in idle_share(trace, 4.0)


def test_the_speed_of_a_training_is_measured(machine: Machine) -> None:
    found = training.measure_speed(machine, "clip_ratio", "micro", 2, "32-true")
    assert found["samples_per_second"] == pytest.approx(2000 / found["milliseconds"])
    assert found["updates"] == 1
    assert 0 < found["clip_share"] < 1
    assert found["idle_share"] is None


def test_every_row_of_the_full_check_can_be_composed(tmp_path: Path) -> None:
    full = Machine(CPU, False, tmp_path)
    rows = {name: [dict(case.about) for case in part.cases(full)] for name, part in check.PARTS.items()}
    assert {name: len(found) for name, found in rows.items()} == {
        **{"contourlet": 8, "fuse": 4, "losses": 24, "updates": 26, "resume": 6, "export": 4},
        "seeing": 4,
        **{"training": 44, "compile": 8},
    }
    assert all(len({json.dumps(row) for row in found}) == len(found) for found in rows.values())
    before = sum(part.seconds for name, part in check.PARTS.items() if name != "compile")
    assert before + 60 <= check.LIMIT <= 480 - 2 * check.GRACE


def test_equality_can_be_denied(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agreement.compare_loss(machine, "pixel", "64-true")["result"] == "ok"
    move = agreement.moved
    monkeypatch.setattr(
        agreement, "moved", lambda inputs, to: move(inputs, lambda plane: to(plane) * (1 + 1e-7))
    )
    assert agreement.compare_loss(machine, "pixel", "64-true")["result"] == "not ok"
    assert agreement.compare_loss(machine, "pixel", "32-true")["result"] == "ok"


def test_a_resumed_training_is_compared(machine: Machine) -> None:
    found = agreement.measure_resume(machine, "pixel", "32-true")
    assert (found["result"], found["difference"], found["went_on_from_update"]) == ("ok", 0, 2)
    first, second = {"a": torch.zeros(2)}, {"a": torch.tensor([0.0, 0.5])}
    assert agreement.largest(first, second) == 0.5
    assert agreement.largest(first, {}) == agreement.largest({"a": torch.zeros(3)}, first) == float("inf")


def test_task_networks_and_their_loss_are_compared(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    about = [case.about["what"] for case in seeing.cases(machine)]
    assert about == ["loss=task", "loss=task", "segmentation", "detection"]
    assert seeing.compare_task_loss(machine, "64-true")["result"] == "ok"
    assert seeing.compare_learning(machine, "segmentation")["result"] == "ok"
    learn = seeing.learn
    calls: list[int] = []

    def spoiled(*arguments: Any) -> list[float]:
        calls.append(1)
        return [value * (1 + 1e-3 * (len(calls) == 2)) for value in learn(*arguments)]

    monkeypatch.setattr(seeing, "learn", spoiled)
    found = seeing.compare_learning(machine, "detection")
    assert found["result"] == "not ok"
    assert found["first_loss"] == pytest.approx(1e-3, rel=1e-3)
