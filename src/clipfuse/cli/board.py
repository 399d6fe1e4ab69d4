"""`clipfuse board FOLDER`: the results of many methods as one page."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Read results, rank the methods, print the tables, and write the page."""
    options = _parse(arguments)
    # Imported late, so that --help does not load scipy and torch.
    from clipfuse.board.album import find_images, make_album
    from clipfuse.board.gathering import gather
    from clipfuse.board.page import page, summary
    from clipfuse.board.standings import build_standings
    from clipfuse.errors import UserError
    from clipfuse.files import check_output, write_atomically

    out = Path(options.out)
    check_output(out, options.overwrite)
    if options.images and not Path(options.images).is_dir():
        raise UserError(f"--images {options.images}: no such folder; expected SET/METHOD/NAME.png in it")
    found = gather([Path(name) for name in options.places])
    standings = build_standings(found.entries)
    methods = list(dict.fromkeys(entry.method for each in standings for entry in each.entries))
    roots = [*found.images, *([Path(options.images)] if options.images else [])]
    album = make_album(find_images(roots, found.entries), methods)
    command = shlex.join(["clipfuse", "board", *arguments])
    text = page(standings, found.seen, album, found.notes, command, options.title)
    with write_atomically(out, overwrite=options.overwrite) as file:
        file.write(text)
    print("\n".join(summary(standings, found.seen, found.notes)).strip("\n"))
    print(f"written: {out}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse board",
        description="Make a leaderboard of results of clipfuse score --json, run folders and downstream "
        "results: one page that needs no other file. Methods are ranked together where they were measured on "
        "the same images; protocols are separate tables.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "places",
        nargs="+",
        metavar="FOLDER",
        help="folder of results and run folders, or one file of results",
    )
    parser.add_argument("--out", default="board.html", metavar="FILE", help="the page (default: board.html)")
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="images to show: SET/METHOD/NAME.png and SET/infrared, SET/visible (default: folders 'images' "
        "beside the results)",
    )
    parser.add_argument("--title", default="Leaderboard", metavar="TEXT", help="title of the page")
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it exists")
    return parser.parse_args(arguments)
