import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from clipfuse.bilevel import ValuePenalty
from clipfuse.cli.config import check_config, conf_dir
from clipfuse.clip.encoder import FrozenClip
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.errors import UserError
from clipfuse.losses.pixel import PixelLoss
from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.ops.defects import bad_pictures
from clipfuse.ops.pyramid import detail_maximum
from clipfuse.ops.seeding import derived_seed
from clipfuse.runs.train import TrainSettings, train
from clipfuse.testing.loss_contract import LossContract, example_inputs
from clipfuse.training.stepping import LossProblem, both_levels
from clipfuse.types import FusionOutput, LossInputs

PAIRS = {
    "targets": {
        "positive": "the target is very striking",
        "negative": "the target is fuzzy, not prominent",
        "against": ["visible", "low_contrast"],
    },
    "texture": {
        "positive": "the texture is very clear",
        "negative": "the texture is weak",
        "against": ["blur", "average"],
    },
}
SOLVERS = ("value_penalty", "alternate", "joint", "gauss_newton")


def make(clip: FrozenClip, **options: Any) -> PromptFusionLoss:
    options = {"fidelity": PixelLoss(), "pairs": PAIRS, "warmup": 0, **options}
    return PromptFusionLoss(clip, **options).train()


def other_values(loss: PromptFusionLoss, seed: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (value + 0.3 * torch.randn(value.shape, generator=generator)).detach().requires_grad_()
        for value in loss.lower_parameters()
    ]


def test_equals_a_plain_second_implementation(micro_clip: FrozenClip) -> None:
    """One sample, one pair, one picture after another, by torch's own cross-entropy and cosine."""
    loss = make(micro_clip, guidance_weight=0.7, ranking_weight=2.0, margin=0.15, view="whole")
    inputs, lower = replace(example_inputs(), step=4, seed=9), other_values(loss)
    assert loss.prompts is not None
    texts = loss.prompts.features(lower)
    good = detail_maximum(inputs.infrared, inputs.visible)
    guidance, lower_terms = [], []
    for index, name in enumerate(inputs.sample_ids):
        row = slice(index, index + 1)
        bands = good[row], inputs.infrared[row], inputs.visible[row]
        for k, (pair, described) in enumerate(PAIRS.items()):

            def logits(image: Tensor, k: int = k) -> Tensor:
                embedding = micro_clip.encode_image(image, resize="squash")
                cosines = torch.nn.functional.cosine_similarity(embedding, texts[2 * k : 2 * k + 2])
                return (micro_clip.logit_scale * cosines)[None]

            seed = derived_seed(9, 4, "bad", pair, name)
            bad = bad_pictures(described["against"], *bands, [seed])  # type: ignore[arg-type]
            of = {"fused": logits(inputs.fused[row]), "good": logits(good[row]), "bad": logits(bad)}
            p = {key: value.softmax(dim=1)[0, 0] for key, value in of.items()}
            guidance.append(-p["fused"].log())
            entropy = torch.nn.functional.cross_entropy
            right = entropy(of["good"], torch.tensor([0])) + entropy(of["bad"], torch.tensor([1]))
            above = torch.clamp(p["fused"] - p["good"] + 0.15, min=0)
            below = torch.clamp(p["bad"] - p["fused"] + 0.15, min=0)
            lower_terms.append(right / 2 + 2 * (above + below))
    state = loss.prepare(inputs)
    upper, f = loss.upper_loss(state, lower), loss.lower_loss(state, lower)
    expected_upper = PixelLoss()(inputs).total + 0.7 * torch.stack(guidance).mean()
    expected_f = torch.stack(lower_terms).mean()
    # float32, embeddings normalised in two ways, times a scale of some 14
    exact = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(upper.total, expected_upper, **exact)
    torch.testing.assert_close(f.total, expected_f, **exact)
    assert float(f.terms["ranking"]) > 0
    for found, expected in ((upper.total, expected_upper), (f.total, expected_f)):
        wanted = [inputs.fused, *lower]
        theirs = torch.autograd.grad(expected, wanted, retain_graph=True)
        ours = torch.autograd.grad(found, wanted, retain_graph=True)
        for mine, plain in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


def test_the_first_stage_has_neither_guidance_nor_ranking(micro_clip: FrozenClip) -> None:
    loss, pixel = make(micro_clip, warmup=5), PixelLoss()
    for step, guided in ((0, False), (4, False), (5, True)):
        inputs = replace(example_inputs(), step=step)
        state, lower = loss.prepare(inputs), loss.lower_parameters()
        plain = pixel(inputs)
        total, f = loss.upper_loss(state, lower).total, loss.lower_loss(state, other_values(loss))
        # float32 means of 4 x 48 x 48 values, taken twice; guidance adds some 0.6.
        assert torch.allclose(total, plain.total, rtol=1e-5, atol=0) is not guided
        gradient = torch.autograd.grad(f.total, inputs.fused, allow_unused=True)[0]
        assert (gradient is not None) is guided
        assert ("ranking" in f.terms) is guided


CLIP_LIT: dict[str, Any] = {
    "guidance": "probability",
    "refinement": "ranking",
    "margin": 0.1,
    "margin_bad": 0.9,
    "margin_ends": 0.9,
    "margin_earlier": 0.1,
    "earlier_decay": 0.99,
}


class Earlier:
    """What an earlier network makes of a batch."""

    def __call__(
        self, infrared: Tensor, visible: Tensor, parameters: Any = None, chroma: Any = None
    ) -> FusionOutput:
        return FusionOutput(0.7 * infrared + 0.3 * visible)

    def parameters(self) -> dict[str, Tensor]:
        return {}


def test_clip_lit_equals_its_written_out_form(micro_clip: FrozenClip) -> None:
    """Its scores S = 1 - p, its four ranks and its margins, one sample and one pair after another."""
    loss = make(micro_clip, ranking_weight=2.0, guidance_weight=0.7, view="whole", **CLIP_LIT)
    inputs, lower = replace(example_inputs(), step=4, seed=9, teacher=Earlier()), other_values(loss)
    assert loss.prompts is not None
    texts = loss.prompts.features(lower)
    good = detail_maximum(inputs.infrared, inputs.visible)
    earlier = 0.7 * inputs.infrared + 0.3 * inputs.visible
    guidance, ranking = [], []
    for index, name in enumerate(inputs.sample_ids):
        row = slice(index, index + 1)
        for k, (pair, described) in enumerate(PAIRS.items()):

            def S(image: Tensor, k: int = k) -> Tensor:
                embedding = micro_clip.encode_image(image, resize="squash")
                cosines = torch.nn.functional.cosine_similarity(embedding, texts[2 * k : 2 * k + 2])
                return (micro_clip.logit_scale * cosines).softmax(dim=0)[1]

            seed = derived_seed(9, 4, "bad", pair, name)
            bad = bad_pictures(
                described["against"], good[row], inputs.infrared[row], inputs.visible[row], [seed]
            )  # type: ignore[arg-type]
            s = [S(image) for image in (bad, earlier[row], inputs.fused[row], good[row])]
            guidance.append(s[2])
            pairs = ((0, 1, 0.9), (1, 2, 0.1), (2, 3, 0.1), (0, 3, 0.9))
            ranking.append(sum(torch.clamp(s[b] - s[a] + m, min=0) for a, b, m in pairs))
    state = loss.prepare(inputs)
    upper, f = loss.upper_loss(state, lower), loss.lower_loss(state, lower)
    expected = PixelLoss()(inputs).total + 0.7 * torch.stack(guidance).mean()
    exact: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}  # float32, embeddings normalised in two ways
    torch.testing.assert_close(upper.total, expected, **exact)
    torch.testing.assert_close(f.total, 2 * torch.stack(ranking).mean(), **exact)  # type: ignore[arg-type]
    assert "cross_entropy" in f.terms  # for the log
    still = make(micro_clip, **CLIP_LIT)
    with pytest.raises(ValueError, match=r"promptfusion loss: earlier_decay needs inputs\.teacher"):
        still.prepare(replace(inputs, teacher=None))
    assert still.eval().prepare(replace(inputs, teacher=None)).earlier is None
    assert make(micro_clip).teacher_decay is None
    assert make(micro_clip, prompts="fixed", earlier_decay=0.9).teacher_decay is None


def test_clip_lit_s_prompts_learn_by_cross_entropy_first_and_by_ranking_alone_later(
    micro_clip: FrozenClip,
) -> None:
    loss = make(micro_clip, warmup=5, **{**CLIP_LIT, "margin_bad": 0.0, "margin_ends": 0.0, "margin": 0.0})
    plain = make(micro_clip, warmup=5)
    lower = other_values(loss)
    for step in (4, 5):
        inputs = replace(example_inputs(), step=step, teacher=Earlier())
        state = loss.prepare(inputs)
        found = loss.lower_loss(state, lower)
        entropy = plain.lower_loss(plain.prepare(inputs), lower).terms["cross_entropy"]
        torch.testing.assert_close(found.terms["cross_entropy"], entropy)
        assert (state.earlier is not None) is (step == 5)
        assert torch.equal(found.total.detach(), entropy if step == 4 else found.terms["ranking"])
    # Ranks that all keep their distance leave the prompts where they are.
    shifted = replace(state, pictures=None if state.pictures is None else state.pictures.clone())
    assert shifted.pictures is not None
    texts = loss._texts(lower)
    best, worst = texts[0::2].sum(0) - texts[1::2].sum(0), texts[1::2].sum(0) - texts[0::2].sum(0)
    shifted.pictures[0], shifted.pictures[1:] = best.detach(), worst.detach()
    middle = (0.5 * best).detach().expand_as(state.fused) + 0 * state.fused
    calm = make(micro_clip, **{**CLIP_LIT, "margin": 0.0, "margin_bad": 0.0, "margin_ends": 0.0,
                               "margin_earlier": 0.0})  # fmt: skip
    shifted = replace(shifted, fused=middle, earlier=middle.detach())
    gradients = torch.autograd.grad(calm.lower_loss(shifted, lower).total, lower)
    assert not any(gradient.any() for gradient in gradients)


def test_pictures_serve_for_some_updates_and_survive_a_checkpoint(micro_clip: FrozenClip) -> None:
    loss, inputs = make(micro_clip, pictures_every=3), example_inputs()
    others = replace(inputs, infrared=inputs.visible, visible=inputs.infrared)
    first = loss.prepare(replace(inputs, step=3)).pictures
    assert first is not None
    assert first.shape == (3, 4, 24)
    for step in (4, 5):
        assert loss.prepare(replace(others, step=step)).pictures is first
    again = make(micro_clip, pictures_every=3)
    again.load_state_dict(loss.state_dict())
    kept = again.prepare(replace(others, step=5)).pictures
    assert kept is not None
    assert torch.equal(kept, first)
    fresh = loss.prepare(replace(others, step=6)).pictures
    assert fresh is not None
    assert not torch.equal(fresh, first)
    smaller = loss.prepare(replace(inputs, step=7, **{
        name: getattr(inputs, name)[:2] for name in ("fused", "infrared", "visible")
    }, sample_ids=inputs.sample_ids[:2])).pictures  # fmt: skip
    assert smaller is not None
    assert smaller.shape[1] == 2


def test_a_look_ahead_at_some_of_the_batch_leaves_what_is_kept(micro_clip: FrozenClip) -> None:
    loss, inputs = make(micro_clip, pictures_every=3), example_inputs()
    first = loss.prepare(replace(inputs, step=3)).pictures
    assert first is not None
    others = replace(inputs, infrared=inputs.visible, visible=inputs.infrared, step=6)
    whole = loss.prepare(others).pictures
    kept = loss.get_extra_state().clone()
    ahead = loss.prepare(others.part(slice(0, 2))).pictures
    assert ahead is not None
    assert whole is not None
    assert torch.equal(ahead, kept[:, :2])
    assert torch.equal(loss.get_extra_state(), kept)
    assert loss.prepare(replace(others, step=7)).pictures is not None
    assert torch.equal(loss.get_extra_state(), kept)


def test_validation_neither_needs_nor_changes_what_training_keeps(micro_clip: FrozenClip) -> None:
    loss, inputs = make(micro_clip), example_inputs()
    loss.prepare(inputs)
    kept = loss.get_extra_state().clone()
    with torch.no_grad():
        output, lower = both_levels(loss.eval(), replace(inputs, infrared=inputs.visible, step=10))
        again = both_levels(loss, replace(inputs, infrared=inputs.visible, step=11))[1]
        reference = both_levels(
            make(micro_clip, positives="reference").eval(), replace(inputs, reference=None)
        )
    assert torch.equal(loss.get_extra_state(), kept)
    assert set(lower) == {"cross_entropy", "ranking"}
    assert lower == again, "bad images of a validation are the same each time"
    assert not reference[1]
    names = {"infrared", "visible", "average", "maximum", "composite", "fused_targets", "fused_texture"}
    names |= {"good", "bad"}
    assert {name for name in output.terms if name.startswith("p_")} == {f"p_{name}" for name in names}


def test_texts_are_made_again_only_where_values_moved(
    micro_clip: FrozenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, inputs = make(micro_clip), example_inputs()
    assert loss.prompts is not None
    made: list[int] = []
    features = loss.prompts.features

    def watch(contexts: Sequence[Tensor]) -> Tensor:
        made.append(1)
        return features(contexts)

    monkeypatch.setattr(loss.prompts, "features", watch)
    y, z = ([value.detach() for value in values] for values in (loss.lower_parameters(), other_values(loss)))
    state = loss.prepare(inputs)
    first = [float(loss.lower_loss(state, values).total.detach()) for values in (y, z)]
    for _ in range(3):
        again = [
            float(loss.lower_loss(state, [v.detach() for v in values]).total.detach()) for values in (y, z)
        ]
        assert again == first
    assert len(made) == 2
    with torch.no_grad():
        for value in y:
            value.mul_(1.5)
    moved = float(loss.lower_loss(state, y).total.detach())
    assert len(made) == 3
    assert moved != pytest.approx(first[0], rel=1e-3)
    expected = make(micro_clip)
    expected._pictures = state.pictures
    fresh = expected.lower_loss(state, [value.clone() for value in y]).total
    # A float32 tower run twice.
    assert float(fresh.detach()) == pytest.approx(moved, rel=1e-5)


def test_learned_prompts_start_as_the_fixed_texts(micro_clip: FrozenClip) -> None:
    inputs = example_inputs()
    learned, fixed = make(micro_clip), make(micro_clip, prompts="fixed")
    assert not list(fixed.lower_parameters())
    assert len(learned.lower_parameters()) == 4
    torch.testing.assert_close(fixed(inputs).total, learned(inputs).total, rtol=1e-5, atol=1e-6)
    assert "prompt_drift" not in fixed(inputs).terms
    with pytest.raises(ValueError, match="only learned prompts have a lower level"):
        fixed.lower_loss(fixed.prepare(inputs), ())


def test_positives_may_be_the_reference(micro_clip: FrozenClip) -> None:
    inputs = example_inputs()
    assert inputs.reference is not None
    loss = make(micro_clip, positives="reference", view="whole")
    loss.setup(inputs)
    pictures = loss.prepare(inputs).pictures
    assert pictures is not None
    expected = micro_clip.encode_image(inputs.reference, resize="squash")
    torch.testing.assert_close(pictures[0], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"positives=reference needs data .* take loss.positives=composite"):
        loss.setup(replace(inputs, reference=None))


def test_each_picture_has_a_view_of_its_own_in_training(micro_clip: FrozenClip) -> None:
    """Drawn by seed, step, sample and picture; every pixel of it lies in the image."""
    same = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)).expand(4, 1, 48, 48)
    inputs, loss = replace(example_inputs(), fused=same), make(micro_clip)
    seen = loss.prepare(inputs).fused
    assert torch.equal(loss.prepare(inputs).fused, seen)
    assert (torch.cdist(seen, seen)[~torch.eye(4, dtype=torch.bool)] > 1e-3).all()
    for change in ({"step": 1}, {"seed": 1}):
        assert not torch.equal(loss.prepare(replace(inputs, **change)).fused, seen)
    whole = micro_clip.encode_image(same, resize="squash")
    # A float32 tower, whose sums threads may share out in another order.
    torch.testing.assert_close(loss.eval().prepare(inputs).fused, whole, rtol=1e-5, atol=1e-5)
    flat = torch.full_like(same, 0.5)
    expected = micro_clip.encode_image(flat, resize="squash")
    torch.testing.assert_close(loss.train()._encode(flat, inputs, "fused"), expected, rtol=1e-3, atol=1e-4)


def test_artifacts_name_the_words_and_rank_the_images(micro_clip: FrozenClip) -> None:
    loss = make(micro_clip).eval()
    found = loss.artifacts(replace(example_inputs(), fused=example_inputs().fused.detach()))
    assert found.texts["targets positive"] == "the target is very striking"
    names = [caption.rpartition(" ")[0] for caption, _ in found.images]
    scores = [float(caption.rpartition(" ")[2]) for caption, _ in found.images]
    assert set(names) == {"fused", "infrared", "visible", "average", "maximum", "composite", "reference"}
    words = {f"{k} {s}" for k in PAIRS for s in ("positive", "negative")}
    assert set(found.texts) == words | {f"p of {name}" for name in names}
    assert found.texts["p of fused"].startswith("targets 0.")
    assert scores == sorted(scores, reverse=True)
    assert all(picture.shape == (1, 48, 48) for _, picture in found.images)
    fixed = make(micro_clip, prompts="fixed").eval().artifacts(example_inputs())
    assert set(fixed.texts) == {f"p of {name}" for name in names}


def test_stage_one_tells_good_from_bad_on_scenes_it_never_saw() -> None:
    """With the bundled CLIP, 10 solves of 5 steps: the good image of a scene scores above its bad ones."""
    node = OmegaConf.load(conf_dir() / "loss/promptfusion.yaml")
    pairs = OmegaConf.to_container(node.pairs)
    loss = make(FrozenClip.load("micro"), pairs=pairs, warmup=1000, pictures_every=1)
    source = SyntheticPairs(size=96)

    def batch(part: str, step: int) -> LossInputs:
        samples = source.parts()[part][8 * step : 8 * step + 8]
        loaded = [source.load(sample) for sample in samples]
        infrared, visible = (
            torch.stack([getattr(pair, band).float().mean(0, keepdim=True) / 255 for pair in loaded])
            for band in ("infrared", "visible")
        )
        return replace(
            example_inputs(2), fused=infrared, infrared=infrared, visible=visible, step=step,
            sample_ids=tuple(f"{part}-{step}-{index}" for index in range(8)),
        )  # fmt: skip

    values = [value.detach().clone().requires_grad_() for value in loss.lower_parameters()]
    optimizer = torch.optim.Adam(values, lr=3e-3)
    for step in range(10):
        state = loss.prepare(batch("train", step))
        for _ in range(5):
            optimizer.zero_grad()
            loss.lower_loss(state, values).total.backward()
            optimizer.step()
    right = []
    with torch.no_grad():
        texts = loss._texts(values)
        loss.eval()  # whole pictures
        for step in range(3):
            good, bad = loss._score_pairs(loss._embed_pictures(batch("test", step)), texts)
            right.append((good > bad).float())
    assert float(torch.cat(right).mean()) >= 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_weight": -1.0}, "guidance_weight is -1.0; expected 0 or more"),
        ({"ranking_weight": float("nan")}, "ranking_weight is nan"),
        ({"margin": 1.0}, "margin is 1.0; expected 0 or more, below 1"),
        ({"margin_ends": 1.0}, "margin_ends is 1.0; expected 0 or more, below 1"),
        ({"earlier_decay": -0.1}, "earlier_decay is -0.1; expected 0 or more, below 1"),
        (
            {"refinement": "ranking", "ranking_weight": 0.0},
            "refinement is ranking; expected a ranking_weight above 0",
        ),
        ({"warmup": -1}, "warmup is -1; expected 0 or more"),
        ({"pictures_every": 0}, "pictures_every is 0; expected 1 or more"),
        ({"pairs": {}}, "pairs is empty; expected one or more"),
        ({"pairs": {"sky": {"positive": "a"}}}, "pairs.sky has positive; expected positive, negative and"),
        (
            {"pairs": {"sky": {**PAIRS["targets"], "positive": " "}}},
            "pairs.sky.positive is ' '; expected words",
        ),
        (
            {"pairs": {"sky": {**PAIRS["targets"], "against": ["fog"]}}},
            "against has fog; expected some of inf",
        ),
        ({"pairs": {"sky": {**PAIRS["targets"], "against": []}}}, "against has nothing; expected some of"),
        ({"pairs": {"sky": {**PAIRS["targets"], "negative": "weak " * 90}}}, "promptfusion loss: .*77"),
        ({"length": 76}, "76 context vectors; beside its words and marks the model takes 75"),
        ({"length": 3}, "more than length=3"),
    ],
)
def test_refuses_what_cannot_be_meant(micro_clip: FrozenClip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(micro_clip, **options)


def test_refuses_a_text_tower_without_embeddings(
    micro_clip: FrozenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FrozenClip) -> Tensor:
        raise ValueError("the text tower HFTextEncoder takes no embeddings")

    monkeypatch.setattr(FrozenClip, "token_table", property(refuse))
    with pytest.raises(ValueError, match="promptfusion loss: the text tower HFTextEncoder takes no"):
        make(micro_clip)
    make(micro_clip, prompts="fixed")


Config = Callable[..., DictConfig]


def words_of(micro: Path, *overrides: str) -> tuple[str, ...]:
    plain = ("loss=promptfusion", "loss.fidelity.decomposition_weight=0", "loss.warmup=2")
    return (*plain, f"+clip.pretrained={micro}", *overrides)


@pytest.fixture
def with_micro(tiny_config: Config, micro_folders: dict[str, Path]) -> Config:
    return lambda *overrides: tiny_config(*words_of(micro_folders["vit"], *overrides))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("solver", [*SOLVERS, "meha"])
def test_trains_under_each_solver(with_micro: Config, solver: str) -> None:
    config = with_micro(f"solver={solver}", "steps=4", "validate_every=2", "test=false")
    check_config(config, TrainSettings, ("solver", "loss"))
    train(config)
    folder = Path(config.run_dir)
    checkpoint = read_checkpoint(folder / "checkpoints/last.ckpt")
    contexts = [name for name in checkpoint["state_dict"] if "contexts" in name]
    assert len(contexts) == 6
    assert sum(value.nbytes for name, value in checkpoint["state_dict"].items() if "loss" in name) < 20_000
    moved = len(checkpoint["optimizer_states"][0]["state"])
    network = sum(name.startswith("backbone.") for name in checkpoint["state_dict"])
    # The optimiser of the network moves the prompts under the joint solver alone.
    assert moved == network + (6 if solver == "joint" else 0)
    keys = {key for row in rows(folder) for key, value in row.items() if value}
    names = (
        "p_fused_targets",
        "p_fused_harmony",
        "p_good",
        "p_bad",
        "between",
        "margin",
        "prompt_drift",
        "guidance",
    )
    assert {f"train/loss/promptfusion/{name}" for name in names} <= keys
    assert {f"val/loss/promptfusion/p_{name}" for name in ("infrared", "average", "composite")} <= keys
    assert {f"val/loss/promptfusion/{name}" for name in ("p_good", "p_bad", "between")} <= keys
    assert {f"val/lower/promptfusion/{name}" for name in ("cross_entropy", "ranking")} <= keys
    solved = {"train/solver/F", "train/solver/f"}
    if solver == "value_penalty":
        solved |= {f"train/solver/{name}" for name in ("f_z", "residual", "w")}
    if solver == "meha":
        solved |= {f"train/solver/{name}" for name in ("f_theta", "residual", "distance", "c")}
    assert solved <= keys
    words = (folder / "notes/words.csv").read_text().splitlines()
    assert words[0] == "update,name,text"
    assert "0,targets positive,the target is very striking" in words
    assert {word.partition(",")[0] for word in words[1:]} == {"0", "2", "4"}
    assert len(words) == 1 + 3 * (6 + 6)  # prompts, pictures
    assert (folder / "notes/000004.png").stat().st_size > 1000


QUICK = {
    "value_penalty": ("every=2", "z_steps=2", "y_steps=2", "optimizer.lr=0.01"),
    "alternate": ("every=2", "optimizer.lr=0.01"),
    "gauss_newton": ("every=2", "optimizer.lr=0.01"),
    "joint": (),
}
CUTS = (1, 3)


def _snapshots(run_dir: str) -> Any:
    """Copy the run folder in the update after each of CUTS, as a power cut would leave it."""
    from lightning.pytorch.callbacks import LambdaCallback

    def keep(trainer: Any, *_: Any) -> None:
        if (update := trainer.global_step - 1) in CUTS:
            shutil.copytree(run_dir, f"{run_dir}-{update}", ignore=shutil.ignore_patterns("status.json"))

    return LambdaCallback(on_train_batch_end=keep)


@pytest.fixture(scope="module")
def straight(
    compose_run: Config,
    micro_folders: dict[str, Path],
    pairs_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, Callable[..., DictConfig]]]:
    """Train without a stop, once per solver; returns the folder, and what composes its run anew."""

    @cache
    def of(solver: str) -> tuple[Path, Callable[..., DictConfig]]:
        folder = tmp_path_factory.mktemp(solver)
        options = ["steps=5", "validate_every=1", "test=false", f"solver={solver}", "loss.pictures_every=2"]
        words = words_of(micro_folders["vit"], *options, *(f"solver.{word}" for word in QUICK[solver]))

        def config(*overrides: str) -> DictConfig:
            return compose_run(folder / "run", pairs_folder, (*words, *overrides), "train")

        train(config(f"+callbacks.cut={{_target_: {__name__}._snapshots, run_dir: {folder / 'run'}}}"))
        (folder / "run").rename(folder / "straight")
        return folder, config

    return of


@pytest.mark.parametrize(
    ("solver", "update"), [*((solver, 3) for solver in SOLVERS), ("value_penalty", 1), ("joint", 1)]
)
def test_resumed_in_either_stage_it_is_bit_equal(
    straight: Callable[[str], tuple[Path, Callable[..., DictConfig]]], solver: str, update: int
) -> None:
    """Between two solves, too, where the images of an earlier batch are used."""
    folder, config = straight(solver)
    shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.copytree(folder / f"run-{update}", folder / "run")
    last = folder / "run/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == update
    train(config(f"checkpoint={last}"))
    ends = [read_checkpoint(folder / name / "checkpoints/last.ckpt") for name in ("straight", "run")]
    assert [end["global_step"] for end in ends] == [5, 5]
    for key, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][key]), key
    assert rows(folder / "straight") == rows(folder / "run")


def test_the_experiment_clip_lit_is_its_scheme_and_trains(
    compose_run: Config, micro_folders: dict[str, Path], pairs_folder: Path, tmp_path: Path
) -> None:
    words: tuple[str, ...] = ("experiment=clip_lit", "loss.fidelity.decomposition_weight=0")
    words += ("loss.warmup=2", "steps=4")
    words += (f"+clip.pretrained={micro_folders['vit']}", "solver.every=2", "validate_every=4", "test=false")
    config = compose_run(tmp_path / "run", pairs_folder, words, "train")
    assert {name: config.loss[name] for name in CLIP_LIT} == CLIP_LIT
    assert config.solver._target_ == "clipfuse.bilevel.Alternate"
    assert (config.loss.pictures_every, config.loss.length) == (2, 16)
    train(config)
    logged = [row for row in rows(tmp_path / "run") if row["train/loss/promptfusion/prompt_drift"]]
    drift = [float(row["train/loss/promptfusion/prompt_drift"]) for row in logged]
    assert len(drift) == 4
    assert 0 < drift[0] == drift[1] < drift[2] == drift[3]  # the prompts move in updates 0 and 2
    cross_entropy, ranking = (float(logged[k]["train/solver/f"]) for k in (1, 3))
    assert 0.2 < cross_entropy < 1.5
    assert 0 < ranking < 2.2  # at most the sum of the margins


def test_averaged_weights_leave_the_prompts_alone(
    with_micro: Config, micro_clip: FrozenClip, tmp_path: Path
) -> None:
    """With both rates at nearly 0 averaging changes nothing: not the indices of tokens, either."""
    still = ("optimizer.lr=1e-12", "solver.optimizer.lr=1e-12", "steps=3", "validate_every=3", "test=false")
    options = ("accumulate=2", "trainer.precision=64-true", *still)
    found = []
    for ema in ("null", "0.9"):
        folder = tmp_path / ema
        train(with_micro(*options, f"ema={ema}", f"run_dir={folder}"))
        found.append({k: v for row in rows(folder) for k, v in row.items() if k.startswith("val/loss") and v})
    micro_clip.to(dtype=torch.float32)  # 64-true has converted the CLIP that the tests of this process share
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert float(found[1][key]) == pytest.approx(float(value), abs=1e-5), key


@pytest.mark.parametrize("fused", [False, True])
def test_every_solve_is_seen_whatever_the_optimiser(
    micro_clip: FrozenClip, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    """f of y and of z with texts that are kept, and with texts that are made anew at each call."""
    logs = []
    for keep in (True, False):
        loss, inputs = make(micro_clip, pictures_every=2), example_inputs()
        if not keep:
            assert loss.prompts is not None
            monkeypatch.setattr(loss, "_texts", loss.prompts.features)
        solver = ValuePenalty(
            lambda values: torch.optim.Adam(values, lr=0.02, fused=fused), z_steps=2, y_steps=2, every=2
        )
        for parameter in loss.lower_parameters():
            parameter.requires_grad_(False)
        optimizer = torch.optim.SGD([inputs.fused], lr=0.0)
        steps = (LossProblem(loss, replace(inputs, step=step)) for step in range(5))
        logs.append([solver.step(problem, optimizer) for problem in steps])
    for kept, fresh in zip(*logs, strict=True):
        assert kept == pytest.approx(fresh, rel=1e-5, abs=1e-6)
    assert len({log["f_z"] for log in logs[0]}) > 2


def test_fixed_prompts_need_no_solver_and_a_plain_loss_takes_none(
    with_micro: Config, tiny_config: Config
) -> None:
    train(with_micro("loss.prompts=fixed", "steps=2", "test=false"))
    with pytest.raises(
        UserError, match=r"solver.*ValuePenalty, and the loss 'pixel' has no lower level; take"
    ):
        train(tiny_config("solver=value_penalty"))
    with pytest.raises(UserError, match="solver: z_steps is 0; expected 1 or more"):
        train(with_micro("solver.z_steps=0"))
    with pytest.raises(
        UserError, match="solver: the optimiser of the lower level cannot be used: Invalid lear"
    ):
        train(with_micro("solver.optimizer.lr=-1"))
    with pytest.raises(
        UserError, match=r"solver: the optimiser of the lower level cannot be used: .*closure"
    ):
        train(with_micro("solver.optimizer._target_=torch.optim.LBFGS"))
    with pytest.raises(UserError, match=r"solver.lower_weight is 0: the lower level of 'promptfusion' would"):
        train(with_micro("solver=joint", "solver.lower_weight=0"))
    with pytest.raises(UserError, match="no feature base_infrared"):
        train(with_micro("loss.fidelity.decomposition_weight=2", "overwrite=true"))


class TestContract(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("promptfusion", "loss.fidelity.decomposition_weight=0", "loss.warmup=0")


class TestClipLit(LossContract):
    """Its experiment, whose lower loss ranks images of an earlier network, too."""

    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        settings: Any = OmegaConf.load(conf_dir() / "experiment/clip_lit.yaml").loss
        words = [f"loss.{key}={value}" for key, value in settings.items()]
        return loss_node("promptfusion", "loss.fidelity.decomposition_weight=0", "loss.warmup=0", *words)
