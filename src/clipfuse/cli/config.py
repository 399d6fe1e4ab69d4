"""The Hydra configuration: composed, checked, and its errors explained."""

import inspect
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, get_type_hints

from clipfuse.cli.options import conf_dir, options, unknown_option
from clipfuse.cli.searchpath import HOW
from clipfuse.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

_NOT_THERE = r"provider=.*, path=(.*) is not available\."  # Hydra's warning about a search path
_HYDRA_WORDS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


@contextmanager
def explained(name: str, arguments: Sequence[str]) -> Iterator[None]:
    """Raise what Hydra and OmegaConf refuse in a configuration as a `UserError`.

    Raises:
        UserError: names the key or option, and the nearest valid one.
    """
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # A warning about our files for other launchers, which are meant to be checked by their schemas.
    warnings.filterwarnings("ignore", r"\s*'hydra/.*' is validated against ConfigStore schema")
    warnings.filterwarnings("error", _NOT_THERE)
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, name, arguments)) from error
    except UserWarning as error:
        if found := re.fullmatch(_NOT_THERE, str(error)):
            raise UserError(f"hydra.searchpath: there is no {found[1]}; expected a folder, {HOW}") from error
        raise
    except yaml.YAMLError as error:
        raise UserError(f"a configuration file cannot be read: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError("the configuration is nested too deeply, or holds itself") from error


def _explain(error: BaseException, name: str, arguments: Sequence[str]) -> str:
    """Return one line about what Hydra or OmegaConf refused, with the nearest valid name."""
    from hydra.errors import OverrideParseException

    text = f"{error}\n{error.__cause__ or ''}"
    if found := re.search(r"Could not find '([^']+)'", text):
        return unknown_option(found[1], arguments)
    if found := re.search(r"No config source registered for schema (\w+)", text):
        return f"'{found[1]}' of hydra.searchpath is no kind of place; expected a folder, {HOW}"
    if found := re.search(r"full_key: (\S+)", text) or re.search(r"Could not override '([^']+)'", text):
        key = found[1]
        if "is not in struct" in text or "not in '" in text:
            known = _known_keys(name, arguments)
            if key in groups():  # of another command, whose keys may lie at the top here
                words = [word.partition("=")[0] for word in arguments if word.startswith(f"{key}.")]
                near = did_you_mean(words[0].rpartition(".")[2], known) if words else ""
            else:
                near = did_you_mean(key, [*known, *groups()])
            parent = key.rpartition(".")[0]
            siblings = sorted(k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent)
            valid = (
                f" Keys{f' of {parent}' if parent else ''}: {', '.join(siblings)}"
                if siblings and not near
                else ""
            )
            return f"unknown key '{key}'.{near}{valid}"
    if found := re.search(r"You must specify '([^']+)'", text):
        choices = ", ".join(options(found[1], arguments))
        return f"{found[1]} must be chosen: {found[1]}=X with X one of {choices}"
    if "Config group override must be a string" in text:
        chosen = {each: each.partition("=")[0].lstrip("+") for each in arguments if "=" in each}
        word = next(each for each in reversed(chosen) if chosen[each] in groups())
        word = next((each for each in chosen if chosen[each] in groups() and each.endswith("=null")), word)
        group = chosen[word]
        return (
            f"{word}: expected {group}=X with X one of {', '.join(options(group, arguments))}, or ~{group} "
            "to leave the group out"
        )
    twice = r"Multiple values for (\w+)\. To override|(\w+) appears more than once"
    if found := re.search(twice, text):
        return f"{(group := found[1] or found[2])} is chosen already: leave out the + of +{group}=X"
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}'; quote such a value twice: 'run_dir=\"my runs/a=b\"'"
    return " ".join(str(error).split())


def groups() -> list[str]:
    """Return the names of the groups of options."""
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def _known_keys(name: str, arguments: Sequence[str]) -> list[str]:
    """Return all dotted keys of the configuration that the group choices among `arguments` give."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    groups = [
        word
        for word in arguments
        if word.startswith("hydra.searchpath") or (conf_dir() / word.partition("=")[0].lstrip("+")).is_dir()
    ]
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            plain = OmegaConf.to_container(compose(name, groups), resolve=False)
    except (HydraException, OmegaConfBaseException):
        return []
    known: list[str] = []

    def visit(node: Any, path: str) -> None:
        if path:
            known.append(path)
        if isinstance(node, Mapping):
            for key, child in node.items():
                visit(child, f"{path}.{key}" if path else str(key))

    visit(plain, "")
    return known


def check_config(config: "DictConfig", settings: type, groups: Sequence[str]) -> None:
    """Check a composed configuration before anything is built or written.

    Plain keys are compared with the fields of `settings`, the keys of a node with `_target_` with the
    signature and annotations of the class that it names, so that plugins are checked like our own classes.
    Values are converted to the type of their annotation: `overwrite=no` becomes False.

    Args:
        config: the composed configuration.
        settings: a dataclass of the keys that belong to no group.
        groups: the groups that must be there.

    Raises:
        UserError: names the key, what was expected and the nearest valid name.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from clipfuse.runs.composed import hide_environment

    try:
        hide_environment(config)
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise UserError(f"{missing[0]} must be given, as in {missing[0]}=VALUE")
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    if "split_sha256" in plain:
        raise UserError("this configuration is the record of a run; take it by: clipfuse train --from RUN")
    for group in groups:
        if not isinstance(plain.get(group), Mapping):
            raise UserError(f"{group} is missing: {group}=X with X one of {', '.join(options(group))}")
    hints = get_type_hints(settings, include_extras=True)
    if absent := sorted(hints.keys() - plain.keys()):
        raise UserError(f"{absent[0]} is missing; leave out ~{absent[0]}")
    read: dict[str, Any] = {}
    for key, value in plain.items():
        if key in hints:
            read[str(key)] = _read_value(str(key), value, hints[key])
        else:
            read |= _check_node(str(key), value, plain.keys() - {key})
    for path, value in read.items():
        # A text that is interpolated stays so: it may be a secret of the environment.
        kept = isinstance(value, str) and OmegaConf.select(config, path) == value
        if isinstance(value, bool | int | float | str | None) and not kept and not _is_shared(config, path):
            OmegaConf.update(config, path, value)


def _is_shared(config: "DictConfig", path: str) -> bool:
    """Return whether `path` leads through an interpolation of another node, as loss.clip of clip."""
    from omegaconf import OmegaConf

    node: Any = config
    for word in path.split(".")[:-1]:
        if OmegaConf.is_interpolation(node, word):
            return True
        node = node[word]
    return False


def _check_node(path: str, node: Any, siblings: Iterable[Any]) -> dict[str, Any]:
    """Return the values below `path` as their annotations read them."""
    read: dict[str, Any] = {}
    if node is None:
        return read
    if not isinstance(node, Mapping):
        raise UserError(f"unknown key '{path}'.{did_you_mean(path.rpartition('.')[2], siblings)}")
    if "_target_" not in node:
        for key, child in node.items():
            read |= _check_node(f"{path}.{key}", child, node.keys() - {key})
        return read
    target = _locate(path, node["_target_"])
    parameters = {k: p for k, p in inspect.signature(target).parameters.items() if k != "self"}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(target)
    for key, value in node.items():
        if key in _HYDRA_WORDS:
            continue
        if key not in parameters and not open_ended:
            known = ", ".join(parameters)
            raise UserError(
                f"unknown key '{path}.{key}'.{did_you_mean(key, parameters)} Keys of {path}: {known}"
            )
        if _describes_objects(value):
            read |= _check_node(f"{path}.{key}", value, [])
        elif key in hints:
            read[f"{path}.{key}"] = _read_value(f"{path}.{key}", value, hints[key])
    return read


def _describes_objects(node: Any) -> bool:
    """Return whether the node, or one of its children, has a `_target_`."""
    return isinstance(node, Mapping) and ("_target_" in node or any(map(_describes_objects, node.values())))


def _locate(path: str, target: str) -> Any:
    try:
        found = resolve_name(target)
    except Exception as error:  # a module of the user's can raise anything while it is imported
        raise UserError(f"{path}._target_: cannot import '{target}' ({error})") from error
    if not callable(found):
        raise UserError(f"{path}._target_: '{target}' is {found!r}; expected a class or function")
    return found


def _hints(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}  # annotations that only a type checker can read


def _read_value(path: str, value: Any, annotation: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return value
    except PydanticUserError:
        adapter = TypeAdapter(annotation)
    try:
        if value == "None":  # Python's null, as an agent of W&B writes it
            with suppress(ValidationError):
                return adapter.validate_python(None)
        return adapter.validate_python(value)
    except ValidationError as error:
        reasons = "; or ".join(
            dict.fromkeys(entry["msg"][:1].lower() + entry["msg"][1:] for entry in error.errors())
        )
        raise UserError(f"{path} is {value!r}: {reasons}") from error
