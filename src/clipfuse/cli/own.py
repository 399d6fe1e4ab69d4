"""Modules of the user's own: found in a folder if they are named, and never before an installed one."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType
from typing import Any

from clipfuse.cli import own_place
from clipfuse.errors import UserError

_DOTTED = re.compile(r"([^\W\d]\w*)(\.[^\W\d]\w*)+")
_IMPORTING = ("<frozen importlib", f"{os.sep}importlib{os.sep}__init__.py")


class _OwnModules:
    """Finds in a folder the modules that were named, and those beside them that they import themselves.

    A folder on `sys.path` would answer for every module that any installed package looks for and does not
    have: torch, for one, imports `dill` if there is one. Named modules may come from somebody else's folder;
    what merely lies beside them must not run.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.names: set[str] = set()
        self.found: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        """Return where a module lies that may be imported from the folder."""
        if path is not None or not (fullname in self.names or _importer() in self.found):
            return None
        spec = PathFinder.find_spec(fullname, [self.folder])
        if spec is not None:
            self.found.add(fullname)
        return spec


def _importer() -> str:
    """Return the top-level name of the module whose import statement is being carried out."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and (
        frame.f_code.co_filename.startswith(_IMPORTING[0]) or frame.f_code.co_filename.endswith(_IMPORTING[1])
    ):
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", "")).partition(".")[0]


def check_trust(trusted: Sequence[str], checkpoint: str | None) -> None:
    """Require that `--trust` comes with a checkpoint: the networks of the package name classes of ours alone.

    Raises:
        UserError: it does not.
    """
    if trusted and checkpoint is None:
        raise UserError("--trust is for the classes that a --checkpoint names; name one, or leave it out")


def look_in(folder: str, names: Iterable[str]) -> None:
    """Let modules of a folder be imported by name, after all that is installed.

    Args:
        folder: a path; one of another kind, such as "pkg://theirs", is left alone.
        names: dotted names, such as "my_loss.MyLoss"; the first part of each is the module.
    """
    if "://" in folder:
        return
    folder = os.path.abspath(folder)
    known = [each for each in sys.meta_path if isinstance(each, _OwnModules) and each.folder == folder]
    if not known:
        known = [_OwnModules(folder)]
        sys.meta_path.append(known[0])
    known[0].names |= {name.partition(".")[0] for name in names}


def dotted_names(node: Any) -> Iterator[str]:
    """Yield the texts in nested mappings and lists that can name a class or function, as "my_loss.MyLoss"."""
    if isinstance(node, str):
        if _DOTTED.fullmatch(node):
            yield node
    elif isinstance(node, Mapping):
        for child in node.values():
            yield from dotted_names(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from dotted_names(child)


@contextmanager
def installed_alone() -> Iterator[None]:
    """Inside, the import path holds neither the current folder nor that of a script, whoever put it there."""
    kept = sys.path[:]
    script = getattr(sys.modules["__main__"], "__file__", None) or ""
    left = {os.path.realpath(os.curdir), os.path.realpath(os.path.dirname(script))} - {own_place()}
    sys.path[:] = [place for place in kept if os.path.realpath(place or os.curdir) not in left]
    try:
        yield
    finally:
        sys.path[:] = kept
