"""The sources of images that `clipfuse downstream` judges, found and checked before the first training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfuse.errors import UserError

if TYPE_CHECKING:
    from clipfuse.comparison.collect import Run
    from clipfuse.downstream.sources import Source

BUNDLED = "bundled"
SUFFIXES = (".ckpt", ".safetensors", ".onnx")


class Given:
    """The words of a command line that name sources, sorted.

    Args:
        words: run folders, folders of runs, files of networks, "bundled".

    Raises:
        UserError: a word names nothing of these, a run that was named has not finished, or none of a sweep.
    """

    def __init__(self, words: Sequence[str]) -> None:
        from clipfuse.comparison.collect import find_runs
        from clipfuse.runs.folder import STATUS

        self.runs: list[Run] = []
        self.networks: list[str] = []
        self.left_out: list[str] = []
        self.home = Path("runs")
        for word in words:
            path = Path(word).expanduser()
            if word == BUNDLED or (path.is_file() and path.suffix in SUFFIXES):
                self.networks.append(word if word == BUNDLED else str(path))
                continue
            if not path.is_dir():
                raise UserError(
                    f"{word}: no run folder, no sweep and no network; expected one of these, a file "
                    f"{' '.join(SUFFIXES)}, or {BUNDLED}"
                )
            single = (path / STATUS).is_file()
            found = find_runs([path], judged=False)  # a spoiled result is mended by judging anew
            finished = [run for run in found if run.status == "finished"]
            for run in found:
                if run.status != "finished" and single:
                    raise UserError(f"{word}: this run is {run.status}; finish it, or leave it out")
            if not finished:
                why = found[0].reason or found[0].status
                raise UserError(f"{word}: none of its {len(found)} runs has finished ({why}); wait for one")
            self.left_out += [f"{run.path} ({run.status})" for run in found if run not in finished]
            if not self.runs:
                self.home = path.parent if single else path
            self.runs += [run for run in finished if run.path not in {each.path for each in self.runs}]

    def data(self) -> Any:
        """Return the data set of the runs.

        Raises:
            UserError: there are no runs, they have several data sets, or theirs cannot be read here.
        """
        from clipfuse.networks.load import check_targets
        from clipfuse.runs.build import build

        if not self.runs:
            raise UserError("data is missing; choose the labelled pairs, as in data=msrs data.root=DIR")
        first, *others = self.runs
        if other := next((run for run in others if run.split != first.split), None):
            raise UserError(
                f"{first.path} and {other.path} were trained on different data; choose the labelled pairs, "
                "as in data=msrs data.root=DIR"
            )
        where = f"{first.path / 'config.yaml'}: data"
        node = first.config.get("data") or {}
        check_targets(node, ("clipfuse.data",), str(first.path / "config.yaml"))
        return build(node, where)

    def sources(self, out: Path, data: Any, device: str, trust: Sequence[str]) -> "list[Source]":
        """Return the sources of the runs and network files.

        Args:
            out: folder for results of what is no run.
            data: the data set in use.
            device: where networks fuse.
            trust: packages whose classes a checkpoint may name.

        Raises:
            UserError: a run has no checkpoint or is in use, or a file is no network.
        """
        from clipfuse.downstream.sources import network_source, run_source
        from clipfuse.networks.load import bundled
        from clipfuse.runs.owner import owned

        found, split = [], data.fingerprint()
        labels = [run.label for run in self.runs]
        for run in self.runs:
            with owned(run.path):  # or refuse it now, not after the trainings before it
                pass
            name = run.label if labels.count(run.label) == 1 else str(run.path)
            same = run.knows_content and run.split == split
            about = f"{run.config.get('name')}, seed {run.seed}"
            found.append(run_source(run.path, name, device, same, tuple(trust), about))
        for word in self.networks:
            file = bundled() if word == BUNDLED else Path(word)
            name = BUNDLED if word == BUNDLED else file.stem
            if file.parent.name == "checkpoints":
                name = f"{file.resolve().parents[1].name}-{file.stem}"
            found.append(network_source(name, out / name, file, device, tuple(trust)))
        return found


def fused_sources(words: Sequence[str], out: Path, data: Any) -> "list[Source]":
    """Return the sources of other methods' images.

    Args:
        words: NAME=TRAIN_DIR:TEST_DIR.
        out: folder for their results.
        data: the data set; every pair needs an image of its name in the folder of its part.

    Raises:
        UserError: a word has another form, a folder is missing, or pairs have no image in it.
    """
    from clipfuse.downstream.sources import files_source
    from clipfuse.images import check_name

    parts = data.parts()
    found = []
    for word in words:
        name, train, test = _split(word)
        check_name(name)
        files = _files_of(data, [*parts["train"], *parts.get("val", ())], train, "training")
        files |= _files_of(data, parts["test"], test, "test")
        found.append(files_source(name, out / name, files))
    return found


def _split(word: str) -> tuple[str, Path, Path]:
    name, equal, rest = word.partition("=")
    cuts = [place for place, letter in enumerate(rest) if letter == ":"]
    if not name or not equal or not cuts:
        raise UserError(f"--fused {word}: expected NAME=TRAIN_DIR:TEST_DIR, two folders of fused images")
    pairs = [(Path(rest[:cut]).expanduser(), Path(rest[cut + 1 :]).expanduser()) for cut in cuts]
    train, test = next((each for each in pairs if all(folder.is_dir() for folder in each)), pairs[0])
    return name, train, test


def _files_of(data: Any, names: Sequence[str], folder: Path, part: str) -> dict[str, Path]:
    """Return the image of each pair of a part, matched by name as `clipfuse score` does it."""
    from clipfuse.data.masks import files_of_pairs
    from clipfuse.data.matching import ImageFile
    from clipfuse.images import check_sizes, image_files

    there = image_files(folder)
    pairs: Mapping[str, Any] = getattr(data, "pair_files", dict)()
    if pairs:
        own = {name: pairs[name] for name in names}
        found = files_of_pairs(own, [ImageFile(path, ()) for path in there.values()])
    else:
        found = {name: path for name, path in there.items() if name in set(names)}
    if missing := [name for name in names if name not in found]:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{folder}: {len(missing)} of {len(names)} {part} pairs have no image of their name: {shown} "
            f"(the folder holds {next(iter(there))}, ...); fuse them, or rename the files"
        )
    if pairs:
        check_sizes({name: (found[name], pairs[name].infrared) for name in names})
    return {name: found[name] for name in names}


def check_unique(sources: "Sequence[Source]") -> None:
    """Require that no two sources have one name or one folder.

    Raises:
        UserError: names both.
    """
    names: dict[str, str] = {}
    for source in sources:
        if source.name.lower() in names:
            raise UserError(
                f"two sources are called '{source.name}'; rename the file of one, or give it another name by "
                "--fused NAME=..."
            )
        names[source.name.lower()] = source.name
