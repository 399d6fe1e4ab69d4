"""The files of other formats fuse as the network does, at any size, or do not appear."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from clipfuse.backbones.base import FusionBackbone
from clipfuse.backbones.contourlet_autoencoder import ContourletAutoencoder
from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.backbones.ldfusion import LDFusion
from clipfuse.backbones.student import Student
from clipfuse.contourlet import ContourletTransform
from clipfuse.errors import UserError
from clipfuse.networks.apply import apply_in_color, apply_network
from clipfuse.networks.export import _difference, write_onnx
from clipfuse.networks.onnx import OnnxNetwork, read_onnx
from clipfuse.types import FusionOutput

# (N, H, W): odd and not square, a multiple of 32, small.
SIZES = ((1, 57, 83), (2, 64, 64), (1, 17, 40))
SMALL = {"dim": 4, "heads": 1, "encoder_blocks": 1, "decoder_blocks": 0, "unet_width": 2, "dense": False}


def low_contourlet() -> nn.Module:
    """A contourlet network of two levels of the pyramid in place of four: torch takes a third of the time."""
    network = ContourletAutoencoder(**SMALL, stride=2, smooth=True, residual="energy")
    width = SMALL["unet_width"]
    unet = network.detail
    unet.transform = ContourletTransform((0, 3))
    merged = nn.Conv2d(width + 4, 2 * width, 3, padding=1)
    unet.halve, unet.merge, unet.ascend = unet.halve[:2], nn.ModuleList([merged]), unet.ascend[2:]
    return network


class Wedges(FusionBackbone):
    """What of a contourlet network is not in any other: whole ones take torch a minute and more."""

    size_multiple = 8

    def __init__(self) -> None:
        super().__init__()
        self.transform = ContourletTransform((2,))
        self.gain = nn.Parameter(torch.ones(()))

    def fuse(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        size = infrared.shape[-2:]
        (wedges,) = self.transform(infrared - visible).details
        detail = sum(F.interpolate(wedge, size, mode="nearest") for wedge in wedges)
        return FusionOutput((infrared + visible) / 2 + self.gain * detail, {})


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "wedges": Wedges,
    "low_contourlet": low_contourlet,
    "whole_contourlet": lambda: ContourletAutoencoder(**SMALL, stride=2),
    "conv_tiny": lambda: ConvTiny(width=8, depth=2),
    "ldfusion": LDFusion,
    "student": lambda: Student(width=8),
}
EXPORTED = [
    pytest.param(name, marks=pytest.mark.reliability) if name.endswith("contourlet") else name
    for name in NETWORKS
]


def shaken(network: nn.Module) -> nn.Module:
    """As if trained: the last layers start at zero and would hide what comes before them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def planes(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    infrared, visible = torch.rand(
        2, count, 1, height, width, generator=torch.Generator().manual_seed(height)
    ).unbind()
    return infrared, visible


@pytest.fixture(scope="module", params=EXPORTED)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, Path]:
    """A network and its .onnx."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    network = shaken(NETWORKS[request.param]())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = folder / "network.onnx"
    assert write_onnx(model, network, request.param) < 1e-4
    assert [path.name for path in folder.iterdir()] == ["network.onnx"]
    # The network itself is left as it was.
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert {part.method for part in network.modules() if isinstance(part, ContourletTransform)} <= {"fft"}
    return network, model


def test_the_same_pictures_of_any_number_and_size(written: tuple[nn.Module, Path]) -> None:
    network, model = written
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ours = read_onnx(model)
    for size in SIZES:
        infrared, visible = planes(*size)
        with torch.no_grad():
            expected = network(infrared, visible).fused
            plain = (infrared + visible) / 2
            assert (expected - plain).abs().max() > 0.01  # the network does something
            found = {
                "onnxruntime": torch.from_numpy(
                    session.run(["fused"], {"infrared": infrared.numpy(), "visible": visible.numpy()})[0]
                ),
                "fuse --onnx": ours(infrared, visible),
            }
        for what, fused in found.items():
            assert fused.shape == expected.shape
            assert (fused - expected).abs().max() < 1e-4, (what, size)


def test_an_onnx_file_says_what_it_is_and_not_where_it_was_made(written: tuple[nn.Module, Path]) -> None:
    _, path = written
    model = onnx.load(path)
    assert (model.producer_name, model.opset_import[0].version) == ("clipfuse", 20)
    names = [entry.name for entry in (*model.graph.input, *model.graph.output)]
    assert names == ["infrared", "visible", "fused"]
    for entry in (*model.graph.input, *model.graph.output):
        axes = entry.type.tensor_type.shape.dim
        assert [axis.dim_param or axis.dim_value for axis in axes] == ["batch", 1, "height", "width"]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["clipfuse.backbone"] in NETWORKS
    assert metadata["clipfuse.smallest_side"] == ("16" if "ldfusion" in metadata.values() else "1")
    assert "in [0, 1]" in model.doc_string
    assert {node.domain for node in model.graph.node} == {""}
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_a_network_that_learns_the_chroma_takes_it_and_returns_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = shaken(ConvTiny(width=4, depth=1, chroma=True))
    path = tmp_path / "network.onnx"
    assert write_onnx(path, network, "conv_tiny") < 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ends = {one.name: one.shape for one in (*session.get_inputs(), *session.get_outputs())}
    free = ["batch", "height", "width"]
    assert ends == {
        **{name: ["batch", 1, *free[1:]] for name in ("infrared", "visible", "fused")},
        **{name: ["batch", 2, *free[1:]] for name in ("chroma", "fused_chroma")},
    }
    theirs = OnnxNetwork(path)
    assert theirs.learns_chroma
    for size in SIZES:
        given = (
            *planes(*size),
            torch.rand(size[0], 2, *size[1:], generator=torch.Generator().manual_seed(1)),
        )
        with torch.no_grad():
            expected = network(*given)
        assert (expected.chroma - given[2]).abs().max() > 0.01  # it learns something
        fused, chroma = apply_in_color(theirs, *given)
        assert (fused - expected.fused).abs().max() < 1e-4
        assert (chroma - expected.chroma).abs().max() < 1e-4
        assert torch.equal(apply_network(theirs, *given[:2]), fused)  # luma alone needs no chroma


def test_images_smaller_than_the_graph_takes_are_padded(written: tuple[nn.Module, Path]) -> None:
    network, model = written
    infrared, visible = planes(1, 3, 5)
    with torch.no_grad():
        expected = network(infrared, visible).fused
    assert (read_onnx(model)(infrared, visible) - expected).abs().max() < 1e-4


class Fixed(nn.Module):
    """Takes another way for large images, as no graph can."""

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        return FusionOutput(infrared if float(infrared.mean()) > 0.5 else visible)


class Decomposed(nn.Module):
    """An operator that ONNX does not know."""

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        return FusionOutput(torch.linalg.svd(infrared)[0][..., :1] * visible)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Fixed(), "cannot be traced for images of any size"),
        (Decomposed(), "cannot be written as ONNX"),
    ],
)
def test_a_network_that_no_graph_holds(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_onnx(tmp_path / "network.onnx", network.eval(), "own")
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_from_its_network_gets_no_name(tmp_path: Path) -> None:
    network = ConvTiny(width=2, depth=0).eval()
    with torch.no_grad():
        network.project.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"differs by nan"):
        write_onnx(tmp_path / "network.onnx", network, "conv_tiny")
    assert not list(tmp_path.iterdir())


def test_a_transform_changes_its_method() -> None:
    network = ContourletAutoencoder(**SMALL)
    transform = network.detail.transform
    transform.use("spatial")
    image = planes(1, 64, 48)[0]
    expected = transform(image)
    transform.use("fft")
    assert (ContourletTransform()(image).lowpass - transform(image).lowpass).abs().max() == 0
    assert (expected.lowpass - transform(image).lowpass).abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"unknown method"):
        transform.use("wavelet")


def graph(
    *nodes: onnx.NodeProto,
    initializers: tuple[TensorProto, ...] = (),
    shape: tuple[str | int, ...] = ("batch", 1, "height", "width"),
    kind: int = TensorProto.FLOAT,
    opset: int = 20,
    **names: str,
) -> bytes:
    """An ONNX file of float planes; `names` replaces those of inputs and output."""
    infrared, visible, fused = (
        helper.make_tensor_value_info(names.get(name, name), kind, shape)
        for name in ("infrared", "visible", "fused")
    )
    body = helper.make_graph(nodes, "made", [infrared, visible], [fused], initializers)
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    )
    model.ir_version = 9
    return model.SerializeToString()


MAXIMUM = helper.make_node("Max", ["infrared", "visible"], ["fused"])


def elsewhere(location: str) -> TensorProto:
    """Weights that an ONNX file looks up in another one."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 no protobuf",
        graph(MAXIMUM)[:-40],
        graph(helper.make_node("Steal", ["infrared", "visible"], ["fused"], domain="own")),
        graph(helper.make_node("Max", ["ir", "visible"], ["fused"]), infrared="ir"),
        graph(MAXIMUM, initializers=(elsewhere("secret.bin"),)),
        graph(MAXIMUM, helper.make_node("Constant", [], ["w"], value=elsewhere("/etc/passwd"))),
    ],
    ids=["empty", "another", "truncated", "operator", "names", "external", "hidden external"],
)
def test_files_that_are_no_fusion_network(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(content)
    np.ones(4, np.float32).tofile(tmp_path / "secret.bin")
    with pytest.raises(UserError, match=r"theirs.onnx is no fusion network in ONNX"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (graph(MAXIMUM, opset=99), "Opset 99 is under development"),
        (
            graph(helper.make_node("Max", ["ir", "visible"], ["fused"]), infrared="ir"),
            "of 'ir' tensor(float)",
        ),
        (
            graph(helper.make_node("Max", ["infrared", "visible"], ["y"]), fused="y"),
            "it makes 'y' tensor(float)",
        ),
        (graph(MAXIMUM, shape=("n", 3, "h", "w")), "'fused' tensor(float) ['n', 3, 'h', 'w']"),
        (graph(MAXIMUM, shape=("n", "h", "w")), "'infrared' tensor(float) ['n', 'h', 'w']"),
        (graph(MAXIMUM, kind=TensorProto.FLOAT16), "'fused' tensor(float16)"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        read_onnx(path)
    assert str(refused.value).startswith(f"{path} is no fusion network in ONNX")
    assert "expected what 'clipfuse export --out NAME.onnx' writes" in str(refused.value)


@pytest.mark.parametrize(
    ("factor", "shift", "message"),
    [
        (255.0, 0.0, "the network returns values from .* to 2.*, expected \\[0, 1\\]"),
        (2.0, -1.0, "values from -0.* to 0"),
        (float("nan"), 0.0, "values that are not finite"),
    ],
)
def test_an_output_in_another_range_is_refused_with_its_file(
    factor: float, shift: float, message: str, tmp_path: Path
) -> None:
    constants = [
        helper.make_node(
            "Constant", [], [name], value=helper.make_tensor(name, TensorProto.FLOAT, [], [value])
        )
        for name, value in {"factor": factor, "shift": shift}.items()
    ]
    steps = [
        helper.make_node("Max", ["infrared", "visible"], ["most"]),
        helper.make_node("Mul", ["most", "factor"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["fused"]),
    ]
    path = tmp_path / "theirs.onnx"
    path.write_bytes(graph(*constants, *steps))
    with pytest.raises(UserError, match=f"pair with {re.escape(str(path))} cannot be fused: .*{message}"):
        apply_network(OnnxNetwork(path), *planes(1, 5, 7), f"pair with {path}")


def test_a_file_of_one_size_fuses_that_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(graph(MAXIMUM, shape=(1, 1, 5, "w")))
    fuse = read_onnx(path)
    infrared, visible = planes(1, 5, 7)
    assert torch.equal(fuse(infrared, visible), infrared.maximum(visible))
    with pytest.raises(
        UserError, match="a pair cannot be fused: the file takes images of 5xany pixels alone"
    ):
        apply_network(OnnxNetwork(path), *planes(1, 6, 7), "a pair")


def test_an_onnx_file_of_another_maker(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(graph(MAXIMUM))
    infrared, visible = planes(1, 5, 7)
    assert torch.equal(read_onnx(path)(infrared, visible), infrared.maximum(visible))
    path.write_bytes(graph(helper.make_node("Concat", ["infrared", "visible"], ["fused"], axis=0)))
    with pytest.raises(RuntimeError, match=r"returns shape"):
        read_onnx(path)(infrared, visible)


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError])
def test_a_program_that_took_a_size_for_fixed(kind: type[Exception], tmp_path: Path) -> None:
    def fixed(infrared: Tensor, visible: Tensor) -> Tensor:
        raise kind("expected input to be 96 wide")

    with pytest.raises(
        UserError, match=r"net.onnx: it does not fuse images of any size: expected input to be 96"
    ):
        _difference(tmp_path / "net.onnx", fixed, ConvTiny(width=2).eval())


def test_no_such_file_and_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"none.onnx: cannot be read"):
        read_onnx(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    for act in (
        lambda: read_onnx(tmp_path / "none.onnx"),
        lambda: write_onnx(tmp_path / "x.onnx", ConvTiny(width=2).eval(), "conv_tiny"),
    ):
        with pytest.raises(UserError, match=r"pip install -e '\.\[export\]'"):
            act()
    assert not list(tmp_path.iterdir())
