"""The recipe of the bundled CLIP: captions say what is true, defects do what they claim."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[2]))
from experiments.micro_clip import recipe
from experiments.micro_clip.captions import DEFAULTS, VALUES, WORDS, Caption, draw, truth
from experiments.micro_clip.evaluate import BANDS, DEFECTS, HOURS, KINDS, OBJECTS, PARAPHRASES
from experiments.micro_clip.scenes import Batches, Scene, presence
from experiments.micro_clip.train import (
    SeenTokens,
    contrastive,
    direction,
    encode_text,
    read_config,
    starting_weights,
    targets,
)

from clipfuse.clip.micro_files import BUNDLED

CLEAN = {"band": "fused", "kind": "ideal", "quality": "clean"}
TEXTS = [
    "a clear image with detailed background and salient objects",
    "a vivid image with clear background and obvious objects",
    "a visible gray image",
    "a visible light gray image",
    "an infrared image",
    "This image's fusion is very harmonious, the texture is very clear, the target is very striking.",
    "This image's fusion is not well integrated, the texture is weak, and then the target is fuzzy, not "
    "prominent, and the features are relatively smooth and flat.",
]


@pytest.fixture(scope="module")
def scene() -> Scene:
    rng = np.random.default_rng(0)
    planes = [recipe.soften(rng.random((150, 150), np.float32), 2) for _ in range(2)]
    planes = [(plane - plane.min()) / (plane.max() - plane.min()) for plane in planes]
    mask = np.zeros((150, 150), np.uint8)
    mask[40:90, 60:90] = 255
    infrared, visible = ((255 * plane).astype(np.uint8) for plane in planes)
    return Scene(np.maximum(infrared, mask // 2), visible, mask, visible, "day", mask // 255)


@pytest.fixture(scope="module")
def batches(scene: Scene) -> Batches:
    plain = Scene(scene.infrared, scene.visible)
    return Batches({"synthetic": [scene], "roadscene": [plain]}, read_config(["train.scenes=4"]))


def test_default_texts_are_captions_and_their_tokens_are_seen():
    assert [caption.text for caption in DEFAULTS] == TEXTS
    drawn = {draw(CLEAN, np.random.default_rng(seed)).text for seed in range(300)}
    assert {TEXTS[0], TEXTS[1], TEXTS[5]} <= drawn
    import open_clip

    SeenTokens().place(open_clip.get_tokenizer("ViT-B-32")(TEXTS))


@pytest.mark.parametrize(
    "picture",
    [
        {"band": "infrared", "kind": "none", "quality": "clean", "polarity": "hot"},
        {"band": "visible", "kind": "none"},
        {"band": "visible", "kind": "none", "quality": "noise"},
        {"band": "fused", "kind": "average"},
        {"band": "fused", "kind": "maximum", "quality": "harsh"},
    ],
)
def test_the_clear_image_is_an_ideal_fusion_alone(picture):
    clear = [DEFAULTS[0], DEFAULTS[1], DEFAULTS[5]]
    assert [caption.holds(CLEAN) for caption in clear] == [1, 1, 1]
    assert [caption.holds(picture) for caption in clear] == [0, 0, 0]


def test_what_is_not_known_is_undecided():
    caption = Caption("a foggy image", ({"weather": ("fog",)},))
    assert [caption.holds(p) for p in ({}, {"weather": "fog"}, {"weather": "day"})] == [-1, 1, 0]


def test_drawn_captions_are_true_and_their_tokens_are_seen(batches):
    seen = SeenTokens()
    for seed in range(60):
        for _, said in batches.variants(np.random.default_rng(seed)):
            caption = draw(said, np.random.default_rng(seed))
            assert caption.holds(said) == 1, (said, caption)
            seen.place(batches.tokenize([caption.text]))


def test_batches_depend_on_seed_and_step_alone(batches, scene):
    first, second = (list(b) for _, b in zip(range(2), iter(batches), strict=False))
    later = Batches(batches.domains, read_config(["train.scenes=4"]), start=1)
    again = next(iter(later))
    assert all(torch.equal(a, b) for a, b in zip(second, again, strict=True))
    assert not torch.equal(first[0], second[0])
    pictures, tokens, facts, values = first
    assert values.shape == (16, len(VALUES))
    assert pictures.shape == (16, 1, 112, 112)
    assert facts.shape == (16, len(tokens))
    assert (facts == 1).any(0)[:-2].all()  # each caption but the two defaults was drawn for a picture


def test_defects_change_what_they_claim(scene):
    image = (scene.visible / 255).astype(np.float32)
    sharp = np.abs(np.diff(image)).mean()
    for seed in range(8):
        made = {q: recipe.spoil(q, image, np.random.default_rng(seed), 1) for q in recipe.QUALITIES}
        assert all(m.dtype == np.float32 and m.min() >= 0 and m.max() <= 1 for m in made.values())
        assert np.abs(np.diff(made["blur"])).mean() < 0.8 * sharp
        assert np.abs(np.diff(made["noise"])).mean() > 1.3 * sharp
        assert made["low contrast"].std() < 0.06 < image.std()
        assert made["over"].mean() > image.mean() + 0.1
        assert made["under"].mean() < 0.12
        assert np.abs(np.diff(made["harsh"])).mean() > 1.05 * sharp


def test_fusions_are_what_they_are_called(scene):
    rng = np.random.default_rng(0)
    infrared, visible, mask = (
        (p / 255).astype(np.float32) for p in (scene.infrared, scene.visible, scene.mask)
    )
    made = {
        k: recipe.fuse(k, infrared, visible, mask, rng, 1)
        for k in ("ideal", "average", "maximum", "target", "odd")
    }
    inside = mask > 0.5
    assert made["ideal"].std() > made["average"].std()
    assert made["ideal"][inside].mean() > made["average"][inside].mean() + 0.1
    assert np.array_equal(made["maximum"], np.maximum(infrared, visible))
    assert made["target"][~inside].std() < visible[~inside].std()
    texture = recipe.laplacian(infrared)[1] + recipe.laplacian(visible)[1]
    agree = [
        np.corrcoef(recipe.laplacian(made[k])[1].ravel(), texture.ravel())[0, 1] for k in ("ideal", "odd")
    ]
    assert agree[0] > max(0.9, agree[1])
    bands = recipe.laplacian(visible)
    np.testing.assert_allclose(recipe.collapse(bands), visible, atol=1e-5)


def test_targets_share_one_among_the_positives():
    facts = torch.tensor([[1, 1, 0], [0, -1, 1], [0, 0, 0]])
    rows, wanted = targets(facts)
    assert rows.tolist() == [True, True, False]
    assert wanted.sum(1).tolist() == [1, 1]
    assert wanted[0].tolist() == [0.5, 0.5, 0]
    logits = torch.zeros(3, 3)
    moved = logits.clone()
    moved[1, 1] = 5  # undecided: its logit changes nothing
    assert contrastive(logits, facts) == contrastive(moved, facts)


def test_the_direction_term_is_zero_where_differences_agree_and_two_where_they_oppose():
    text, facts = torch.eye(2), torch.tensor([[1, 0], [0, 1]])
    assert direction(text, text, facts, 2) == pytest.approx(0, abs=1e-6)
    assert direction(-text, text, facts, 2) == pytest.approx(2, abs=1e-6)
    assert direction(text, text, torch.tensor([[1, -1], [1, -1]]), 2) == 0  # nothing tells the two apart


def test_cut_texts_encode_as_whole_ones():
    from clipfuse.clip.micro_files import build_micro

    model = build_micro(read_config([])).eval()
    starting_weights(model, str(BUNDLED))  # a training can start from a bundled edition
    stored = load_file(BUNDLED / "model.safetensors")["visual.conv1.weight"]
    assert torch.equal(model.get_parameter("visual.conv1.weight"), stored.float())
    import open_clip

    tokens = open_clip.get_tokenizer("ViT-B-32")(TEXTS[:3])
    with torch.no_grad():
        torch.testing.assert_close(encode_text(model, tokens[:, :16]), model.encode_text(tokens))


def test_objects_are_said_to_be_there_absent_or_neither():
    things = np.zeros((100, 100), np.uint8)
    things[:10, :20] = 1  # a person
    things[50, :30] = 2  # too little of a car
    assert presence(things) == {"person": "yes", "bike": "no"}
    caption = Caption("an image with people and a car", ({"person": ("yes",), "car": ("yes",)},))
    assert [caption.holds(p) for p in ({"person": "yes", "car": "yes"}, presence(things))] == [1, -1]
    assert caption.holds({"person": "no"}) == 0
    # What is drawn for a scene of persons alone names no car as seen.
    seen = {"band": "fused", "person": "yes", "car": "no"}
    drawn = [draw(seen, np.random.default_rng(seed)) for seed in range(300)]
    named = [{k: v for claims in caption.alternatives for k, v in claims.items()} for caption in drawn]
    assert {claims.get("car", ("no",)) for claims in named} == {("no",)}
    assert any("person" in claims for claims in named)


def test_texts_of_the_evaluation_are_of_seen_words_and_paraphrases_of_no_caption():
    asked = [*BANDS.values(), *DEFECTS.values(), *KINDS.values(), *HOURS.values()]
    asked += [text for two in OBJECTS.values() for text in two]
    unseen = [text for groups in PARAPHRASES.values() for group in groups for text in group.values()]
    import open_clip

    SeenTokens().place(open_clip.get_tokenizer("ViT-B-32")([*asked, *unseen]))
    said = [each for kind in WORDS["kinds"].values() for each in kind]
    said += [
        f"{whole} {way}" for kind in WORDS["ways"].values() for way in kind for whole in WORDS["fusions"]
    ]
    assert not {each.format(n=noun) for each in said for noun in WORDS["nouns"]} & set(unseen)
    sizes = {name: {tuple(group) for group in groups} for name, groups in PARAPHRASES.items()}
    assert sizes == {"band": {tuple(BANDS)}, "defect": {tuple(DEFECTS)}, "kind": {tuple(KINDS)}}


def test_truth_is_a_table():
    assert truth([CLEAN, {"band": "visible"}], DEFAULTS[:3]).tolist() == [[1, 1, 0], [0, 0, 1]]
