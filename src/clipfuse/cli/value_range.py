"""The option `--range` of `fuse` and `score`."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipfuse.decoding.ranges import Ranges


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
