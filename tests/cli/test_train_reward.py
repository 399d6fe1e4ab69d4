from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.rewards.scorer import read_reward

Clipfuse = Callable[..., tuple[int, str, str]]
HEAD = "infrared,visible,first,second,preferred"


def write(path: Path, seed: int, size: tuple[int, int] = (40, 32), noise: float = 0.0) -> str:
    random = np.random.default_rng(seed)
    plain = np.linspace(40, 200, size[0])[:, None] + 20 * np.sin(np.arange(size[1]) / 3 + seed)
    image = plain + noise * random.standard_normal(size)
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
    return path.name


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six scenes: the image without noise is preferred, whichever place it has."""
    rows = [f"{HEAD},rater"]
    for scene in range(6):
        sources = [
            write(tmp_path / f"{band}{scene}.png", scene + 10 * at) for at, band in enumerate(("ir", "vi"))
        ]
        fused = [write(tmp_path / f"{name}{scene}.png", scene, noise=40 * at) for at, name in enumerate("cn")]
        rows.append(",".join([*sources, *fused, "first", "anna"]))
        rows.append(",".join([*sources, *fused[::-1], "second" if scene else "tie", "ben"]))
    path = tmp_path / "choices.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_scorer_is_trained_reported_and_taken_by_the_loss(clipfuse: Clipfuse, table: Path) -> None:
    out = table.with_name("own.safetensors")
    words = ["--start", "none", "--updates", "12", "--holdout", "0.34", "--device", "cpu"]
    code, printed, errors = clipfuse("train-reward", str(table), "--out", str(out), *words)
    assert code == 0, errors
    assert "12 choices by 2 raters on 6 scenes (overall 12)" in printed
    assert "overall: " in printed
    assert "held-out choices [" in printed
    reward = read_reward(str(out))
    assert reward.names == ("overall",)
    assert reward.training["updates"] == 12
    again = table.with_name("again.safetensors")
    assert clipfuse("train-reward", str(table), "--out", str(again), *words)[0] == 0
    assert again.read_bytes() == out.read_bytes()
    code, _, errors = clipfuse("train-reward", str(table), "--out", str(out), *words)
    assert (code, "is there already" in errors) == (2, True)
    # From the scorer in the package: its scores stay, a new one is added.
    lines = table.read_text().splitlines()
    more = [f"{lines[0]},score", *(f"{line},harmony" for line in lines[1:])]
    table.write_text("\n".join(more))
    words = ["--updates", "2", "--overwrite", "--device", "cpu"]
    code, printed, errors = clipfuse("train-reward", str(table), "--out", str(out), *words)
    assert code == 0, errors
    assert "harmony: " in printed
    assert read_reward(str(out)).names == (*read_reward().names, "harmony")


def test_mistakes_are_one_line_and_leave_nothing(
    clipfuse: Clipfuse, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, good = table.with_name("own.safetensors"), table.read_text()
    write(table.with_name("large.png"), 0, (50, 50))
    (table.with_name("text.png")).write_text("no image")
    first = good.splitlines()[1]
    cases = [
        (good.replace("preferred", "chosen"), [], "it has no column 'preferred'"),
        (
            good.replace(",first,anna", ",frist,anna", 1),
            [],
            "row 2 has 'frist' in the column preferred. Did you mean 'first'?",
        ),
        (good.replace("c1.png", "absent.png", 1), [], "there is no file"),
        (good.replace("c1.png", "large.png", 1), [], "differ in size"),
        (good.replace("c1.png", "text.png", 1), [], "text.png"),
        (good.replace("c1.png", "", 1), [], "row 4 has no first"),
        (good.replace("c1.png", "n1.png", 1), [], "as first and as second"),
        (f"{HEAD},rater\n", [], "has no choices"),
        (f"{HEAD},rater\n{first.replace('first', 'tie')}\n", [], "has ties alone"),
        (f"{HEAD},rater\n{first}\n", [], "all choices are of one scene"),
        (f"{HEAD},score\n{first.replace('anna', 'two words')}\n", [], "the score 'two words'"),
        ("", [], "it is empty"),
        (good, ["--updates", "0"], "--updates 0"),
        (good, ["--holdout", "1"], "--holdout 1.0"),
        (good, ["--device", "nowhere"], "--device nowhere cannot be used here"),
        (good, ["--out", "scorer.pt"], "expected a name that ends in .safetensors"),
    ]
    before = sorted(table.parent.iterdir())
    for text, words, message in cases:
        table.write_text(text)
        code, _, errors = clipfuse("train-reward", str(table), "--out", str(out), *words)
        assert (code, len(errors.splitlines())) == (2, 1), (message, errors)
        assert message in errors, errors
        assert sorted(table.parent.iterdir()) == before
    table.write_text(good)

    def stop(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clipfuse.rewards.learning.learn", stop)
    assert clipfuse("train-reward", str(table), "--out", str(out))[0] == 130
    assert sorted(table.parent.iterdir()) == before
