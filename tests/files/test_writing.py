"""Files that appear while another is written stay, unless they may be replaced."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipfuse.files import check_output, replace_when_whole, write_atomically


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with hard links, and one without."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not request.param:
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("links")
def test_a_file_that_appears_meanwhile_is_replaced_only_on_request(
    tmp_path: Path, user_error: Callable[..., str]
) -> None:
    path = tmp_path / "out.csv"

    def write(overwrite: bool, meanwhile: Callable[[], object]) -> None:
        with write_atomically(path, overwrite=overwrite) as file:
            file.write("ours")
            meanwhile()

    write(False, lambda: None)
    assert path.read_text() == "ours"
    assert path.stat().st_nlink == 1
    path.unlink()
    for appear in (lambda: path.write_text("theirs"), lambda: path.symlink_to("nowhere"), path.mkdir):
        message = user_error(write, False, appear)
        assert message == f"{path} is there already; choose another file or add --overwrite"
        assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]
        assert not path.is_file() or path.read_text() == "theirs"
        path.rmdir() if path.is_dir() else path.unlink()
    write(True, lambda: path.write_text("theirs"))
    assert path.read_text() == "ours"


def test_without_links_a_failed_renaming_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_error: Callable[..., str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)

    def write() -> None:
        with replace_when_whole(tmp_path / "x", overwrite=False) as temporary:
            temporary.write_text("ours")

    assert "No space left" in user_error(write)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_link_is_found_before_the_work(tmp_path: Path, user_error: Callable[..., str]) -> None:
    (tmp_path / "x").symlink_to("nowhere")
    assert "there already" in user_error(check_output, tmp_path / "x", overwrite=False)
    check_output(tmp_path / "x", overwrite=True)
