import copy
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import nn

from clipfuse.cli.config import conf_dir
from clipfuse.clip import encoder, support, towers
from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.micro_files import build_micro, load_micro, save_micro
from clipfuse.errors import UserError
from clipfuse.files import weights_sha256
from clipfuse.runs.build import build

Clips = Callable[..., FrozenClip]
TEXTS = ["a visible gray image", "an infrared image"]


def custom(**values: object) -> DictConfig:
    """conf/clip/custom.yaml with some of its values."""
    node = OmegaConf.load(conf_dir() / "clip/custom.yaml")
    assert isinstance(node, DictConfig)
    return OmegaConf.merge(node, values)  # type: ignore[return-value]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_weights_file_gives_open_clip_s_own_features(
    vit, vit_clip: FrozenClip, tmp_path: Path, suffix: str
) -> None:  # type: ignore[no-untyped-def]
    file = vit.file
    if suffix == ".safetensors":
        file = tmp_path / "vit.safetensors"
        save_file(vit.model.state_dict(), file)
    clip = build(custom(model=vit.name, pretrained=str(file)), "clip")
    assert (clip is vit_clip) == (suffix == ".pt")
    images = torch.rand(3, 3, 224, 224)  # nothing to resize
    mean, std = (torch.tensor(clip.identity["preprocess"][k]).reshape(3, 1, 1) for k in ("mean", "std"))
    expected = vit.model.encode_image((images - mean) / std)
    # Twelve blocks in float32 with another order of operations; in float64 both are equal: below.
    torch.testing.assert_close(clip.encode_image(images), expected, rtol=0, atol=1e-5)
    import open_clip

    expected = vit.model.encode_text(open_clip.tokenize(TEXTS))
    torch.testing.assert_close(clip.encode_text(TEXTS), expected, rtol=0, atol=1e-6)
    assert clip.identity["pretrained"] == file.name
    assert clip.identity["quick_gelu"] is True


@pytest.mark.parametrize("option", ["micro", "vit_b32_openai", "custom"])
def test_the_options_name_arguments_of_load(option: str) -> None:
    import inspect

    node = OmegaConf.load(conf_dir() / f"clip/{option}.yaml")
    assert set(node) - {"_target_"} <= set(inspect.signature(FrozenClip.load).parameters)
    assert node._target_ == "clipfuse.clip.encoder.FrozenClip.load"


def test_a_model_of_another_type_is_not_handed_on(tiny_folder: Path) -> None:
    """A training in float64 leaves its CLIP to itself, however long it stays in memory."""
    first = FrozenClip.load("micro", str(tiny_folder)).to(dtype=torch.float64)
    other = FrozenClip.load("micro", str(tiny_folder))
    assert (first.dtype, other.dtype) == (torch.float64, torch.float32)
    assert FrozenClip.load("micro", str(tiny_folder)) is other


def test_one_model_is_loaded_once(tiny_folder: Path) -> None:
    first = FrozenClip.load("micro", str(tiny_folder))
    assert FrozenClip.load("micro", str(tiny_folder)) is first
    assert FrozenClip.load("micro", str(tiny_folder), resize="squash") is not first
    (tiny_folder / "config.json").touch()
    assert FrozenClip.load("micro", str(tiny_folder)) is not first


class Owner(nn.Module):
    """What a loss plugin is to CLIP."""

    def __init__(self, clip: FrozenClip) -> None:
        super().__init__()
        self.clip = clip
        self.own = nn.Linear(8, 8)


def test_a_checkpoint_of_an_owner_holds_no_clip(vit_clip: FrozenClip, tmp_path: Path) -> None:
    owner = Owner(vit_clip)
    torch.save(owner.state_dict(), tmp_path / "owner.pt")
    assert (tmp_path / "owner.pt").stat().st_size < 50_000
    assert sum(p.numel() for p in owner.parameters()) == 72
    assert list(owner.children()) == [owner.own]
    average = copy.deepcopy(owner)  # as an EMA does
    assert average.clip is owner.clip
    assert average.own is not owner.own
    assert copy.copy(vit_clip) is vit_clip


def test_a_pickle_loads_the_same_model(tiny_folder: Path, tiny_clip: Clips) -> None:
    clip = FrozenClip.load("micro", str(tiny_folder))
    content = pickle.dumps(clip)
    assert len(content) < 1000
    assert pickle.loads(content) is clip
    with pytest.raises(TypeError, match="only a loaded one"):
        pickle.dumps(tiny_clip())


def test_a_pickle_of_other_weights_is_refused(tiny_folder: Path) -> None:
    clip = FrozenClip.load("micro", str(tiny_folder))
    function, (arguments, _) = clip.__reduce__()
    with pytest.raises(UserError, match="others than those that were pickled"):
        function(arguments, "0" * 64)


def test_it_is_frozen(tiny_clip: Clips) -> None:
    clip = tiny_clip("resnet")
    assert not clip.model.training
    images = torch.rand(2, 1, 40, 40, requires_grad=True)
    before = clip.model.state_dict()["visual.bn1.running_mean"].clone()
    clip.encode_image(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in clip.model.parameters())
    assert torch.equal(clip.model.state_dict()["visual.bn1.running_mean"], before)
    assert not clip.encode_image(images.detach()).requires_grad


def test_texts_are_computed_once(tiny_clip: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tiny_clip()
    asked: list[int] = []
    real = clip.model.encode_text
    monkeypatch.setattr(
        clip.model, "encode_text", lambda ids, **k: (asked.append(len(ids)), real(ids, **k))[1]
    )
    first = clip.encode_text([TEXTS[0], TEXTS[1], TEXTS[0]])
    assert torch.equal(first[0], first[2])
    torch.testing.assert_close(clip.encode_text([TEXTS[1], "new"])[0], first[1])
    assert asked == [2, 1]
    assert not first.requires_grad


def test_inference_mode_leaves_nothing_that_training_cannot_use(tiny_folder: Path) -> None:
    with torch.inference_mode():
        clip = FrozenClip.load("micro", str(tiny_folder), resize="squash")
        clip.encode_text(TEXTS)
        clip.encode_image(torch.rand(1, 1, 45, 45))
        clip.to(dtype=torch.float64)
    image = torch.rand(2, 1, 45, 45, requires_grad=True)
    (clip.encode_image(image) @ clip.encode_text(TEXTS).T).sum().backward()
    assert image.grad is not None


def test_reduced_precision(tiny_clip: Clips) -> None:
    clip, images = tiny_clip(), torch.rand(4, 1, 32, 32, requires_grad=True)
    full = clip.encode_image(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = clip.encode_image(images)
        text = clip.encode_text(TEXTS)
    assert reduced.dtype == torch.float32
    assert F.cosine_similarity(full, reduced).min() > 0.999
    assert not torch.equal(full, reduced)
    reduced.sum().backward()
    clip._texts.clear()
    # Texts are kept, so they are computed in float32 even there; bfloat16 is off by 2**-8.
    torch.testing.assert_close(clip.encode_text(TEXTS), text, rtol=1e-5, atol=1e-6)


def test_the_type_of_the_weights_can_be_chosen(tiny_clip: Clips) -> None:
    clip = tiny_clip()
    before = clip.encode_text(TEXTS)
    assert clip.to(dtype=torch.float64) is clip
    assert clip.dtype == torch.float64
    assert clip.encode_text(TEXTS).dtype == torch.float64
    torch.testing.assert_close(clip.encode_text(TEXTS).float(), before)
    image = torch.rand(1, 1, 40, 40)
    exact = clip.encode_image(image)
    assert exact.dtype == torch.float64
    half = clip.to(dtype=torch.bfloat16).encode_image(image)
    assert half.dtype == clip.encode_text(TEXTS).dtype == torch.bfloat16
    assert F.cosine_similarity(half.double(), exact) > 0.999


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_image_features(tiny_clip: Clips, tower: str) -> None:
    clip, images = tiny_clip(tower), torch.rand(2, 1, 32, 32)
    names = clip.feature_layers
    assert names == (
        ("block1", "block2", "block3", "block4")
        if tower == "vit"
        else ("stem", "layer1", "layer2", "layer3", "layer4")
    )
    found: dict[str, torch.Tensor] = {}
    visual = clip.model.visual
    for name in names:  # what hooks see
        module = (
            visual.transformer.resblocks[int(name[-1]) - 1] if tower == "vit" else getattr(visual, name, None)
        )
        if isinstance(module, nn.Module):
            module.register_forward_hook(lambda m, i, out, name=name: found.__setitem__(name, out))
    clip.model.encode_image(clip.preprocess(images, torch.float32))  # open_clip's own pass
    assert found
    embedding, features = clip.encode_with_features(images, names[::-1])
    assert list(features) == list(names[::-1])
    torch.testing.assert_close(embedding, clip.encode_image(images))
    for name, seen in found.items():
        expected = seen[:, 1:].transpose(1, 2).reshape(2, -1, 4, 4) if tower == "vit" else seen
        torch.testing.assert_close(features[name], expected)
    for name, value in clip.image_features(images, [names[1], names[0]]).items():
        torch.testing.assert_close(value, features[name])


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_nothing_behind_the_last_layer_is_computed(tiny_clip: Clips, tower: str) -> None:
    clip = tiny_clip(tower)
    visual = clip.model.visual
    behind = visual.transformer.resblocks[2].ln_1 if tower == "vit" else visual.layer2
    behind.register_forward_hook(lambda *_: pytest.fail("too far"))
    clip.image_features(
        torch.rand(1, 1, 32, 32), ["block2", "block1"] if tower == "vit" else ["layer1", "stem"]
    )


def test_a_resnet_is_made_faster_and_stays_the_same(
    tiny_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = tiny_config("resnet")
    model = build_micro(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.visual.state_dict().items():
            if ("bn" in name or "downsample.1" in name) and value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    save_micro(model, [0], config, tmp_path)
    plain, _ = load_micro(tmp_path)
    clip = FrozenClip.load("micro", str(tmp_path))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in clip.model.modules())
    assert not any(p.requires_grad for p in clip.model.parameters())
    images = torch.rand(3, 1, 40, 40, requires_grad=True)
    ready = clip.preprocess(images, torch.float32)
    expected, ours = plain.encode_image(ready), clip.encode_image(images)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(x.square().sum(), images, retain_graph=True)[0] for x in (ours, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * float(gradients[1].abs().max()))
    assert clip.identity["weights_sha256"] == weights_sha256(plain.state_dict())


@pytest.mark.parametrize("causal", [True, False])
def test_a_transformer_is_made_faster_and_stays_the_same(
    tiny_config: Callable[..., dict[str, Any]], causal: bool
) -> None:
    """In float64, to rounding: patches by a product, QuickGELU as SiLU, the last block for one token."""
    node = tiny_config("vit", no_causal_mask=not causal)["open_clip"]
    torch.manual_seed(0)
    plain = build_micro({"open_clip": {**node, "quick_gelu": True}, "seed": 5}).double().eval()
    with torch.no_grad():
        for value in plain.parameters():
            value += 0.1 * torch.randn_like(value)
    plain.requires_grad_(False)
    fast = copy.deepcopy(plain)
    towers.speed_up(fast)
    assert sum(isinstance(module, nn.SiLU) for module in fast.modules()) == 4 + 2
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[7, 5, 49407] + [0] * 74, [9, 49407, 0] + [0] * 74])
    texts = plain.token_embedding(ids).requires_grad_()
    layers = [[], ["block2"], ["block4", "block1"]]
    pairs = [(plain.encode_image(images), towers.image_pass(fast, images, each, True)[0]) for each in layers]
    pairs.append((plain.encode_text(ids), towers.text_pass(fast, texts, ids.argmax(dim=1))))
    for expected, ours in pairs:
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad(each.square().sum(), images)[0] for each in pairs[0]]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-10, atol=1e-12)


def test_other_layers_and_towers_are_refused(tiny_clip: Clips) -> None:
    clip, images = tiny_clip(), torch.rand(1, 1, 32, 32)
    with pytest.raises(ValueError, match="no layer 'layer2'; expected one of block1, block2"):
        clip.image_features(images, ["layer2"])
    with pytest.raises(ValueError, match="no layers were named"):
        clip.image_features(images, [])

    class TimmModel(nn.Module): ...

    clip.model.visual = TimmModel()
    assert clip.feature_layers == ()
    with pytest.raises(ValueError, match="TimmModel gives no features; the VisionTransformer and"):
        clip.image_features(images, ["block1"])


def test_texts_that_are_too_long(tiny_clip: Clips) -> None:
    clip, long = tiny_clip(), "word " * 80
    with pytest.raises(ValueError, match=r"'word word .*\.\.\.' has 82 tokens.* takes 77"):
        clip.encode_text([long])
    cut = clip.encode_text([long], truncate=True)
    torch.testing.assert_close(cut, clip.encode_text(["word " * 75]))
    with pytest.raises(ValueError, match="has 82 tokens"):
        clip.encode_text([long])
    with pytest.raises(ValueError, match="list of one or more strings"):
        clip.encode_text("an infrared image")
    with pytest.raises(ValueError, match="list of one or more strings"):
        clip.encode_text([])


def test_micro_says_what_it_is_and_what_it_never_saw(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support.announce.cache_clear()
    clip = FrozenClip.load("micro", str(tiny_folder))
    FrozenClip.load("micro", str(tiny_folder))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "not OpenAI's CLIP" in said
    assert clip.seen_tokens is not None
    assert len(clip.seen_tokens) == 9
    assert clip.identity["version"] == 0
    with pytest.warns(UserWarning, match=r"never seen foggy, hot \(in the text 'a foggy hot image'\)"):
        clip.encode_text(["a foggy hot image"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip.encode_text(["a foggy hot image"])  # once
        clip.encode_text(["a visible gray image", "an infrared image"])


def test_the_record_of_a_run_is_plain(tiny_folder: Path) -> None:
    identity = FrozenClip.load("micro", str(tiny_folder)).identity
    assert json.loads(json.dumps(identity)) == identity
    assert identity["model"] == "micro"
    assert len(identity["weights_sha256"]) == 64


def test_a_weights_file_may_be_given_its_preprocessing(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = encoder.Source(vit.model, vit.model.visual.preprocess_cfg, vit.name, {"weights_sha256": ""})
    monkeypatch.setattr(encoder, "load_source", lambda *_: source)
    node = custom(model=vit.name, pretrained="x", mean=[0.5, 0.5, 0.5], std=[0.4, 0.4, 0.4], resize="squash")
    clip = build(node, "clip")
    torch.testing.assert_close(
        clip.preprocess(torch.full((1, 1, 9, 5), 0.7), torch.float32), torch.full((1, 3, 224, 224), 0.5)
    )
    assert clip.identity["preprocess"]["resize"] == "squash"
    with pytest.raises(UserError, match="clip: device 'nowhere'"):
        build({**node, "device": "nowhere"}, "clip")
