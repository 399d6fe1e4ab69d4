"""What `clipfuse score` writes for others: results with scenes and digests, and a page of them."""

import argparse
import shlex
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfuse.errors import UserError

if TYPE_CHECKING:
    from clipfuse.board.results import About, Degradation, Entry, Pair
    from clipfuse.cli.scored import Job, Scores
    from clipfuse.metrics.protocols import Protocol

Files = Mapping[str, tuple[Path, ...]]


def add_stated(parser: argparse.ArgumentParser) -> None:
    """Add the options of results and of their page."""
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="results as clipfuse board reads them: the scores of each image with scene and digest; a "
        "folder, or a name that ends in /, gets a file per method",
    )
    parser.add_argument("--html", metavar="FILE", help="the results as a page with images, as clipfuse board")
    group = parser.add_argument_group("what --json and --html state beside the scores")
    group.add_argument("--set", metavar="NAME", help="name of the data set (default: its folder's)")
    group.add_argument(
        "--scenes",
        help="which images show one scene, for intervals: auto, a regular expression over the names, or a "
        ".csv file of name,scene (default: each image is one)",
    )
    group.add_argument(
        "--degraded",
        metavar="FOLDER",
        help="of clipfuse degrade, from which the images were fused, where --infrared and --visible are "
        "clean; the trivial fusions are left out; needless where those are the degraded ones",
    )
    group.add_argument(
        "--parameters", action="append", default=[], metavar="[LABEL=]N", help="size of a method's network"
    )
    group.add_argument(
        "--seconds", action="append", default=[], metavar="[LABEL=]S", help="time of a method per image"
    )
    group.add_argument("--device", metavar="TEXT", help="on which --seconds were measured")


@dataclass(frozen=True)
class Stated:
    """What the options state.

    Attributes:
        json: file or folder of the results; None: no results are written.
        folder: whether `json` is a folder.
        html: the page, or None.
        set: name of the data set.
        scenes: the option `--scenes`.
        degradation: of the pairs from which the images were fused.
        about: size and time by method.
        methods: all methods, the trivial fusions, too.
        protocol: name and version, for the names of files.
    """

    json: Path | None
    folder: bool
    html: Path | None
    set: str
    scenes: str | None
    degradation: "Degradation | None"
    about: "Mapping[str, About]"
    methods: Sequence[str]
    protocol: str

    @classmethod
    def of(cls, options: argparse.Namespace, fused: Sequence[str]) -> "Stated":
        """Return what the options of `add_stated` state of these methods.

        Raises:
            UserError: an option has a value or a label that cannot be, or has no effect; or the records of
                degraded pairs do not agree.
        """
        from dataclasses import replace

        from clipfuse.board.results import About
        from clipfuse.metrics.protocols import PROTOCOLS

        infrared, visible = Path(options.infrared), Path(options.visible)
        given = [name for name in ("set", "scenes", "degraded", "parameters", "seconds", "device")]
        given = [name for name in given if getattr(options, name)]
        if given and not (options.json or options.html):
            raise UserError(f"--{given[0]} has no effect without --json or --html; add one of them")
        if options.device and not options.seconds:
            raise UserError(
                "--device has no effect without --seconds, which are measured on it; add them, or leave it "
                "out"
            )
        degradation, title = None, None
        if options.json or options.html:
            from clipfuse.board.reading import find_degradation  # slow: score alone does not wait for it

            found = find_degradation(infrared, visible)
            if options.degraded:
                if found:
                    raise UserError(
                        f"--degraded {options.degraded}: --infrared and --visible are degraded pairs "
                        "themselves; leave the option out, or name the clean ones"
                    )
                if not Path(options.degraded).is_dir():
                    raise UserError(
                        f"--degraded {options.degraded}: no such folder; expected one that clipfuse degrade "
                        "has written"
                    )
                found = find_degradation(Path(options.degraded))
                if found is None:
                    raise UserError(
                        f"--degraded {options.degraded}: holds no degradation.json; expected a folder that "
                        "clipfuse degrade has written"
                    )
                found = replace(found[0], against="clean"), None
            degradation, title = found or (None, None)
        sizes = _by_label("--parameters", options.parameters, fused)
        times = _by_label("--seconds", options.seconds, fused)
        if bad := next((n for n in sizes.values() if n != int(n)), None):
            raise UserError(f"--parameters {bad}: expected a whole number")
        about = {
            label: About(
                int(sizes[label]) if label in sizes else None,
                times.get(label),
                options.device if label in times else None,
            )
            for label in fused
        }
        name = options.set or title or _set_name(infrared, visible)
        words = (name, *fused, *([options.device] if options.device else []))
        for word in words if options.json or options.html else ():
            if not word.isprintable() or word != word.strip() or len(word) > 120:
                raise UserError(
                    f"the name {word[:80]!a} has spaces at its ends, cannot be printed, or is longer than "
                    "120 characters; choose another for --fused, --set or --device"
                )
        trivial = [f"trivial:{each}" for each in ("infrared", "visible", "average", "maximum")]
        protocol = PROTOCOLS.get(options.protocol or "strict")
        return cls(
            Path(options.json) if options.json else None,
            bool(options.json) and (options.json.endswith("/") or Path(options.json).is_dir()),
            Path(options.html) if options.html else None,
            name,
            options.scenes,
            degradation,
            about,
            [*fused, *(trivial if options.trivial else [])],
            str(protocol),
        )

    @property
    def wanted(self) -> bool:
        """Whether results or a page are written."""
        return self.json is not None or self.html is not None

    def files(self) -> list[Path]:
        """Return the files of results that are written."""
        if self.json is None:
            return []
        if not self.folder:
            return [self.json]
        return [self.json / self._file(method) for method in self.methods]

    def _file(self, method: str) -> str:
        from clipfuse.board.results import Entry, file_name

        return file_name(Entry(method, self.set, self.protocol, {}, (), {}, degradation=self.degradation))

    def pairs(self, files: Files, job: "Job", stated: Mapping[str, str]) -> "tuple[dict[str, Pair], str]":
        """Return scene and digests of each image, and where the scenes are from; copies share a scene.

        Args:
            files: of each image, infrared and visible first, then the mask if there is one.
            job: how they are read.
            stated: scenes that the table of the pairs states.

        Raises:
            UserError: an image cannot be read, or a scene is unknown.
        """
        from clipfuse.board.matching import counted_once
        from clipfuse.board.results import Pair, digest
        from clipfuse.cli.scored import read_files
        from clipfuse.ops.depth import to_bytes

        count = 3 if "masks" in job.words else 2
        scenes, source = self._scenes(files, stated)
        found = {}
        for name, paths in files.items():
            colors, _, mask = read_files(paths[:count], job.words[:count], job.classes, job.ranges)
            sources = [to_bytes(colors[band][0]) for band in ("infrared", "visible")]
            own = None if mask is None else digest(mask[0].byte())
            found[name] = Pair(scenes[name], digest(*sources), own)
        once, copies = counted_once(found)
        if copies:
            print(f"warning: {copies}", file=sys.stderr)
        return once, source

    def _scenes(self, files: Files, stated: Mapping[str, str]) -> tuple[dict[str, str], str]:
        import numpy as np

        from clipfuse.data.facts import thumbnails
        from clipfuse.data.scenes import given_scenes
        from clipfuse.data.video import features, find_scenes

        if self.scenes == "auto":

            def features_of(ids: Sequence[str]) -> dict[str, np.ndarray]:
                small = np.stack(thumbnails([path for name in ids for path in files[name][:2]]))
                return dict(zip(ids, features(small.reshape(len(ids), 2, *small.shape[1:])), strict=True))

            return find_scenes(list(files), features_of), "auto"
        if self.scenes is not None:
            return given_scenes(self.scenes, files, "--scenes")
        return {name: stated.get(name, name) for name in files}, "pairs" if stated else "names"

    def entries(
        self,
        methods: "Scores",
        names: Sequence[str],
        protocol: "Protocol",
        pairs: "Mapping[str, Pair]",
        scenes_from: str,
    ) -> "list[Entry]":
        """Return the results of the methods."""
        from clipfuse.board.results import About, Entry

        return [
            Entry(
                method,
                self.set,
                str(protocol),
                pairs,
                ({name: {image: row[name] for image, row in images.items()} for name in names},),
                {name: protocol.definition(name).higher_is_better for name in names},
                self.about.get(method, About()),
                self.degradation,
                "this command",
                scenes_from,
            )
            for method, images in methods.items()
        ]

    def write(
        self,
        entries: "Sequence[Entry]",
        more: Mapping[str, Any],
        overwrite: bool,
        arguments: Sequence[str],
        job: "Job",
        files: Files,
        kept: Container[Path] = (),
    ) -> None:
        """Write results and page.

        Args:
            entries: the results.
            more: further keys of each file.
            overwrite: replace files that exist.
            arguments: of the command.
            job: what the files of an image are.
            files: of each image.
            kept: files of results that are there and stay.
        """
        from clipfuse.board.results import to_record
        from clipfuse.files import write_atomically, write_json

        parts = [[each] for each in entries] if self.folder else [entries]
        for path, part in zip(self.files(), parts, strict=False):
            if path not in kept:
                write_json(path, {**to_record(part), **more}, overwrite)
        if self.html is not None:
            from clipfuse.board.album import load, make_album
            from clipfuse.board.page import page
            from clipfuse.board.standings import build_standings

            words = {word: place for place, word in enumerate(job.words) if word != "masks"}
            shown = {
                word: {
                    name: partial(load, paths[place], getattr(job.ranges, word, None))
                    for name, paths in files.items()
                }
                for word, place in words.items()
            }
            album = make_album({self.set: shown}, self.methods)
            command = shlex.join(["clipfuse", "score", *arguments])
            text = page(build_standings(entries), (), album, (), command, f"Scores on {self.set}")
            with write_atomically(self.html, overwrite=overwrite) as file:
                file.write(text)


def _by_label(option: str, words: Sequence[str], fused: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in words:
        label, equals, text = word.rpartition("=")
        if not equals:
            if len(fused) > 1:
                raise UserError(f"{option} {word}: there are {len(fused)} methods; expected LABEL={word}")
            label = fused[0]
        if label not in fused:
            raise UserError(f"{option} {word}: no --fused is called '{label}'; there are {', '.join(fused)}")
        try:
            value = float(text)
        except ValueError:
            value = nan
        if not 0 < value < inf or not isfinite(value) or value > 1e9 * 10 ** (5 * (option == "--parameters")):
            raise UserError(f"{option} {word}: expected a number above 0, as in {option} {label}=1000")
        if label in found:
            raise UserError(f"{option} {word}: {option} of '{label}' is given twice; keep one of them")
        found[label] = value
    return found


def _set_name(infrared: Path, visible: Path) -> str:
    """Return the name of the folder above both bands that names no part, else that of the infrared folder."""
    from clipfuse.data.matching import set_name

    folder = infrared.resolve()
    above = folder if folder == visible.resolve() else folder.parent
    return set_name(above) or folder.name or "data"
