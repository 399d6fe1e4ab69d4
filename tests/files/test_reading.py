"""Readers of hostile files: plain content, or one line that names the file; never a wait."""

import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from clipfuse.files import csv_text, file_sha256, read_bytes, read_csv, read_json, read_text, read_yaml

Message = Callable[..., str]
READERS = (read_bytes, read_text, read_json, read_yaml, read_csv)


def bomb(levels: int = 9) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merging_bomb(levels: int = 30) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_regular_file_is_named_at_once(
    read: Callable[..., Any], tmp_path: Path, user_error: Message
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("nothing")
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(tmp_path)  # a socket's path is short
        server.bind("socket")
        os.chdir(before)
        expected = {
            "pipe": "pipe, socket or device",
            "socket": "pipe, socket or device",
            "folder": "it is a folder",
            "loop": "Too many levels of symbolic links",
            "broken": "No such file",
            "nothing": "No such file",
        }
        for name, reason in expected.items():
            message = user_error(read, tmp_path / name, remedy="leave it out")
            assert message.startswith(f"{tmp_path / name}: cannot be read (")
            assert reason in message
            assert message.endswith("leave it out")
        assert "device" in user_error(read, Path("/dev/zero"))
    assert "null byte" in user_error(read, tmp_path / "a\0b")


def test_only_a_name_that_nothing_has_gives_the_default(tmp_path: Path, user_error: Message) -> None:
    for read in (read_json, read_yaml):
        assert read(tmp_path / "nothing", default={}) == {}
        (tmp_path / "broken").unlink(missing_ok=True)
        (tmp_path / "broken").symlink_to("nothing")
        assert "cannot be read" in user_error(read, tmp_path / "broken", default={})
    assert read_csv(tmp_path / "nothing", default=[]) == []
    assert "cannot be read" in user_error(read_csv, tmp_path / "broken", default=[])


def test_a_link_that_leads_out_of_its_folder_is_refused(tmp_path: Path, user_error: Message) -> None:
    run = tmp_path / "run"
    (run / "test").mkdir(parents=True)
    (tmp_path / "private.json").write_text("{}")
    (run / "own.json").write_text('{"a": 1}')
    (run / "test" / "inside.json").symlink_to("../own.json")
    (run / "outside.json").symlink_to(tmp_path / "private.json")
    (run / "away").symlink_to(tmp_path)
    assert read_json(run / "test/inside.json", within=run) == {"a": 1}
    assert read_json(run / "outside.json") == {}
    for name in ("outside.json", "away/private.json"):
        assert "link that leads out of" in user_error(read_json, run / name, within=run)
    (tmp_path / "other").symlink_to(run)
    assert read_json(tmp_path / "other/own.json", within=tmp_path / "other") == {"a": 1}


def test_text_is_utf_8_with_or_without_a_mark(tmp_path: Path, user_error: Message) -> None:
    path = tmp_path / "x"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    assert read_json(path) == read_yaml(path) == {"a": "é"}
    path.write_bytes(b"\xef\xbb\xbfname,b\r\nx,1\r\n")
    assert read_csv(path, ["name"]) == [{"name": "x", "b": "1"}]
    for content, byte in {b"a: \xff": 4, "a: é".encode("latin-1"): 4, "a: 1".encode("utf-16"): 1}.items():
        path.write_bytes(content)
        for read in (read_text, read_json, read_yaml, read_csv):
            assert f"byte {byte} is no UTF-8" in user_error(read, path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, user_error: Message) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**40)
    for read in READERS:
        assert "larger than" in user_error(read, path)
    assert "larger than 1 MiB" in user_error(read_bytes, path, most=2**20)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a mapping, found nothing"),
        ("[1]", "expected a mapping, found list"),
        ("5", "expected a mapping, found int"),
        ("[" * 100_000, "levels"),
        ("- " * 100_000 + "x", "levels"),
        ("{a: " * 100 + "1" + "}" * 100, "levels"),
        (bomb(), "aliases"),
        (merging_bomb(), "aliases"),
        ("a: &a [*a]", "alias a stands for what holds it"),
        ("a: *b", "alias b"),
        ("a: !!python/object/apply:os.system [x]", "constructor"),
        ("a: !!set {x}", "type set"),
        ("a: !!binary aGFsbG8=", "type bytes"),
        ("a: !!timestamp x", "YAML"),
        ("a: !!bool x", "YAML"),
        ("? [a]\n: 1", "unhashable"),
        ("? 1.5\n: 1", "the key 1.5 is no text"),
        ("a: 1" + ":59" * 100_000, "a number of 300001 characters"),
        ("a: 0x" + "f" * 390, "a whole number of 1560 bits"),
        ("a: 2020-99-99", "month must be"),
        ('a: "\\ud800"', "invalid Unicode"),
        ("a: 1\n--- \nb: 2", "single document"),
        ("a: \x00", "YAML"),
        ("a: [", "YAML"),
    ],
)
def test_a_spoiled_yaml_file_is_one_line(text: str, reason: str, tmp_path: Path, user_error: Message) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    message = user_error(read_yaml, path, remedy="leave it out")
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert message.endswith("; leave it out")
    assert len(message) < len(str(path)) + 330


def test_aliases_of_honest_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a [1, 2]\nb: *a\nc: {<<: &d {x: 1}, y: *a}\ne: *d\n1: 2020-01-01\n")
    content = read_yaml(path)
    assert (content["b"], content["c"], content["e"]) == ([1, 2], {"x": 1, "y": [1, 2]}, {"x": 1})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("null", "expected a mapping, found nothing"),
        ("[]", "expected a mapping, found list"),
        ('{"a": 1', "delimiter"),
        ('{"a":' * 100_000, "JSON"),
        ("[" * 100 + "]" * 100, "more than 64 levels"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ('{"a": ' + "9" * 4000 + "}", "a whole number of"),
        ('{"a": "\\ud800"}', "surrogates"),
        ('{"a": 1} x', "Extra data"),
    ],
)
def test_a_spoiled_json_file_is_one_line(text: str, reason: str, tmp_path: Path, user_error: Message) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    message = user_error(read_json, path)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert len(message) < len(str(path)) + 330


def test_json_reads_the_numbers_that_python_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": float("nan"), "b": float("-inf")}))
    content = read_json(path)
    assert content["a"] != content["a"]
    assert content["b"] == -float("inf")


class Form(BaseModel):
    count: int = 0
    inner: dict[str, float] = {}


def test_the_first_place_of_another_form_is_named(tmp_path: Path, user_error: Message) -> None:
    path = tmp_path / "x.json"
    for content, reason in {
        '{"count": "3"}': "count is '3': input should be a valid integer",
        '{"count": true}': "count is True: input should be a valid integer",
        '{"inner": {"a": []}}': "inner.a is []: input should be a valid number",
        '{"inner": 5}': "inner is 5: input should be a valid dictionary",
    }.items():
        path.write_text(content)
        assert user_error(read_json, path, Form) == f"{path}: {reason}; restore or repair the file"
    path.write_text('{"count": 3, "inner": {"a": 1}, "more": 1}')
    assert read_json(path, Form) == {"count": 3, "inner": {"a": 1}, "more": 1}
    path.write_text('["a", 1]')
    assert "1 is 1: input should be a valid string" in user_error(read_json, path, list[str])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("\n", "it is empty"),
        ("a,a,name\n1,2,3\n", "the column 'a' occurs twice"),
        ("a,b\n1,2\n", "it has no column 'name'"),
        ("name,b\nx,1\ny\n", "line 3 is cut off or too long"),
        ("name,b\nx,1,2\n", "line 2 is cut off or too long"),
        ('name,b\nx,1\ny,"2\n', "unexpected end of data"),
        ('name,b\nx,"1"2\n', "after line 1"),
        ("name,b\nx," + "1" * 200_000 + "\n", "field larger than"),
        ("name" + "," * 2**21, "a line of more than"),
        (",".join(f"a{n}" for n in range(1001)), "it has 1001 columns"),
    ],
)
def test_a_spoiled_csv_file_is_one_line(text: str, reason: str, tmp_path: Path, user_error: Message) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    message = user_error(read_csv, path, ["name"])
    assert message.startswith(f"{path}: cannot be read as CSV (")
    assert reason in message


def test_a_table_without_columns_has_no_rows(tmp_path: Path, user_error: Message) -> None:
    (tmp_path / "x.csv").write_text(csv_text([], []))
    assert read_csv(tmp_path / "x.csv") == []
    (tmp_path / "x.csv").write_text("")
    assert "it is empty" in user_error(read_csv, tmp_path / "x.csv")


CELLS = [
    "=1+1",
    "+A1",
    "-cmd|x",
    "@SUM(1)",
    "'=1",
    "''+1",
    "'quoted'",
    "-0.5",
    "+1e5",
    "-inf",
    "a=b",
    "",
    "-",
]


def test_no_cell_is_a_formula_and_all_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(csv_text(["name", "=head"], [[cell, -1.5] for cell in CELLS]))
    rows = read_csv(path)
    assert [row["name"] for row in rows] == CELLS
    assert all(row == {"name": row["name"], "=head": "-1.5"} for row in rows)
    for line in path.read_text().splitlines():
        cell = line.partition(",")[0].strip('"')
        assert cell[:1] not in set("=+-@\t\r") or cell in ("-0.5", "+1e5", "-inf")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=4))
def test_any_text_is_read_back(cells: list[str]) -> None:
    rows = [[f"x{cell}"] for cell in cells] + [[cell] for cell in cells]

    class Memory:
        def is_file(self) -> bool:
            return True

        def open(self, mode: str) -> Any:
            return io.BytesIO(csv_text(["name"], rows).encode())

    expected = [f"x{cell}" for cell in cells] + [cell for cell in cells if cell]
    assert [row["name"] for row in read_csv(Memory()) if row["name"]] == expected


def test_a_hash_of_a_pipe_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe, socket or device"):
        file_sha256(tmp_path / "pipe")
