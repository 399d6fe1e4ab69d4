"""Our own rows of the leaderboard, and its page.

    python -m experiments.leaderboard.make --roadscene D/roadscene --msrs D/msrs     # writes results/
    python -m experiments.leaderboard.make                                           # rendered scenes, page

Scores the networks of the package, the bundled one before its training, and the trivial fusions: on 199 test
pairs of MSRS (blocks of 50 numbers, 320x240), on RoadScene's test part by `data.split=roadscene`, and on the
24 rendered test pairs, also degraded ones, by the commands that anyone uses: `clipfuse fuse`, `degrade`,
`score`, `board`. Of real images the project holds scores alone; the page shows rendered ones.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from experiments.common import MSRS_SCENES, format_table, make_parser
from tqdm import tqdm

from clipfuse.backbones.student import Student
from clipfuse.board.album import slug
from clipfuse.board.reading import read_entries
from clipfuse.board.standings import FIRST, build_standings, in_words
from clipfuse.cli.__main__ import main as clipfuse
from clipfuse.comparison.table import FEW_SCENES
from clipfuse.data.splits import read_scenes, read_split
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.files import write_atomically
from clipfuse.images import write_png
from clipfuse.networks.apply import apply_network
from clipfuse.networks.load import load_network, named
from clipfuse.networks.weights import write_safetensors
from clipfuse.ops.depth import to_unit

HERE = Path(__file__).parent
RESULTS, PAGE, README = HERE / "results", HERE / "board.html", HERE / "README.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
METHODS = ("ClipFuse bundled", "ClipFuse first", "ClipFuse untrained")
Known = Mapping[str, tuple[Path, int, float]]  # of each method its network, parameters and seconds
METRICS = "fast,VIF,Qabf"  # all that `balanced` and `classic-eight` rank by
DEGRADED = [("noise", 2), ("low_light", 2)]  # of rendered scenes


def run(*words: str) -> None:
    """Run a command; an error ends the script."""
    print("clipfuse", *words, flush=True)
    if code := clipfuse(words):
        raise SystemExit(code)


def networks(folder: Path) -> dict[str, Path]:
    """Return the file of each method's network: two of the package, and the start of the first of them."""
    untrained = folder / "untrained.safetensors"
    node = {"_target_": "clipfuse.backbones.student.Student", "start": "energy"}
    write_safetensors(untrained, node, Student(start="energy"))
    return dict(zip(METHODS, (named("bundled"), named("first"), untrained), strict=True))


def costs(files: Mapping[str, Path]) -> Known:
    """Return with each file its parameters, and CPU seconds of a thread for 640x480 pixels, least of five."""
    torch.set_num_threads(1)
    one, other = torch.rand(2, 1, 1, 480, 640, generator=torch.Generator().manual_seed(0))
    found = {}
    for method, file in files.items():
        network = load_network(file)
        seconds = []
        for _ in range(5):
            start = time.process_time()
            apply_network(network, one, other)
            seconds.append(time.process_time() - start)
        count = sum(each.numel() for each in network.parameters())
        found[method] = file, count, round(min(seconds), 3)
    return found


def rendered(folder: Path) -> None:
    """Write the rendered test pairs with their masks as files: `ir`, `vi` and `masks`."""
    source = SyntheticPairs()
    for name in tqdm(source.parts()["test"], "rendering", unit="pair"):
        pair = source.load(name)
        assert pair.target_mask is not None
        planes = {"ir": pair.infrared, "vi": pair.visible, "masks": 255 * pair.target_mask.byte()}
        for kind, plane in planes.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            write_png(folder / kind / f"{name}.png", to_unit(plane), overwrite=True)


def link(names: Iterable[str], source: Path, folder: Path) -> None:
    """Make a folder of links to the pairs of these names."""
    for band in ("ir", "vi"):
        files = {path.stem: path.resolve() for path in (source / band).iterdir()}
        (folder / band).mkdir(parents=True)
        for name in names:
            (folder / band / files[name].name).symlink_to(files[name])


def score(folder: Path, name: str, work: Path, options: Iterable[str], known: Known) -> Path:
    """Fuse and score the pairs of a folder; return the folder of the fused images."""
    bands = ["--infrared", str(folder / "ir"), "--visible", str(folder / "vi")]
    fused = work / "fused" / folder.name
    words = []
    for method, (file, count, seconds) in known.items():
        out = fused / slug(method)
        if not out.is_dir():
            run("fuse", "--checkpoint", str(file), *bands, "--out", str(out))
        words += ["--fused", f"{method}={out}", "--parameters", f"{method}={count}"]
        words += ["--seconds", f"{method}={seconds}"]
    words += ["--device", "one CPU thread, 640x480", "--metrics", METRICS, "--workers", "1"]
    run("score", *bands, *words, *options, "--set", name, "--json", f"{RESULTS}/", "--overwrite")
    return fused


def tables() -> str:
    """Return the ranks of all stored results as tables in Markdown, and what degraded pairs cost."""
    standings = build_standings(
        [entry for path in sorted(RESULTS.glob("*.json")) for entry in read_entries(path)]
    )
    lines = []
    for each in standings:
        sets = [ranked.verdict_set for ranked in each.ranked]
        lines += [f"**{each.title}**, {each.protocol}: {each.images} images of {each.scenes} scenes", ""]
        rows = []
        for entry in each.entries:
            places = [each.place(entry.method, verdict_set) for verdict_set in sets]
            cells = [f"{p.rank:.2f} ({p.low:.2f} to {p.high:.2f})" if p else "-" for p in places]
            word = places[0].word if places[0] and each.effective_scenes >= FEW_SCENES else ""
            wins = f"{places[0].wins:.0%}" if places[0] else "-"
            rows.append([entry.method.removeprefix("trivial:"), *cells, wins, word])
        lines += [*format_table(["method", *(f"rank, {s}" for s in sets), "scenes won", ""], rows), ""]
        lines += [f"- {line}" for line in (*in_words(each), *each.notes)] + [""]
        if each.drops:
            names = [name for name in FIRST if any(name in drop.costs for drop in each.drops)]
            rows = []
            for drop in each.drops:
                cells = []
                for name in names:
                    low, high = drop.costs[name].interval()
                    cells.append(f"{drop.costs[name].value:+.3f} ({low:+.3f} to {high:+.3f})")
                kind = f"{drop.degradation.kind} {drop.degradation.strength}"
                rows.append([drop.method.removeprefix("trivial:"), kind, *cells])
            lines += [f"What degraded pairs cost on {each.set}, above 0 is worse:", ""]
            lines += [*format_table(["method", "degradation", *names], rows), ""]
    return "\n".join(lines)


def main() -> None:
    """Score what is at hand, and write the page of all results."""
    parser = make_parser(__doc__)
    parser.add_argument("--roadscene", type=Path, help="folder with ir and vi")
    parser.add_argument("--msrs", type=Path, help="folder with test/ir, test/vi and test/Segmentation_labels")
    parser.add_argument("--work", type=Path, help="folder for fused images, kept; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        known = costs(networks(work))
        pairs = work / "rendered"
        if not pairs.is_dir():
            rendered(pairs)
        masks = ["--masks", str(pairs / "masks")]
        fused = score(pairs, "rendered", work, masks, known)
        for kind, strength in DEGRADED:
            degraded = work / f"rendered-{kind}-{strength}"
            if not degraded.is_dir():
                words = ["--in", str(pairs), "--kind", kind, "--strength", str(strength)]
                run("degrade", *words, "--out", str(degraded))
            score(degraded, "rendered", work, ["--masks", str(pairs / "masks")], known)
        if options.roadscene:
            road, scenes = work / "roadscene", read_scenes("roadscene")
            names = read_split("roadscene")["test"]
            if not road.is_dir():
                link(names, options.roadscene, road)
            table = work / "scenes.csv"
            table.write_text("name,scene\n" + "".join(f"{name},{scenes[name]}\n" for name in names))
            score(road, "roadscene", work, ["--scenes", str(table)], known)
        if options.msrs:
            test = options.msrs / "test"
            labels = ["--masks", str(test / "Segmentation_labels"), "--mask-classes", "1,2"]
            score(test, "msrs", work, ["--scenes", MSRS_SCENES, *labels], known)
        shown = work / "images/rendered"
        shutil.rmtree(shown, ignore_errors=True)
        for word, folder in {"infrared": pairs / "ir", "visible": pairs / "vi"}.items():
            shutil.copytree(folder, shown / word)
        for method in METHODS:
            shutil.copytree(fused / slug(method), shown / slug(method))
        shutil.rmtree(work / "results", ignore_errors=True)
        shutil.copytree(RESULTS, work / "results")
        os.chdir(work)  # so that the command that the page names holds no path of this machine
        run("board", "results", "--images", "images", "--out", PAGE.name, "--overwrite")
        shutil.move(PAGE.name, PAGE)
        head, _, rest = README.read_text().partition(BEGIN)
        with write_atomically(README) as file:
            file.write(f"{head}{BEGIN}\n\n{tables()}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
