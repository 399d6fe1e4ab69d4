"""A message that names a setting or an option names one that exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipfuse.cli.options import conf_dir

SOURCE = Path(__file__).parents[1] / "src"
GROUPS = {path.name for path in conf_dir().iterdir() if path.is_dir()} - {"hydra", "wandb"}
FILES = {"metrics.json"}
# Options of the command line, examples in usage lines, and arguments of functions for Python alone.
OTHERS = {
    "group",
    "key",
    "dim",
    "padding",
    "keepdim",
    "correction",
    "fused",
    "data_range",
    "higher_is_better",
    "truncate",
}
OTHERS |= {"padding", "keepdim"}
OTHERS |= {"infrared", "visible", "levels", "filters", "method", "max_parallel", "gpus_per_job"}


def settings() -> set[str]:
    """Every dotted setting of every option of every group, and those beside the groups."""
    known: set[str] = set()

    def visit(node: Any, path: str) -> None:
        known.add(path)
        for key, child in node.items() if isinstance(node, dict) else ():
            visit(child, f"{path}.{key}")

    for path in conf_dir().glob("*/*.yaml"):
        content = yaml.safe_load(path.read_text()) or {}
        visit(content, path.parent.name)
        for part in content.get("defaults", []):
            if isinstance(part, str) and "@" in part:
                name, _, key = part.partition("@")
                visit(yaml.safe_load(path.with_name(f"{name}.yaml").read_text()), f"{path.parent.name}.{key}")
    for name in ("train", "evaluate", "downstream"):
        known |= set(yaml.safe_load((conf_dir() / f"{name}.yaml").read_text()))
    return known | {"hydra", "data.sources", "loss.weight"}  # the last one in an example of one's own loss


KNOWN = settings()
ARGUMENTS = {key.rpartition(".")[2] for key in KNOWN}


def texts(path: Path) -> Iterator[str]:
    """Texts of a module but its docstrings; what is put in stands as X."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.Module | ast.FunctionDef | ast.ClassDef
    passed = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, kinds) and is_documented(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in passed:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)


def is_documented(node: Any) -> bool:
    return bool(node.body) and isinstance(node.body[0], ast.Expr)


def unknown(text: str) -> list[str]:
    """Settings and options in a message that are not there."""
    wrong = []
    for found in re.finditer(r"(?<![\w.=/-])([a-z_]+(?:\.\w+)+)(?![\w(])", text):
        words = found[1].split(".")
        fixed = ".".join(words[: words.index("X")] if "X" in words else words)
        if words[0] in GROUPS and fixed not in KNOWN | FILES and not text.startswith("X.X"):
            wrong.append(found[1])
    for found in re.finditer(r"(?<![\w.=/\-'\"])([a-z_]+)=(\w+)", text):
        key, value = found.groups()
        is_option = value == "X" or (conf_dir() / key / f"{value}.yaml").is_file()
        is_option |= (key, value) == ("downstream", "null")  # the one group that may be left empty
        if not (is_option if key in GROUPS else key in KNOWN | ARGUMENTS | OTHERS):
            wrong.append(found[0])
    return wrong


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_setting_in_a_message_exists(path: Path) -> None:
    wrong = {text: found for text in texts(path) if " " in text and (found := unknown(text))}
    assert not wrong


@pytest.mark.parametrize(
    "text",
    [
        "set loss.fidelty=null for it",
        "take loss=pixl there",
        "lower batchsize=3 or less",
        "X: raise loader.crop first",
    ],
)
def test_the_rules_find_what_is_wrong(text: str) -> None:
    assert unknown(text)


@pytest.mark.parametrize(
    "text", ["take loss.fidelity.ssim_weight=0 then", "use data=synthetic or loss.X.seed=1"]
)
def test_the_rules_pass_over_what_is_right(text: str) -> None:
    assert not unknown(text)
