"""The small network of each loss: one table of names, files that fit it and their card."""

import re
from pathlib import Path

import pytest
import torch

from clipfuse.backbones.student import Student
from clipfuse.errors import UserError
from clipfuse.files import file_sha256
from clipfuse.networks.by_loss import BY_LOSS, FOLDER, loss_weights, shipped
from clipfuse.networks.load import load_network

PLANES = torch.rand(2, 1, 1, 40, 44, generator=torch.Generator().manual_seed(0))


def test_the_files_in_the_package_are_those_of_the_table_and_of_the_card() -> None:
    files = shipped()
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == set(files)
    card = (FOLDER / "MODEL_CARD.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (?:all|MSRS) \| `([0-9a-f]{64})` \|$", card, re.MULTILINE)
    assert rows == [(name, BY_LOSS[name], file_sha256(path)) for name, path in files.items()]
    made = {}
    for name, path in files.items():
        network = load_network(loss_weights(name))
        assert isinstance(network, Student)
        assert path.stat().st_size <= 150_000
        with torch.no_grad():
            made[name] = network(*PLANES).fused
    names = list(made)
    for place, name in enumerate(names):
        assert not any(torch.equal(made[name], made[other]) for other in names[:place]), name


def test_what_has_no_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfuse.networks.by_loss.FOLDER", tmp_path)
    assert shipped() == {}
    with pytest.raises(UserError, match=r"pixel are not in this package .*; take one of none, or train it: "):
        loss_weights("pixel")
    for name in ("ldfusion", "task"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "own.safetensors").touch()  # of no loss that the table has
    assert list(shipped()) == ["ldfusion", "task"]
    assert loss_weights("task") == tmp_path / "task.safetensors"
    with pytest.raises(UserError, match=r"'ldfuson'.* 'ldfusion'.* Losses with weights: ldfusion, task$"):
        loss_weights("ldfuson")
