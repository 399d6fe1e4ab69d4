"""Files that appear while another is written stay, unless they may be replaced."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfuse.files import check_output, replace_when_whole, write_atomically
from clipfuse.images import write_png


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


# Commands find a file that appears while they work: at the time of writing, not only before.


def test_what_is_read_is_not_replaced_whatever_it_is_called(
    tmp_path: Path, user_error: Callable[..., str]
) -> None:
    source, link, other = tmp_path / "source", tmp_path / "link", tmp_path / "new/folder/other"
    source.write_text("of the user")
    link.symlink_to(source)
    for path in (source, link, tmp_path / f"../{tmp_path.name}/source"):
        assert "is read here" in user_error(check_output, path, True, (source, tmp_path / "gone"))
    check_output(other, False, (source,))
    assert sorted(tmp_path.iterdir()) == [link, source]  # no folder was made by looking


def test_folders_that_were_made_vanish_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()

    def stop(path: Path) -> None:
        with write_atomically(path) as file:
            file.write("half")
            raise KeyboardInterrupt

    for name in ("new/folder/x", "kept/x", "kept/new/x"):
        with pytest.raises(KeyboardInterrupt):
            stop(tmp_path / name)
        assert [*tmp_path.rglob("*")] == [tmp_path / "kept"]
    with write_atomically(tmp_path / "new/folder/x") as file:
        file.write("whole")
    assert (tmp_path / "new/folder/x").read_text() == "whole"


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let a file appear just before the partial file of that name takes its place."""

    def watch(path: Path) -> None:
        link = os.link

        def appear(source: Any, target: Any, **options: Any) -> None:
            if Path(target) == path:
                path.write_text("theirs")
            link(source, target, **options)

        monkeypatch.setattr(os, "link", appear)

    return watch


def expect_theirs(result: tuple[int, str, str], path: Path) -> None:
    code, _, errors = result
    assert code == 2
    assert f"{path} is there already; choose another file or add --overwrite" in errors
    assert path.read_text() == "theirs"
    assert not [each for each in path.parent.iterdir() if "partial" in each.name]


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_score_keeps_a_file_that_appears(
    option: str,
    clipfuse: Callable[..., tuple[int, str, str]],
    pairs_folder: Path,
    tmp_path: Path,
    late: Callable[[Path], None],
) -> None:
    test, path = pairs_folder / "test", tmp_path / "x"
    words = ["--fused", f"x={test}/ir", "--infrared", f"{test}/ir", "--visible", f"{test}/vi"]
    late(path)
    expect_theirs(clipfuse("score", *words, "--metrics", "EN", "--no-trivial", option, str(path)), path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.onnx"])
def test_export_keeps_a_file_that_appears(
    name: str,
    clipfuse: Callable[..., tuple[int, str, str]],
    trained: Path,
    tmp_path: Path,
    late: Callable[[Path], None],
) -> None:
    late(tmp_path / name)
    words = ["--checkpoint", str(trained / "checkpoints/last.ckpt"), "--out", str(tmp_path / name)]
    expect_theirs(clipfuse("export", *words), tmp_path / name)


@pytest.mark.parametrize("kind", ["html", "csv", "figures"])
def test_compare_keeps_a_file_that_appears(
    kind: str,
    clipfuse: Callable[..., tuple[int, str, str]],
    sweep: Callable[..., Path],
    tmp_path: Path,
    late: Callable[[Path], None],
) -> None:
    path = tmp_path / "x" / "metric0.svg" if kind == "figures" else tmp_path / "x"
    late(path)
    words = [str(sweep()), "--no-trivial", f"--{kind}", str(tmp_path / "x")]
    expect_theirs(clipfuse("compare", *words), path)


def test_an_image_that_appears_is_kept(
    tmp_path: Path, late: Callable[[Path], None], user_error: Callable[..., str]
) -> None:
    late(tmp_path / "x.png")
    message = user_error(write_png, tmp_path / "x.png", torch.zeros(1, 4, 4), overwrite=False)
    assert "is there already" in message
    assert (tmp_path / "x.png").read_text() == "theirs"


def test_fuse_keeps_an_image_that_appears(
    clipfuse: Callable[..., tuple[int, str, str]],
    pairs_folder: Path,
    trained: Path,
    tmp_path: Path,
    late: Callable[[Path], None],
) -> None:
    test, path = pairs_folder / "test", tmp_path / "out/test-1.png"
    words = ["--infrared", f"{test}/ir", "--visible", f"{test}/vi", "--out", str(path.parent)]
    late(path)
    checkpoint = str(trained / "checkpoints/last.ckpt")
    expect_theirs(clipfuse("fuse", "--checkpoint", checkpoint, *words), path)
