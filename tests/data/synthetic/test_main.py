"""The contact sheet of scenes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.data.synthetic.__main__ import main, strip
from clipfuse.data.synthetic.source import render


def test_a_sheet_holds_the_scenes_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sheet.png"
    words = ["--out", str(out), "--count", "3", "--first", "2", "--size", "64", "--seed", "1"]
    monkeypatch.setattr("sys.argv", ["synthetic", *words])
    main()
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (2 * (64 + 4), 2 * (4 * 64 + 4), 3)
    for place, index in enumerate((2, 3, 4)):
        top, left = place // 2 * 68, place % 2 * 260
        assert (sheet[top : top + 64, left : left + 256] == np.asarray(strip(1, index, 64))).all()
    assert (sheet[68:132, 260:] == 255).all()


def test_a_strip_shows_both_bands_the_ideal_and_the_targets() -> None:
    pair = render(0, 1, 96)
    shown = np.asarray(strip(0, 1, 96))
    below = slice(20, None)  # of the label
    infrared, visible, ideal, outlined = (shown[below, 96 * k : 96 * (k + 1)] for k in range(4))
    assert pair.reference is not None
    assert (infrared == pair.infrared[0].numpy()[below, :, None]).all()
    assert (visible == pair.visible.numpy().transpose(1, 2, 0)[below]).all()
    assert (ideal == pair.reference[0].numpy()[below, :, None]).all()
    changed = (outlined != visible).any(axis=2)
    assert (outlined[changed] == (255, 40, 40)).all()
