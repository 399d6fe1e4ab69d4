"""The two files of a micro CLIP: `model.safetensors` and `config.json`. Own format.

Of the 49,408 rows of the token table only those of tokens seen in training are stored; the others
never had a gradient, so they are drawn again from the seed. This saves most of the file.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.files import read_bytes, read_json, write_atomically, write_json

TABLE = "token_embedding.weight"
ROWS, IDS = "token_embedding.rows", "token_embedding.ids"
EDITIONS = {name: Path(__file__).parent / name for name in ("micro", "micro_1")}
"""The bundled models: the newest, and earlier ones, on which older runs were trained."""
BUNDLED = EDITIONS["micro"]


def initial_rows(count: int, width: int, seed: int) -> Tensor:
    """Return the (count, width) float32 token table that training starts from: N(0, 0.02^2)."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(count, width, generator=generator) * 0.02


def build_micro(config: Mapping[str, Any]) -> nn.Module:
    """Return the untrained model of `config["open_clip"]`, an open_clip model configuration.

    Its class is `CustomTextCLIP` where the configuration has `custom_text: true`, else `CLIP`. The token
    table is `initial_rows` of `config["seed"]`, so that a model is the same before and after it is stored.
    """
    import open_clip

    arguments = dict(config["open_clip"])
    model_class = open_clip.CustomTextCLIP if arguments.pop("custom_text", False) else open_clip.CLIP
    model: nn.Module = model_class(**arguments)
    table = model.get_parameter(_table_key(model.state_dict()))
    with torch.no_grad():
        table.copy_(initial_rows(table.shape[0], table.shape[1], config["seed"]))
    return model


def save_micro(model: nn.Module, seen: Sequence[int], config: Mapping[str, Any], folder: Path) -> None:
    """Write `model.safetensors` (fp16) and `config.json` into `folder`.

    Args:
        model: open_clip's `CLIP` or `CustomTextCLIP`, on any device; left unchanged.
        seen: the token ids of the training texts, with start and end of text (and padding where the tower
            reads it).
        config: `open_clip` (model configuration), `preprocess` (`size`, `mean`, `std`, `interpolation`),
            `version`, `seed` (of the rows that are not stored), and any further plain values.
        folder: made if it does not exist.

    Raises:
        ValueError: the configuration lacks a field, a token is not in the table, or a weight is too
            large for fp16.
    """
    missing = {"open_clip", "preprocess", "version", "seed"} - set(config)
    if missing:
        raise ValueError(f"the configuration of a micro CLIP lacks {', '.join(sorted(missing))}")
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    key = _table_key(weights)
    table, ids = weights.pop(key), torch.tensor(sorted(set(seen)), dtype=torch.int64)
    if not len(ids) or ids[0] < 0 or ids[-1] >= len(table):
        raise ValueError(f"seen must name tokens in 0..{len(table) - 1}, at least one")
    prefix = key.removesuffix(TABLE)
    weights[prefix + ROWS], weights[prefix + IDS] = table[ids], ids
    stored = {}
    for name, value in weights.items():
        stored[name] = (value.half() if value.is_floating_point() else value).contiguous().clone()
        if not stored[name].isfinite().all():
            raise ValueError(f"{name} holds a number that fp16 cannot")
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(folder / "model.safetensors", "wb") as file:
        file.write(save(stored))
    write_json(folder / "config.json", dict(config))


def load_micro(folder: Path | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Read what `save_micro` wrote.

    Args:
        folder: the bundled model if None.

    Returns:
        The model in float32 on the CPU, in eval mode; and its configuration, with `seen` (the sorted ids)
        and `sha256` (of `model.safetensors`) added.

    Raises:
        UserError: a file is missing, broken or does not fit the other; names it and what to do.
    """
    folder = folder or BUNDLED
    path = folder / "model.safetensors"
    remedy = "install clipfuse again, or name another model with clip=custom"
    try:
        config = read_json(folder / "config.json", remedy=remedy)
        content = read_bytes(path, remedy=remedy)
        model, weights = build_micro(config), load(content)
        key = _table_key(model.state_dict())
        prefix = key.removesuffix(TABLE)
        rows, ids = weights.pop(prefix + ROWS), weights.pop(prefix + IDS)
        weights[key] = model.state_dict()[key].clone()
        weights[key][ids] = rows.float()
        model.load_state_dict(weights)
    except UserError:
        raise
    except Exception as error:  # a broken file can raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a whole micro CLIP ({reason}); {remedy}") from error
    digest = hashlib.sha256(content).hexdigest()
    return model.eval(), {**config, "seen": ids.tolist(), "sha256": digest}


def _table_key(weights: Mapping[str, Tensor]) -> str:
    """The name of the token table: with `text.` in front for `CustomTextCLIP`."""
    for key in (TABLE, f"text.{TABLE}"):
        if key in weights:
            return key
    raise ValueError("the model has no token table; only open_clip's own text towers can be saved")
