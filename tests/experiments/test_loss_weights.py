"""The small networks of the losses: one recipe for all, and files and card that fit."""

import re
from pathlib import Path

import pytest
from experiments.common import compose_run
from experiments.compare_losses import zoo
from experiments.loss_weights import train as study
from experiments.second_recipe.search import CHANGES, WITHOUT_CLIP, ZOO

from clipfuse.cli.config import check_config, conf_dir
from clipfuse.cli.train import GROUPS
from clipfuse.files import file_sha256
from clipfuse.networks.by_loss import BY_LOSS
from clipfuse.networks.load import load_network
from clipfuse.runs.train import TrainSettings

ROOTS = {"roadscene": Path("x"), "msrs": Path("y"), "split": Path("z")}
LEFT_OUT = {"lpips", "learned_loss_task", "uncertainty", "gradnorm"}


def test_every_loss_has_weights_or_is_left_out_for_a_reason() -> None:
    assert set(BY_LOSS) == set(zoo.LOSSES) - LEFT_OUT
    readme = Path(study.__file__).with_name("README.md").read_text()
    assert all(f"`{name.removesuffix('_task')}`" in readme for name in LEFT_OUT)
    assert set(ZOO) == set(BY_LOSS) - {"task"}  # what the search tries, and the names of those without a CLIP
    assert set(WITHOUT_CLIP) <= {*ZOO, "edges, ssim"}
    used = set(re.findall(r"\w+", " ".join(word for name in BY_LOSS for word in zoo.LOSSES[name])))
    assert {path.stem for path in (conf_dir() / "loss").glob("*.yaml")} - used == {"custom", "lpips"}


def test_trainings_differ_in_their_loss_alone() -> None:
    chosen = ("pixel", "clip_lit", "promptfusion_views", "adversarial", "task")  # one of each change
    assert set(CHANGES) <= {*chosen, *(name for name in BY_LOSS if name.startswith("promptfusion"))}
    configs = {name: compose_run([*study.words(name, ROOTS), "run_dir=x"]) for name in chosen}
    for name, config in configs.items():
        check_config(config, TrainSettings, GROUPS)
        assert config.loss.get("warmup", 120) == 120
        assert config.loss.get("fidelity", {}).get("decomposition_weight", 0) == 0
        same = {"backbone", "optimizer", "scheduler", "loader", "steps", "seed", "clip", "input_noise"}
        assert {key: config[key] for key in same} == {key: configs["pixel"][key] for key in same}
        if name != "task":
            assert config.data == configs["pixel"].data
    assert configs["pixel"].data.sources.roadscene.root == "x"
    assert configs["task"].data.root == configs["pixel"].data.sources.msrs.root == "y"
    assert configs["task"].data.split == configs["pixel"].data.sources.msrs.split == "z"


def test_weights_and_card_of_a_training(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study.write_weights("pixel", trained / "checkpoints/last.ckpt", tmp_path)
    for one, other in zip(
        load_network(path).parameters(),
        load_network(trained / "checkpoints/last.ckpt").parameters(),
        strict=True,
    ):
        assert one.equal(other)
    card = tmp_path / "card.md"
    card.write_text(f"before\n{study.BEGIN}\nold\n{study.END}\nafter\n")
    study.renew_card(card, study.table({"pixel": path, "task": path}))
    digest = file_sha256(path)
    assert card.read_text().splitlines() == [
        *("before", study.BEGIN, "", *study.table({})),
        f"| `pixel` | {BY_LOSS['pixel']} | all | `{digest}` |",
        f"| `task` | {BY_LOSS['task']} | MSRS | `{digest}` |",
        *("", study.END, "after"),
    ]
