from types import SimpleNamespace
from typing import Any

import pytest

from clipfuse.tracking.progress import RunProgress


def trainer(**options: Any) -> Any:
    return SimpleNamespace(
        **{"max_steps": 8, "global_step": 0, "progress_bar_metrics": {}, "num_test_batches": [3], **options}
    )


def test_a_resumed_training_shows_updates_and_loss(capsys: pytest.CaptureFixture[str]) -> None:
    bar, module, state = RunProgress(), Any, trainer(global_step=4)
    bar.on_train_start(state, module)  # type: ignore[arg-type]
    assert (bar.bar.n, bar.bar.total) == (4, 8)
    state.progress_bar_metrics = {"loss": 0.123456}
    bar.on_train_batch_end(state, module, None, None, 0)  # type: ignore[arg-type]
    assert bar.bar.n == 4  # a micro-batch is no update
    state.global_step = 6
    bar.on_train_batch_end(state, module, None, None, 1)  # type: ignore[arg-type]
    bar.on_train_end(state, module)  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert "training:  75%" in shown
    assert "6/8" in shown
    assert "loss=0.1235" in shown
    assert shown.count("training:") == 2  # a log file keeps every line: the first and the last


def test_a_test_counts_its_pairs_over_all_sets(capsys: pytest.CaptureFixture[str]) -> None:
    bar, state = RunProgress(), trainer(num_test_batches=[2, 1])
    bar.on_test_start(state, Any)  # type: ignore[arg-type]
    for _ in range(3):
        bar.on_test_batch_end()
    bar.on_test_end(state, Any)  # type: ignore[arg-type]
    assert "testing: 100%" in (shown := capsys.readouterr().err)
    assert "3/3" in shown


def test_other_ranks_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = RunProgress()
    bar.disable()
    bar.on_train_start(trainer(), Any)  # type: ignore[arg-type]
    bar.on_train_end(trainer(), Any)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def test_an_error_before_the_first_bar_ends_no_line() -> None:
    RunProgress().on_exception(trainer(), Any, RuntimeError())  # type: ignore[arg-type]


def test_parts_of_a_unit_add_up_to_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipfuse.tracking import progress

    class Bar:
        n = 0

        def __init__(self, **options: Any) -> None: ...

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, amount: int) -> None:
            assert isinstance(amount, int)
            self.n += amount
            seen.append(self.n)

    seen: list[int] = []
    monkeypatch.setattr(progress, "tqdm", Bar)
    with progress.amount_bar("judging", " updates", 3) as advance:
        for _ in range(10):
            advance(0.3)
        advance(5.0)
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
