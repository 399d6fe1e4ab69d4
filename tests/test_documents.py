"""Every command of the documents is run on little data; what needs a cluster, a GPU or a network is composed.

What only others can do (`pip`, `ray`, `wandb`, `pre-commit`, scripts of the studies) is looked up: the
extra, the option, the file. A command that no rule takes fails.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict

from clipfuse import __version__
from clipfuse.cli.__main__ import COMMANDS
from clipfuse.cli.config import check_config, conf_dir
from clipfuse.cli.distill import DistillSettings
from clipfuse.cli.distill import as_overrides as distilled
from clipfuse.cli.downstream import DownstreamSettings, as_overrides
from clipfuse.cli.parts import join_parts
from clipfuse.cli.train import GROUPS
from clipfuse.decoding.clips import Clip, ClipWriter
from clipfuse.files import write_json
from clipfuse.losses.base import FusionLoss
from clipfuse.networks.by_loss import BY_LOSS
from clipfuse.networks.load import named
from clipfuse.rewards.scorer import BUNDLED
from clipfuse.runs.folder import LOG, STATUS
from clipfuse.runs.overrides import quoted
from clipfuse.runs.session import COMMAND
from clipfuse.runs.train import TrainSettings
from clipfuse.testing import LossContract, example_inputs
from clipfuse.testing.short_training import default_solver
from hydra_plugins.clipfuse_launcher._jobs import Job
from hydra_plugins.clipfuse_launcher._sweep import RECORD

ROOT = Path(__file__).parents[1]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
DOCUMENTS = [README, CHINESE, ROOT / "CONTRIBUTING.md", ROOT / "src/clipfuse/metrics/README.md"]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
STUDIES = [*sorted(ROOT.glob("experiments/*/README.md")), ROOT / "src/clipfuse/backbones/best/MODEL_CARD.md"]
SAMPLE = ROOT / "tests/sample_plugin/src"

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:clipfuse|make|pip|python -m|tensorboard) [^`]+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
# What a training on this machine, or within seconds, cannot have.
ELSEWHERE = re.compile(
    r"\btrainer=ddp|\blogger=|\bdata=(?!synthetic|folder)|\bclip=vit|\bhydra/launcher=|\bsweep=optuna|\bexperiment=(?:best|first)"
)
LITTLE = ["trainer=cpu", "steps=2", "validate_every=2", "loader.batch_size=2", "loader.crop_size=32"]
LITTLE += ["metrics.validation=[SSIM]", "metrics.test=[SSIM]", "trainer.log_every_n_steps=1"]
LITTLE += ["~callbacks.progress", "+trainer.enable_progress_bar=false"]
LITTLE_NETWORK = {"encoder_blocks": 1, "decoder_blocks": 0, "unet_width": 2}  # of a contourlet network
LITTLE_DATA = ["data.val=1", "data.test=2", "data.size=64"]


def commands(path: Path) -> Iterator[str]:
    """Yield the commands of a document without comments; `$S` is what `S="..."` said before."""
    text = path.read_text()
    for language, block in FENCED.findall(text):
        assert language in ("", "sh", "text", "python", "yaml"), (
            f"{path}: is ```{language} a list of commands?"
        )
        variables: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines() if language in ("", "sh") else ():
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            words = [word for word in shlex.split(line, comments=True) if word != "..."]
            if len(words) == 1 and re.match(r"[A-Z]=", words[0]):
                variables[words[0][0]] = words[0][2:]
            elif words:
                yield shlex.join(words)
    if path in DOCUMENTS:
        yield from (shlex.join(shlex.split(found)) for found in INLINE.findall(FENCED.sub("", text)))


def listed(paths: Sequence[Path]) -> list[str]:
    return list(dict.fromkeys(command for path in paths for command in commands(path)))


@dataclass(frozen=True)
class Place:
    """A folder with the files and folders that the documents name, and the command line in it.

    `trained` holds the trainings of this session: one that differs from an earlier one in its seed and its
    folder alone is composed and checked, but not run again.
    """

    clipfuse: Callable[..., tuple[int, str, str]]
    patch: pytest.MonkeyPatch
    trained: set[frozenset[str]]

    def run(self, *words: str) -> str:
        code, output, errors = self.clipfuse(*words)
        assert code == 0, errors
        return output


@pytest.fixture(scope="session")
def furniture(
    tmp_path_factory: pytest.TempPathFactory,
    trained: Path,
    pairs_folder: Path,
    sweeps: Callable[..., Callable],
) -> Path:
    """The folders that stand for RUN, DIR, SWEEP and others in the documents."""
    root = tmp_path_factory.mktemp("documents")
    shutil.copytree(trained, root / "RUN")
    for band in ("ir", "vi"):
        for path in sorted(pairs_folder.glob(f"*/{band}/*.png")):
            for folder in (f"DIR/{band}", f"data/{band}", *(["DIR", "results/mine"] if band == "vi" else [])):
                (root / folder).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, root / folder)
    for name in ("theirs", "u2fusion"):
        shutil.copytree(root / "results/mine", root / f"results/{name}")
    shutil.copy(BUNDLED, root / "scorer.safetensors")
    (root / "TABLE.csv").write_text("method,EN,SD\nU2Fusion,6.87,9.12\n")
    write = sweeps(root / "SWEEP")
    for seed in (0, 1):
        for number, loss in enumerate(("pixel", "ldfusion")):
            write(loss, seed, level=number, folder=str(2 * number + seed), pictures=64)
    for name in ("runs/study", "runs/pilot", "runs/mine"):
        shutil.copytree(root / "SWEEP", root / name)
    for name in ("runs/mine/0", "runs/best"):
        shutil.copytree(root / "RUN/checkpoints", root / name / "checkpoints")
    jobs = {0: ["seed=0"], 1: ["seed=1"]}
    (root / "SWEEP/sweep.yaml").write_text(yaml.safe_dump({"words": ["seed=0,1"], "jobs": jobs}))
    return root


@pytest.fixture(scope="session")
def trainings() -> set[frozenset[str]]:
    return set()


@pytest.fixture
def place(
    furniture: Path,
    trainings: set[frozenset[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clipfuse: Callable[..., tuple[int, str, str]],
) -> Iterator[Place]:
    here = tmp_path / "here"
    shutil.copytree(furniture, here)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(here), str(SAMPLE), *sys.path])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # for the launcher to deal out
    before = set(sys.modules)
    yield Place(clipfuse, monkeypatch, trainings)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(here), str(SAMPLE))):
            del sys.modules[name]


@cache
def check(words: tuple[str, ...]) -> DictConfig:
    """Compose a training and hold it against what it names, as `clipfuse train` does before it starts."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [*words, "name=checked"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        config = config.copy()
        with open_dict(config):
            del config["hydra"]
        join_parts(config)
        check_config(config, TrainSettings, GROUPS)
    return config


def key(job: Sequence[str]) -> frozenset[str]:
    """The settings of a training without its seed and its folder."""
    return frozenset(word for word in job if not word.startswith(("seed=", "run_dir=")))


def check_all(jobs: Sequence[Sequence[str]]) -> list[DictConfig]:
    """Check the jobs of a sweep; those that differ in their seed and folder alone are checked once."""
    return [check(tuple(word for word in job if word in key(job))) for job in jobs]


def launch(place: Place, words: Sequence[str]) -> list[list[str]]:
    """Start a sweep whose jobs end at once; return their words. Of a cluster only the settings count."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose("train", [word for word in words if word.startswith("hydra")], return_hydra_config=True)
    if ELSEWHERE.search(" ".join(words)):
        searches = [word for word in words if word.startswith("sweep=")]
        assert all((conf_dir() / f"{word.replace('=', '/')}.yaml").is_file() for word in searches)
        words = [
            lowest(word) for word in words if not word.startswith(("hydra/", "hydra.launcher.", "sweep="))
        ]
    jobs: list[list[str]] = []

    def start(job: Job, *_: object) -> None:
        job.started = monotonic()
        job.folder.mkdir(parents=True)
        (job.folder / LOG).touch()
        write_json(job.folder / STATUS, {"status": "finished"})
        record = yaml.safe_load((job.file.parents[1] / RECORD).read_text())
        search = [word for word in words if word.startswith("hydra.searchpath=")]
        jobs.append([*record["jobs"][job.number], *search, f"run_dir={quoted(str(job.folder))}"])

    place.patch.setattr(Job, "start", start)
    place.patch.setattr(Job, "is_alive", lambda job: False)
    place.patch.setattr(Job, "close", lambda job: "")
    place.run("train", *words)
    return jobs


def lowest(word: str) -> str:
    """Return an override with the lower end of the interval it asks a search to look in."""
    if word.startswith("-"):
        return word
    override = OverridesParser.create().parse_override(word)
    start = getattr(override.value(), "start", None)
    return f"{override.key_or_group}={start}" if start is not None else word


def train(place: Place, words: Sequence[str], every: bool = False) -> None:
    """Compose and check each job, and train the first, or every one, where this machine can."""
    words = ["loss=sample" if word == "loss=theirs" else word for word in words[2:]]
    if "loss=sample" in words:  # what its plugin would do were it installed
        words = [*words, f"hydra.searchpath=[file://{SAMPLE / 'sample_fusion/conf'}]"]
    if "--help" in words or "--cfg" in words:
        assert "loss" in place.run("train", *words)
        return
    if any("my_loss" in word for word in words):
        place.run("new-loss", "my_loss")
    for word in words:
        if word.startswith(("run_dir=", "hydra.sweep.dir=")):  # stands for another command
            shutil.rmtree(word.partition("=")[2], ignore_errors=True)
    jobs = launch(place, words) if {"-m", "--multirun"} & set(words) else [list(words)]
    for job, config in list(zip(jobs, check_all(jobs), strict=True))[: None if every else 1]:
        done = not every and key(job) in place.trained
        if not done and not ELSEWHERE.search(" ".join([*job, *words])):
            place.trained.add(key(job))
            for word in job:
                if word.startswith("run_dir="):  # where its stand-in has been
                    shutil.rmtree(shlex.split(word)[0].partition("=")[2], ignore_errors=True)
            data = [] if "data=folder" in job else ["data.train=4", *LITTLE_DATA]
            network = [
                f"backbone.{name}={value}"
                for name, value in LITTLE_NETWORK.items()
                if name in config.backbone
            ]
            place.run("train", *job, *LITTLE, *network, *data)


def make(place: Place, words: Sequence[str]) -> None:
    """Let make tell what it would do."""
    told = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def command(place: Place, words: Sequence[str]) -> None:
    """Run what trains nothing as it stands."""
    name, *rest = words[1:]
    if name == "--version":
        assert place.run(name).strip() == __version__
    elif (not rest and name != "doctor") or rest == ["--help"]:
        assert name in COMMANDS  # only named
    elif name == "evaluate":
        place.run(name, *rest, "data.train=1", *LITTLE_DATA, "metrics.test=[SSIM]")
    elif name == "doctor" and "--download" in rest:
        from open_clip import list_pretrained

        assert rest[0] == "--download"
        assert tuple(rest[1:]) in list_pretrained()
    elif name == "downstream":
        judged(rest)
    elif name == "distill" and "--help" not in rest:
        own = [word for word in rest if not word.startswith(("data", "+data"))]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            check_config(compose(name, distilled(rest)), DistillSettings, ("data", "backbone"))
        place.run(name, *own, *LITTLE_DATA, "data.train=2", "updates=1", "crops=1", "crop_size=32", "judge=0")
    elif name == "train-reward" and "--help" not in rest:
        pairs = [
            f"{band}/{path.name}" for path in sorted(Path("DIR/ir").iterdir())[:2] for band in ("ir", "vi")
        ]
        lines = [
            f"DIR/{ir},DIR/{vi},DIR/{ir},DIR/{vi},first"
            for ir, vi in zip(pairs[::2], pairs[1::2], strict=True)
        ]
        Path(rest[0]).write_text("\n".join(["infrared,visible,first,second,preferred", *lines]))
        place.run(name, *rest, "--updates", "1", "--overwrite")
    elif name == "compare":
        from clipfuse.comparison import wandb_report

        place.patch.setattr(wandb_report, "publish", lambda project, *_: f"https://example.org/{project}")
        assert "SSIM" in place.run(name, *rest)
    else:
        if name == "board":  # of the results of another line
            sources = ["--infrared", "data/ir", "--visible", "data/vi", "--metrics", "EN,SSIM"]
            place.run("score", "--fused", "results/mine", *sources, "--json", f"{rest[0]}/")
        if name == "score":
            Path("DEGRADED").mkdir()
            write_json(
                Path("DEGRADED/degradation.json"), {"protocol": "degraded-1", "kind": "haze", "strength": 1}
            )
        if name == "fuse" and rest[-2:] == ["--out", "DIR"]:  # of the sources in this document, too
            rest[-1] = "fused"
        if {"--loss", "--compare-losses"} & {*rest}:
            for loss in BY_LOSS:  # also those whose weights are not there yet
                Path("weights").mkdir(exist_ok=True)
                shutil.copy(named("student"), f"weights/{loss}.safetensors")
            place.patch.setattr("clipfuse.networks.by_loss.FOLDER", Path("weights"))
        for word in rest if name == "fuse" else ():
            if word.endswith(".mkv") and not Path(word).exists() and word != rest[-1]:
                write_video(Path(word))
            if word == "student.safetensors":  # made by another line, as the next one
                place.run("export", "--network", "student", "--out", word)
            if word.startswith("clipfuse."):
                place.run("export", "--checkpoint", "RUN/checkpoints/last.ckpt", "--out", word)
        place.run(name, *rest)


def write_video(path: Path) -> None:
    """Write two frames."""
    writer = ClipWriter(path, "FFV1", Clip(path, 48, 32, 25.0, 2))
    for _ in range(2):
        writer.write(np.full((32, 48, 3), len(path.name) * 9, np.uint8))
    writer.close()


def judged(words: Sequence[str]) -> None:
    """Compose a command that trains task networks, and find its sources."""
    if "--help" in words:
        return
    options, *overrides = as_overrides(["--cfg=job", *words])
    assert options == "--cfg=job"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("downstream", overrides)
    check_config(config, DownstreamSettings, ("downstream",))
    fused = [folder for word in config.fused for folder in word.partition("=")[2].split(":")]
    for word in [*config.sources, *fused]:
        assert word == "bundled" or Path(word).is_dir() or word.endswith((".ckpt", ".safetensors", ".onnx"))


def distributed(place: Place, words: Sequence[str]) -> None:
    """Check the options of torchrun, and the training it starts."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(list(words[1:]))
        assert (parsed.module, parsed.training_script) == (True, "clipfuse.cli")
    check(tuple(words[words.index("train") + 1 :]))


def module(place: Place, words: Sequence[str]) -> None:
    """Find a module of ours; run it where it takes seconds."""
    name, *rest = words[words.index("python") + 1 :]
    if name == "-m":
        name, *rest = rest
    if name == "clipfuse.data.synthetic":
        place.patch.setattr(sys, "argv", [name, *rest, "--count", "1"])
        import_module(f"{name}.__main__").main()
        assert Path(rest[rest.index("--out") + 1]).is_file()
    elif name == "pytest":
        place.run("new-loss", rest[0].removeprefix("test_").removesuffix(".py"))
        assert "LossContract" in Path(rest[0]).read_text()  # run in notebooks/write_a_loss.ipynb
    else:
        assert (ROOT / f"{name.removesuffix('.py').replace('.', '/')}.py").is_file()


def extra(place: Place, words: Sequence[str]) -> None:
    """Look up what would be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = words[-1].removeprefix(".").strip("[]")
    assert not name or name in project["optional-dependencies"]


def wandb_sweep(place: Place, words: Sequence[str]) -> None:
    """Check a training that the agent of a W&B sweep would start."""
    assert place.clipfuse("--conf")[1].strip() == str(conf_dir())
    sweep = yaml.safe_load(Path(words[2].replace("$(clipfuse --conf)", str(conf_dir()))).read_text())
    assert sweep["command"][:2] == ["clipfuse", "train"]
    assert sweep["command"][-1] == "${args_no_hyphens}"
    first = [
        f"{key}={each['values'][0] if 'values' in each else each['min']}"
        for key, each in sweep["parameters"].items()
    ]
    check((*sweep["command"][2:-1], *first))


def again(place: Place, words: Sequence[str]) -> None:
    """Begin from RUN; `command.txt` is pasted in tests/cli/test_repeat.py."""
    if words[0] == "sh":
        assert words[1] == f"RUN/{COMMAND}"
    else:
        place.run("train", *words[2:], *LITTLE[:-2])  # its record has no progress to leave out


def nothing(place: Place, words: Sequence[str]) -> None:
    """Pass over what is neither ours nor can be tried here."""


RULES: dict[str, Callable[[Place, Sequence[str]], None]] = {
    r"make [a-z-]+( DATA=DIR)?$": make,
    r"clipfuse train --from RUN |sh RUN/": again,
    r"clipfuse train(?!-)\b": train,
    rf"clipfuse ({'|'.join(COMMANDS)}|--version)\b": command,
    r"torchrun |srun .* clipfuse train ": distributed,
    r"([A-Z_]+=\d+ )*python (-m (clipfuse|experiments|pytest)\b|experiments/)": module,
    r"pip install (-e )?('\.\[\w+\]'|\.)$": extra,
    r"""wandb sweep ["']\$\(clipfuse --conf\)/\S+\.yaml["']$""": wandb_sweep,
    r"source \.venv/bin/activate$|\.venv/bin/pre-commit install$": nothing,
    r"export CLIPFUSE_DATA=|ray start --head$|tensorboard --logdir runs$": nothing,
}


def rule_of(line: str) -> Callable[[Place, Sequence[str]], None]:
    for pattern, rule in RULES.items():
        if re.match(pattern, line):
            return rule
    pytest.fail(f"{line}: no rule says how this command of a document is tried; add one to RULES")


@pytest.mark.parametrize("line", listed(DOCUMENTS), ids=str)
def test_command(place: Place, line: str) -> None:
    rule_of(line)(place, shlex.split(line))


@pytest.mark.parametrize("line", listed(STUDIES), ids=str)
def test_command_of_a_study(place: Place, line: str) -> None:
    """Trainings of hours are composed; all else is as in the other documents."""
    rule, words = rule_of(line), shlex.split(line)
    words = [str(ROOT / word) if word.startswith("experiments/") else word for word in words]
    if rule is train:
        check_all(launch(place, words[2:]) if "-m" in words else [words[2:]])
    else:
        rule(place, words)


def test_a_command_that_no_rule_takes_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="no rule"):
        rule_of("clipfusion train")


def test_a_key_that_is_none_fails(place: Place) -> None:
    with pytest.raises(Exception, match="gradient_wait"):
        train(place, ["clipfuse", "train", "loss.gradient_wait=3"])


@pytest.mark.parametrize("data", [(), ("DATA=DIR",)], ids=["rendered", "folder"])
def test_demo(place: Place, data: Sequence[str]) -> None:
    """Do what `make demo` does, on little data, and find what it names at the end."""
    words = ["make", "-n", "--no-print-directory", "-o", "setup", "demo", *data]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in told.replace("\\\n", " ").splitlines():
        if found := re.search(r"/(clipfuse .*)", line):
            words = shlex.split(found[1])
            train(place, words, every=True) if words[1] == "train" else command(place, words)
    (named,) = re.findall(r"echo .*?(\S+report\.html)", told)
    assert Path(named).stat().st_size > 10_000
    panels = [path for job in "012" for path in Path("runs/demo", job).glob("test/panel.png")]
    assert len(panels) == 3
    assert any(Path("runs/demo/fused").iterdir())


PYTHON = [
    pytest.param(block, id=f"{path.relative_to(ROOT)}-{number}")
    for path in DOCUMENTS
    for number, (language, block) in enumerate(FENCED.findall(path.read_text()))
    if language == "python"
]


def is_own_loss(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, FusionLoss) and kind.__module__ == "example"


def hold_to_contract(kind: Callable[[], FusionLoss]) -> None:
    """Try what a training does with a loss of a document, but for two ranks, which cannot import it."""
    contract = LossContract()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipfuse.testing.loss_contract.build_loss", lambda node: kind())
        given = {"node": {}, "inputs": example_inputs(count=2), "solver": default_solver, "kind": "white"}
        for name in (each for each in dir(contract) if each.startswith("test_") and "two_ranks" not in each):
            function = getattr(contract, name)
            wanted = function.__func__.__code__.co_varnames[: function.__func__.__code__.co_argcount]
            torch.manual_seed(0)
            values = {**given, "loss": kind()}
            function(**{each: value for each, value in values.items() if each in wanted})


@pytest.mark.parametrize("block", PYTHON)
def test_python(place: Place, block: str) -> None:
    names = {"images": torch.rand(1, 1, 40, 56), "__name__": "example"}
    exec(block, names)
    for kind in [each for each in names.values() if is_own_loss(each)]:
        hold_to_contract(kind)
    if "images_again" in names:
        torch.testing.assert_close(names["images_again"], names["images"])


@pytest.mark.parametrize("path", [*DOCUMENTS, *STUDIES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = LINK.findall(path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_is_short_and_its_reading_list_true() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    section = text.partition("## Read the code")[2]
    listed_files = [
        "src/clipfuse/types.py",
        *("src/clipfuse/losses/base.py", "src/clipfuse/losses/pixel.py"),
        *("src/clipfuse/training/stepping.py", "src/clipfuse/training/module.py", "conf/train.yaml"),
    ]
    assert LINK.findall(section)[: len(listed_files)] == listed_files
    lines = sum(len((ROOT / path).read_text().splitlines()) for path in listed_files)
    stated = int(re.findall(r"about (\d+) lines", section)[0])
    assert abs(stated - lines) < 0.1 * lines, f"the reading list has {lines} lines; README.md states {stated}"


def test_the_chinese_readme_has_the_same_commands() -> None:
    assert len(CHINESE.read_text().splitlines()) <= 90
    assert set(commands(CHINESE)) == set(commands(README))
    assert "README.zh.md" in LINK.findall(README.read_text())


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"] == __version__
    assert citation["license"] == project["license"]
    assert {"message", "title", "authors", "date-released"} <= set(citation)


def test_the_drawing_of_the_rooms_is_that_of_the_rules() -> None:
    spec = spec_from_file_location("rooms", ROOT / "docs/rooms.py")
    assert spec is not None
    assert spec.loader is not None
    rooms = module_from_spec(spec)
    spec.loader.exec_module(rooms)
    text = rooms.PAGE.read_text()
    assert text == rooms.renewed(text, rooms.rules()), "run: python docs/rooms.py"
    small = {"a": set(), "b": {"a", "b"}, "c": {"b.part", "a"}}
    assert rooms.levels(small) == [["a"], ["b"], ["c"]]
    assert " 3  c -> a b.part\n" in rooms.drawing(small)
    with pytest.raises(CycleError):
        rooms.levels({"a": {"b"}, "b": {"a"}})
