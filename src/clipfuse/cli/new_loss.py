"""`clipfuse new-loss NAME`: a loss of your own to start from, with its configuration and its test."""

import argparse
import keyword
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Template

from clipfuse.cli import starters
from clipfuse.cli.options import conf_dir
from clipfuse.cli.starters_bilevel import BILEVEL, BILEVEL_CLIP
from clipfuse.errors import UserError


def _starter(clip: bool, bilevel: bool) -> starters.Starter:
    if bilevel:
        return BILEVEL_CLIP if clip else BILEVEL
    return starters.CLIP if clip else starters.PLAIN


def main(arguments: Sequence[str]) -> None:
    """Write `NAME.py`, `conf/loss/NAME.yaml` and `test_NAME.py` into the current folder.

    Raises:
        UserError: the name cannot be used, or a file is there already; nothing is written then.
    """
    parser = argparse.ArgumentParser(
        prog="clipfuse new-loss",
        description="Write a loss that works, its configuration and its test into the current folder.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="of the file and in log keys, such as my_loss")
    parser.add_argument(
        "--clip", action="store_true", help="one that compares the fused image with a text by CLIP"
    )
    parser.add_argument(
        "--bilevel", action="store_true", help="one with a lower level of its own, which a solver moves"
    )
    given = parser.parse_args(arguments)
    name, starter = given.name, _starter(given.clip, given.bilevel)
    _check_name(name)
    search = f"# clipfuse train 'hydra.searchpath=[file://conf]' loss={name}\n"
    files = {
        Path(f"{name}.py"): starter.loss,
        Path("conf") / "loss" / f"{name}.yaml": search + starter.config,
        Path(f"test_{name}.py"): starters.TEST.replace("${imports}", starter.imports) + starter.test,
    }
    if existing := [str(path) for path in files if path.exists()]:
        raise UserError(f"{existing[0]} is there already; choose another name, or remove it")
    title = name.replace("_", " ").capitalize()
    cls = "".join(word.capitalize() for word in name.split("_"))
    words = {"name": name, "title": title, "cls": cls if cls.endswith("Loss") else f"{cls}Loss"}

    from clipfuse.files import write_atomically

    for path, text in files.items():
        with write_atomically(path, overwrite=False) as file:
            file.write(Template(text).substitute(words))
    print(f"written: {', '.join(map(str, files))}")
    print(f"test:    python -m pytest {list(files)[-1]}")
    print(f"train:   clipfuse train 'hydra.searchpath=[file://conf]' loss={name}")
    if starter is starters.PLAIN:  # the others hold parts that their configuration describes
        print(f"or:      clipfuse train loss=custom loss._target_={name}.{words['cls']} +loss.weight=2")


def _check_name(name: str) -> None:
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(f"'{name}' cannot name a loss; expected small letters, digits and _, as in my_loss")
    if (conf_dir() / "loss" / f"{name}.yaml").is_file():
        raise UserError(f"'{name}' is a loss of ClipFuse; choose another name, such as my_{name}")
    if find_spec(name) and not Path(f"{name}.py").exists():
        raise UserError(f"'{name}' is an installed module, which would be found first; choose my_{name}, say")
