"""A network as a file that other programs run: ONNX."""

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbols

from clipfuse.errors import UserError
from clipfuse.files import replace_when_whole
from clipfuse.networks.onnx import CHROMA, PLANES, SMALLEST, Fuse, OnnxFile, import_extra, read_onnx, reason
from clipfuse.version import __version__

OPSET = 20
TOLERANCE = 1e-4
_AXES = {0: "batch", 2: "height", 3: "width"}
_TRACED, _CHECKED = (2, 1, 75, 93), (1, 1, 53, 87)  # odd and unequal, so that no size looks like another


class _Fused(nn.Module):
    """A backbone without its features."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, *planes: Tensor) -> tuple[Tensor, ...]:
        output = self.backbone(*planes)
        return (output.fused,) if output.chroma is None else (output.fused, output.chroma)


def _planes(backbone: nn.Module, shape: tuple[int, ...], seed: int) -> tuple[Tensor, ...]:
    """Return inputs of noise: luma of both bands, and the chroma for a backbone that learns it."""
    generator = torch.Generator().manual_seed(seed)
    infrared, visible = torch.rand(2, *shape, generator=generator).unbind()
    if not getattr(backbone, "learns_chroma", False):
        return infrared, visible
    return infrared, visible, torch.rand(shape[0], 2, *shape[2:], generator=generator)


def write_onnx(path: Path, backbone: nn.Module, name: str, overwrite: bool = True) -> float:
    """Write a network as ONNX, opset 20: float32 `infrared` and `visible` in, `fused` out, all in [0, 1].

    One that learns the chroma also takes `chroma` and returns `fused_chroma`, Cb and Cr, (N, 2, H, W).
    Number and sides are free; padding and cropping lie in the graph. The file holds all weights, names its
    producer, backbone and ranges, and no path of this machine.

    Args:
        path: the file; it appears whole and checked, or not at all.
        backbone: in eval mode, on the CPU.
        name: name of the backbone, written into the file.
        overwrite: whether a file that is there, or appears in the meantime, is replaced.

    Returns:
        The largest difference between what it returns and what the network does, on one odd size.

    Raises:
        UserError: the extra `export` is missing, the network cannot be expressed, or the file not be
            written or not do the same.
    """
    onnx, _, _ = (import_extra(extra) for extra in ("onnx", "onnxscript", "onnxruntime"))
    chroma = CHROMA if getattr(backbone, "learns_chroma", False) else ()
    program = _trace(backbone, name)
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[*PLANES, *chroma[:1]],
                output_names=["fused", *chroma[1:]],
                verbose=False,
            )
        assert exported is not None
        model = exported.model_proto
    except Exception as error:  # converters raise many kinds
        raise UserError(f"{name} cannot be written as ONNX: {reason(error)}") from error
    _describe(onnx, model, name, _smallest(program), bool(chroma))
    with replace_when_whole(path, overwrite=overwrite) as temporary:
        content = model.SerializeToString()
        try:
            onnx.checker.check_model(content, full_check=True)
        except Exception as error:  # several kinds
            raise UserError(f"{name} cannot be written as ONNX: {reason(error)}") from error
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return _difference(path, read_onnx(temporary), backbone)


def _trace(backbone: nn.Module, name: str) -> ExportedProgram:
    network = copy.deepcopy(backbone)
    for part in network.modules():
        if (prepare := getattr(part, "prepare_export", None)) is not None:
            prepare()
    planes = _planes(backbone, _TRACED, seed=0)
    free = dict.fromkeys(_AXES, Dim.DYNAMIC)
    try:
        # Else torch would require that no side, not even of the smallest features, is 1.
        with _quiet(), symbols.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(
                _Fused(network),
                planes,
                dynamic_shapes=((free,) * len(planes),),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # many kinds
        raise UserError(
            f"{name} cannot be traced for images of any size: {reason(error)}; export "
            "its weights, --out NAME.safetensors"
        ) from error
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # holds paths of this machine
    return program


def _smallest(program: ExportedProgram) -> int:
    """Return the smallest side that all branches taken while tracing allow."""
    names = program.graph_signature.user_inputs
    shapes = [
        node.meta["val"].shape
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names
    ]
    ranges = program.range_constraints
    sides = [side.node.expr for shape in shapes for side in shape[2:]]
    return max(1, *(int(ranges[side].lower) for side in sides if side in ranges))


def _describe(onnx: Any, model: Any, name: str, smallest: int, chroma: bool) -> None:
    """Say in an ONNX model what it is; take out what the converter noted down of this machine."""
    model.producer_name, model.producer_version = "clipfuse", __version__
    model.doc_string = (
        "Fuses registered infrared and visible images. infrared, visible: luma (BT.601), float32 (batch, 1, "
        f"height, width) in [0, 1], sides of {smallest} or more. fused: luma of that shape in [0, 1]."
        + (" chroma, fused_chroma: Cb and Cr (batch, 2, height, width) in [0, 1]." if chroma else "")
    )
    onnx.helper.set_model_props(model, {"clipfuse.backbone": name, SMALLEST: str(smallest)})
    del model.graph.value_info[:], model.graph.metadata_props[:]
    for entry in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        entry.doc_string = ""
        del entry.metadata_props[:]
    for entry in (*model.graph.input, *model.graph.output):
        del entry.type.tensor_type.shape.dim[:]
        for axis in range(4):
            side = entry.type.tensor_type.shape.dim.add()
            if axis in _AXES:
                side.dim_param = _AXES[axis]
            else:
                side.dim_value = 2 if entry.name in CHROMA else 1


def _difference(path: Path, fuse: Fuse, backbone: nn.Module) -> float:
    planes = _planes(backbone, _CHECKED, seed=1)
    try:
        with torch.inference_mode():
            found = (
                fuse.in_color(*planes) if isinstance(fuse, OnnxFile) and planes[2:] else (fuse(*planes[:2]),)
            )
            pairs = zip(found, _Fused(backbone)(*planes), strict=True)
            difference = max(float((one - other).abs().max()) for one, other in pairs)
    except (RuntimeError, AssertionError) as error:  # a traced program that took a size for fixed
        raise UserError(f"{path}: it does not fuse images of any size: {reason(error)}") from error
    if not difference <= TOLERANCE:  # nor is NaN
        raise UserError(
            f"{path}: what it fuses differs by {difference:.1e} from the network; expected {TOLERANCE} or "
            "less; are its weights finite?"
        )
    return difference


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what torch's exporters remark on their own inside."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
