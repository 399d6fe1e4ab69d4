"""The configuration files agree with the signatures they fill, and begin with a line of help."""

import inspect
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from clipfuse.cli.options import conf_dir

FILES = sorted(path for path in conf_dir().rglob("*.yaml") if path.parent.name != "wandb")
# Files of one class that has another file with all of its arguments.
VARIANTS = ("clip/micro", "clip/micro_1", "clip/vit_b32_openai")
# Arguments that no file holds: those that the engine gives, and those that no user sets.
LEFT_OUT = {
    "clipfuse.data.datamodule.FusionDataModule": {"source", "accumulate", "seed"},
    "clipfuse.clip.encoder.FrozenClip.load": {"device"},
    "clipfuse.tracking.csv_file.CsvLogger": {"flush_every"},
    **{f"clipfuse.training.schedules.{name}": {"optimizer", "steps"} for name in ("constant", "cosine")},
    "clipfuse.training.schedules.milestones": {"optimizer", "steps"},
}


def stem(path: Path) -> str:
    return path.relative_to(conf_dir()).with_suffix("").as_posix()


def load(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    assert isinstance(content, dict)
    return content


def ours() -> list[tuple[str, str, dict[str, Any]]]:
    """Return file, class and arguments of each node of our classes, fallbacks resolved."""
    found = []

    def visit(path: str, node: Any) -> None:
        if not isinstance(node, DictConfig):
            return
        target = node.get("_target_", "???")
        if str(target).startswith(("clipfuse.", "hydra_plugins.")):
            raw = OmegaConf.to_container(node, resolve=False)
            assert isinstance(raw, dict)
            values = {
                str(key): node[key] if "${oc.select:" in str(value) else value for key, value in raw.items()
            }
            found.append((path, target, {k: v for k, v in values.items() if not k.startswith("_")}))
        for key in node:
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                visit(path, node[key])

    for path in FILES:
        content = {key: value for key, value in load(path).items() if key not in ("defaults", "hydra")}
        visit(stem(path), OmegaConf.create(content))
    return found


NODES = ours()


def test_nodes_are_found() -> None:
    assert {"loss/pixel", "solver/joint", "callbacks/default", "hydra/launcher/clipfuse"} <= {
        path for path, _, _ in NODES
    }
    assert len(NODES) >= 25


@pytest.mark.parametrize(("path", "target", "values"), NODES, ids=[f"{n[0]}-{n[1]}" for n in NODES])
def test_a_file_has_the_defaults_of_its_class(path: str, target: str, values: dict[str, Any]) -> None:
    parameters = {
        name: each
        for name, each in inspect.signature(resolve_name(target)).parameters.items()
        if each.kind is not each.VAR_KEYWORD
    }
    own = {name: value for name, value in values.items() if name in parameters}
    if path not in VARIANTS:
        inherited = _inherited(conf_dir() / f"{path}.yaml").keys() & parameters.keys()
        assert own.keys() | inherited == parameters.keys() - LEFT_OUT.get(target, set())
    for name, value in own.items():
        default = parameters[name].default
        if default is not inspect.Parameter.empty and "${" not in str(value) and path not in VARIANTS:
            assert _plain(value) == _plain(default), f"{path}: {name} is {value}, in the signature {default}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _inherited(path: Path) -> dict[str, Any]:
    """Return what the defaults list brings into a file, each under its package."""
    content: dict[str, Any] = {}
    for entry in load(path).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            name, _, package = entry.partition("@")
            base = path.parent / f"{name}.yaml"
            node = {**_inherited(base), **{k: v for k, v in load(base).items() if k != "defaults"}}
            for part in reversed(package.split(".") if package else []):
                node = {part: node}
            content |= node
    return content


def _repeated(values: Any, inherited: Any) -> list[str]:
    if not isinstance(values, dict) or not isinstance(inherited, dict):
        return []
    return [
        key
        for key, value in values.items()
        if key in inherited and (value == inherited[key] or _repeated(value, inherited[key]))
    ]


@pytest.mark.parametrize("path", FILES, ids=stem)
def test_a_variant_holds_only_what_differs(path: Path) -> None:
    assert _repeated(load(path), _inherited(path)) == []


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != conf_dir()], ids=stem)
def test_a_file_begins_with_a_line_of_help(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if not line.startswith("# @package"))
    assert line.startswith("# ")
    assert 2 < len(line) <= 80  # one line of --help
    assert not line.endswith(".")
