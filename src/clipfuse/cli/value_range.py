"""The option `--range` of `fuse` and `score`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipfuse.decoding.ranges import Ranges


_log = logging.getLogger(__name__)


def add_range(parser: argparse.ArgumentParser) -> None:
    """Add the option to a parser; its value is a list of words."""
    parser.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="RANGE",
        help="values that are black and white in infrared and visible files of more than 8 bits: LO,HI, "
        "bits:14, or percentile (of each image); of one band infrared=LO,HI or visible=LO,HI",
    )


def given_ranges(words: Sequence[str]) -> "Ranges":
    """Return the ranges that the words of the option describe; later words win.

    Raises:
        UserError: a word describes none.
    """
    from clipfuse.decoding.ranges import Ranges, read_ranges

    result = Ranges()
    for word in words:
        given = read_ranges(word, "--range")
        result = Ranges(given.infrared or result.infrared, given.visible or result.visible)
    return result


def warn_of_training(pairs: Sequence[Sequence[Path]], ranges: "Ranges", checkpoint: Path) -> None:
    """Warn where a network was trained with a range, and files of more than 8 bits are read without one."""
    from clipfuse.decoding.reading import deep_files
    from clipfuse.networks.checkpoints import read_checkpoint

    if ranges or checkpoint.suffix == ".onnx" or not deep_files([files[0] for files in pairs]):
        return
    data = read_checkpoint(checkpoint)["clipfuse"]["config"].get("data")
    if isinstance(data, dict) and (trained := data.get("range")) is not None:
        _log.warning(
            "%s was trained with data.range=%s, which these files are read without; give it by --range",
            *(checkpoint, trained),
        )
