"""The contact sheet of scenes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.data.synthetic.__main__ import legend, main, strip
from clipfuse.data.synthetic.labels import LABELS
from clipfuse.data.synthetic.source import render


def test_a_sheet_holds_the_scenes_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sheet.png"
    words = ["--out", str(out), "--count", "3", "--first", "2", "--size", "64", "--seed", "1"]
    monkeypatch.setattr("sys.argv", ["synthetic", *words])
    main()
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (2 * (64 + 4) + 16, 2 * (5 * 64 + 4), 3)
    for place, index in enumerate((2, 3, 4)):
        top, left = place // 2 * 68, place % 2 * 324
        assert (sheet[top : top + 64, left : left + 320] == np.asarray(strip(1, index, 64))).all()
    assert (sheet[68:132, 324:] == 255).all()
    assert (sheet[136:] == np.asarray(legend(648))).all()


@pytest.mark.parametrize("width", [100, 300, 2000])
def test_the_legend_names_every_class_in_its_color(width: int) -> None:
    shown = np.asarray(legend(width))
    assert shown.shape[1] == width
    for name, color in zip(LABELS.names, LABELS.palette, strict=True):
        assert (shown == color).all(axis=2).sum() > 60 * len(name)


def test_a_strip_shows_both_bands_the_ideal_the_targets_and_the_labels() -> None:
    pair = render(0, 1, 96)
    shown = np.asarray(strip(0, 1, 96))
    below = slice(20, None)  # of the label
    infrared, visible, ideal, outlined, classes = (shown[below, 96 * k : 96 * (k + 1)] for k in range(5))
    assert pair.reference is not None
    assert pair.classes is not None
    assert pair.boxes is not None
    assert (infrared == pair.infrared[0].numpy()[below, :, None]).all()
    assert (visible == pair.visible.numpy().transpose(1, 2, 0)[below]).all()
    assert (ideal == pair.reference[0].numpy()[below, :, None]).all()
    changed = (outlined != visible).any(axis=2)
    assert (outlined[changed] == (255, 40, 40)).all()
    plain = np.array(LABELS.palette)[pair.classes.numpy()][below]
    boxed = (classes != plain).any(axis=2)
    assert (classes[boxed] == 255).all()
    assert len(pair.boxes) > 1
    for left, top, right, bottom in pair.boxes.xyxy.int().tolist():
        around = boxed[top - 21 : bottom - 19, left - 1 : right + 1]
        assert around[[0, -1]].all()
        assert around[:, [0, -1]].all()
