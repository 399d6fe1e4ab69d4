"""Networks in ONNX files from anyone, by onnxruntime."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.files import read_bytes
from clipfuse.types import FusionOutput

PLANES = ("infrared", "visible")
SMALLEST = "clipfuse.smallest_side"
CHROMA = ("chroma", "fused_chroma")  # in and out, of a network that learns the chroma


class Fuse(Protocol):
    """The fused luma (N, 1, H, W) of infrared and visible luma of that shape, float32 in [0, 1]."""

    def __call__(self, infrared: Tensor, visible: Tensor, /) -> Tensor:
        """Return the fused luma."""


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

    @property
    def learns_chroma(self) -> bool:
        """Whether the file takes the chroma of the visible image and returns that of the fused one."""
        return self._fuse.learns_chroma

    def forward(self, infrared: Tensor, visible: Tensor, chroma: Tensor | None = None) -> FusionOutput:
        """Return the fused luma of (N, 1, H, W) planes in [0, 1], and the fused chroma if it learns one."""
        if chroma is None or not self.learns_chroma:
            return FusionOutput(self._fuse(infrared, visible))
        fused, learned = self._fuse.in_color(infrared, visible, chroma)
        return FusionOutput(fused, chroma=learned)


class OnnxFile:
    """What an ONNX file computes; see `read_onnx`.

    Attributes:
        learns_chroma: whether it takes the chroma, too.
    """

    def __init__(self, session: Any, smallest: int) -> None:
        self._session, self._smallest = session, smallest
        ends = [*session.get_inputs(), *session.get_outputs()]
        self._fixed = {side for one in ends for side in enumerate(one.shape[2:]) if isinstance(side[1], int)}
        self.learns_chroma = len(session.get_inputs()) > len(PLANES)

    def __call__(self, infrared: Tensor, visible: Tensor, /) -> Tensor:
        """Return the fused luma of (N, 1, H, W) planes."""
        gray = [visible.new_full((len(visible), 2, *visible.shape[2:]), 0.5)] if self.learns_chroma else []
        return self._run(infrared, visible, *gray)[0]

    def in_color(self, infrared: Tensor, visible: Tensor, chroma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused luma and the fused chroma, (N, 2, H, W), of a file that learns it."""
        fused, learned = self._run(infrared, visible, chroma)
        return fused, learned

    def _run(self, *given: Tensor) -> list[Tensor]:
        height, width = given[0].shape[-2:]
        missing = (0, max(self._smallest - width, 0), 0, max(self._smallest - height, 0))
        if any((height, width)[axis] != side for axis, side in self._fixed):
            sides = "x".join(str(dict(self._fixed).get(axis, "any")) for axis in (0, 1))
            raise RuntimeError(
                f"the file takes images of {sides} pixels alone, this one has {height}x{width}"
            )
        planes = [F.pad(plane.float().cpu(), missing, mode="replicate") for plane in given]
        names = [one.name for one in self._session.get_inputs()]
        try:
            found = self._session.run(
                None, {word: plane.numpy() for word, plane in zip(names, planes, strict=True)}
            )
        except Exception as error:  # its own kinds
            raise RuntimeError(reason(error)) from error
        results = [torch.from_numpy(each) for each in found]
        for result, plane in zip(results, planes[::2], strict=True):  # luma, and chroma if there is one
            if result.shape != plane.shape:
                raise RuntimeError(f"it returns shape {tuple(result.shape)} for {tuple(plane.shape)}")
        return [result[..., :height, :width] for result in results]


def read_onnx(path: Path) -> OnnxFile:
    """Open an ONNX file from anyone as a network, on as many CPU threads as torch has.

    The file is read once. Files that name other files are refused; onnxruntime loads only its own operators.
    What the network computes, and for how long, is up to whoever made the file.

    Returns:
        What fuses planes; sides smaller than the file states as least are padded by repetition. It raises
        RuntimeError where the graph fails.

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
        names = [one.name for one in ends]
        known = ([*PLANES, "fused"], [*PLANES, CHROMA[0], "fused", CHROMA[1]])
        if names not in known or not all(map(_is_plane, ends)):
            inputs, outputs = (
                ", ".join(f"'{one.name}' {one.type} {one.shape}" for one in each) or "nothing"
                for each in (session.get_inputs(), session.get_outputs())
            )
            raise ValueError(
                "it does not make 'fused' of 'infrared' and 'visible', each tensor(float) (batch, 1, height, "
                f"width); it makes {outputs} of {inputs}"
            )
        return OnnxFile(session, smallest)
    except Exception as error:  # any error of a parser: the file is a stranger's
        raise UserError(f"{path} is no fusion network in ONNX: {reason(error)}; {expected}") from error


def _is_plane(end: Any) -> bool:
    """Return whether an input or output has the type of its planes; the names of free axes may be any."""
    axes, channels = end.shape, 2 if end.name in CHROMA else 1
    fits = len(axes) == 4 and (axes[1] == channels or not isinstance(axes[1], int))
    return end.type == "tensor(float)" and fits


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
