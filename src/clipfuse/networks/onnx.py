"""Networks in ONNX files from anyone, by onnxruntime."""

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.files import read_bytes
from clipfuse.types import FusionOutput

PLANES = ("infrared", "visible")
SMALLEST = "clipfuse.smallest_side"
Fuse = Callable[[Tensor, Tensor], Tensor]
"""Fused luma (N, 1, H, W) of infrared and visible luma of that shape, float32 in [0, 1]."""


class OnnxNetwork(nn.Module):
    """The network of an ONNX file from anyone, by onnxruntime on the CPU; without gradient and features.

    Args:
        path: the file.

    Raises:
        UserError: as `read_onnx`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._fuse = read_onnx(path)

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Return the fused luma of (N, 1, H, W) planes in [0, 1]."""
        return FusionOutput(self._fuse(infrared, visible))


def read_onnx(path: Path) -> Fuse:
    """Open an ONNX file from anyone as a network, on as many CPU threads as torch has.

    The file is read once. Files that name other files are refused; onnxruntime loads only its own operators.
    What the network computes, and for how long, is up to whoever made the file.

    Returns:
        A function that fuses planes; sides smaller than the file states as least are padded by repetition. It
        raises RuntimeError where the graph fails.

    Raises:
        UserError: no such file, the extra `export` is missing, or this is no fusion network in ONNX.
    """
    onnx, runtime = import_extra("onnx"), import_extra("onnxruntime")
    expected = "expected what 'clipfuse export --out NAME.onnx' writes"
    content = read_bytes(path, most=2**31, remedy="check the path", expected="what 'clipfuse export' writes")
    try:
        model = onnx.load_model_from_string(content)
        if any(part.data_location == onnx.TensorProto.EXTERNAL for part in _tensors(onnx, model)):
            raise ValueError("it keeps weights in another file")
        records = {entry.key: entry.value for entry in model.metadata_props}
        smallest = min(int(records.get(SMALLEST, 1)), 1024)
        del model
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        ends = [*session.get_inputs(), *session.get_outputs()]
        fixed = {side for one in ends for side in enumerate(one.shape[2:]) if isinstance(side[1], int)}
        if [one.name for one in ends] != [*PLANES, "fused"] or not all(map(_is_plane, ends)):
            inputs, outputs = (
                ", ".join(f"'{one.name}' {one.type} {one.shape}" for one in each) or "nothing"
                for each in (session.get_inputs(), session.get_outputs())
            )
            raise ValueError(
                "it does not make 'fused' of 'infrared' and 'visible', each tensor(float) (batch, 1, height, "
                f"width); it makes {outputs} of {inputs}"
            )
    except Exception as error:  # any error of a parser: the file is a stranger's
        raise UserError(f"{path} is no fusion network in ONNX: {reason(error)}; {expected}") from error

    def fuse(infrared: Tensor, visible: Tensor) -> Tensor:
        height, width = infrared.shape[-2:]
        missing = (0, max(smallest - width, 0), 0, max(smallest - height, 0))
        if any((height, width)[axis] != side for axis, side in fixed):
            sides = "x".join(str(dict(fixed).get(axis, "any")) for axis in (0, 1))
            raise RuntimeError(
                f"the file takes images of {sides} pixels alone, this one has {height}x{width}"
            )
        planes = [F.pad(plane.float().cpu(), missing, mode="replicate") for plane in (infrared, visible)]
        try:
            (fused,) = session.run(
                ["fused"], {word: plane.numpy() for word, plane in zip(PLANES, planes, strict=True)}
            )
        except Exception as error:  # its own kinds
            raise RuntimeError(reason(error)) from error
        result = torch.from_numpy(fused)
        if result.shape != planes[0].shape:
            raise RuntimeError(f"it returns shape {tuple(result.shape)} for {tuple(planes[0].shape)}")
        return result[..., :height, :width]

    return fuse


def _is_plane(end: Any) -> bool:
    """Return whether an input or output has the type of a plane; the names of free axes may be any."""
    axes = end.shape
    return end.type == "tensor(float)" and len(axes) == 4 and (axes[1] == 1 or not isinstance(axes[1], int))


def import_extra(name: str) -> Any:
    """Import a package of the extra `export`, without the telemetry that onnxruntime starts at its import.

    That would call a host on the internet, and keep a database in the home folder.

    Raises:
        UserError: it is missing.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is missing: pip install -e '.[export]'") from error


def reason(error: Exception) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return (f"{error}".strip().splitlines() or [type(error).__name__])[0]


def _tensors(onnx: Any, message: Any) -> Iterator[Any]:
    """Yield all tensors of a model, however deeply they are nested."""
    pending = [message]
    while pending:
        part = pending.pop()
        if isinstance(part, onnx.TensorProto):
            yield part
        for field, value in part.ListFields():
            if field.message_type is not None:
                pending += [value] if hasattr(value, "ListFields") else list(value)
