import json
from collections.abc import Callable
from pathlib import Path
from shutil import copy
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from clipfuse.backbones.ldfusion import LDFusion
from clipfuse.networks.load import load_backbone
from clipfuse.runs.train import train

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES: dict[str, dict[str, list[int]]] = json.loads((GOLDEN / "ldfusion_state_dict.json").read_text())


def filled(file: str) -> dict[str, Tensor]:
    """The authors' state dict with the values of the golden record."""
    state = {}
    for name, shape in SHAPES[file].items():
        values = np.random.default_rng(crc32(name.encode())).standard_normal(shape) * 0.05
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    for file in SHAPES:
        torch.save(filled(file), folder / file)
    return {
        "encoder_weights": str(folder / "Enc_final.pt"),
        "decoder_weights": str(folder / "Dec_final.pt"),
    }


def test_has_the_published_parameters() -> None:
    network = LDFusion()
    assert sum(p.numel() for p in network.encoder.parameters()) == 1_742_736
    assert sum(p.numel() for p in network.decoder.parameters()) == 4_034_241
    for module, file in ((network.encoder, "Enc_final.pt"), (network.decoder, "Dec_final.pt")):
        shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
        assert shapes == {name: shape for name, shape in SHAPES[file].items() if "running_" not in name}


def test_faithful_equals_the_published_network(weights: dict[str, str]) -> None:
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "ldfusion_forward.npz").items()}
    network = LDFusion(faithful=True, **weights).eval()
    with torch.inference_mode():
        output = network(golden["infrared"], golden["visible"])
        full = network.decoder(*network.encoder(golden["visible"], golden["infrared"]))[1].clamp(0, 1)
    torch.testing.assert_close(full, golden["fused_full"], rtol=0, atol=1e-5)
    torch.testing.assert_close(output.fused, golden["fused_full"][..., :64, :80], rtol=0, atol=1e-5)
    for band in ("infrared", "visible"):
        content, style = output.features[f"{band}_content"], output.features[f"{band}_style"]
        torch.testing.assert_close(content, golden[f"{band}_content"], rtol=0, atol=1e-5)
        torch.testing.assert_close(style, golden[f"{band}_style"][..., 0, 0], rtol=0, atol=1e-5)


def center_of_response(network: LDFusion, row: int, column: int) -> tuple[float, float]:
    """Where the output answers, through the upsampling alone, to one pixel of the content map."""
    content = torch.zeros(1, 256, 12, 12)
    content[:, :, row, column] = 1
    with torch.no_grad():
        for layer in network.decoder.model_up[:-3]:
            if isinstance(layer, torch.nn.ConvTranspose2d):
                content = torch.nn.functional.conv_transpose2d(
                    content, torch.ones_like(layer.weight) / layer.weight[:, :, 0, 0].numel(), stride=2
                )
    energy = content.sum(dim=(0, 1))
    positions = torch.arange(energy.shape[0], dtype=torch.float32)
    total = energy.sum()
    return float((energy.sum(1) @ positions) / total), float((energy.sum(0) @ positions) / total)


def test_the_repair_leaves_half_a_pixel() -> None:
    from clipfuse.backbones.ldfusion import _MARGIN

    network = LDFusion()
    for row, column in ((4, 7), (6, 5)):
        found = center_of_response(network, row, column)
        # A content pixel sees 8 pixels of the image around 8 i + 3.5.
        for place, index in zip(found, (row, column), strict=True):
            assert place - (8 * index + 3.5) == pytest.approx(10.5, abs=1e-3)
            assert abs(place - _MARGIN - (8 * index + 3.5)) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 40), (16, 16), (37, 50), (64, 80)])
def test_takes_any_size(faithful: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = LDFusion(faithful)
    infrared, visible = torch.rand(2, 2, 1, *size)
    output = network(infrared, visible)
    assert output.fused.shape == infrared.shape
    assert 0 <= float(output.fused.detach().min()) <= float(output.fused.detach().max()) <= 1
    alone = network(infrared[1:], visible[1:])
    torch.testing.assert_close(output.fused[1:], alone.fused, rtol=0, atol=1e-5)


def test_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = LDFusion()
    (network(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)).fused ** 2).sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None]
    assert not dead


def test_clamped_output_is_black_where_the_repaired_is_dark(weights: dict[str, str]) -> None:
    network = LDFusion(faithful=True, **weights)
    repaired = LDFusion()
    repaired.load_state_dict(network.state_dict())
    planes = torch.rand(2, 1, 1, 32, 32)
    with torch.no_grad():
        assert float((network(*planes).fused == 0).float().mean()) > 0.1
        assert float((repaired(*planes).fused == 0).float().mean()) < 0.01


def _swapped(state: dict[str, Tensor]) -> object:
    return filled("Dec_final.pt")


def _lacking(state: dict[str, Tensor]) -> object:
    return dict(list(state.items())[1:])


def _other_shape(state: dict[str, Tensor]) -> object:
    return {**state, "content_encoder1.model.1.weight": torch.zeros(16, 3, 7, 7)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swapped, r"lacks content_encoder1.* expected a state dict of LDFusion's encoder.*Enc_final.pt"),
        (_lacking, r"lacks content_encoder1.model.1.weight; expected"),
        (
            _other_shape,
            r"holds content_encoder1.model.1.weight of shape \(16, 3, 7, 7\), not \(16, 1, 7, 7\)",
        ),
        (lambda state: [1], "holds no weights; expected"),
        (lambda state: {"a": 1}, "holds no weights; expected"),
    ],
)
def test_a_wrong_file_is_named(
    change: Callable[[dict[str, Tensor]], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(change(filled("Enc_final.pt")), path)
    with pytest.raises(ValueError, match=rf"weights.pt {message}"):
        LDFusion(encoder_weights=str(path))


def test_a_checkpoint_needs_no_file_of_the_authors(
    tiny_config: Callable[..., DictConfig], weights: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "Enc.pt"
    copy(weights["encoder_weights"], file)
    config = tiny_config("steps=1", "validate_every=1", "test=false")
    config.backbone = {"_target_": "clipfuse.backbones.ldfusion.LDFusion", "encoder_weights": str(file)}
    train(config)
    file.unlink()
    network = load_backbone(Path(config.run_dir) / "checkpoints/last.ckpt")
    assert isinstance(network, LDFusion)


def test_weights_of_several_gpus_lose_their_prefix(tmp_path: Path) -> None:
    state = filled("Enc_final.pt")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "weights.pt")
    network = LDFusion(encoder_weights=str(tmp_path / "weights.pt"))
    assert torch.equal(network.encoder.style_encoder2.model[1].weight, state["style_encoder2.model.1.weight"])


def test_refuses_what_cannot_be_loaded(tmp_path: Path, weights: dict[str, str]) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"no file /nowhere/Dec.pt; expected .* Dec_final.pt"):
        LDFusion(faithful=True, decoder_weights="/nowhere/Dec.pt")
    with pytest.raises(ValueError, match=r"text.pt cannot be read as weights; expected"):
        LDFusion(encoder_weights=str(tmp_path / "text.pt"))
    with pytest.raises(ValueError, match=r"learned the release's misalignment; set backbone.faithful=true"):
        LDFusion(decoder_weights=weights["decoder_weights"])
