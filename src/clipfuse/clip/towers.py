"""Passes through open_clip's towers: named image features, and texts from token embeddings."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


def feature_layers(model: Any) -> tuple[str, ...]:
    """Return the names of an image tower's features, in the order they are computed.

    `block1` to `blockN` of open_clip's `VisionTransformer`, each the tokens after a block without the class
    token; `stem` and `layer1` to `layer4` of its `ModifiedResNet`; none of another tower.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    if isinstance(model.visual, ModifiedResNet):
        return _STAGES
    if isinstance(model.visual, VisionTransformer):
        return tuple(f"block{index + 1}" for index in range(len(model.visual.transformer.resblocks)))
    return ()


def speed_up(model: Any) -> None:
    """Fold the frozen batch norms of a `ModifiedResNet` into its convolutions, and lay those out for speed.

    The features stay the same up to rounding; forward and backward take two thirds of the time on a CPU.
    """
    from open_clip.modified_resnet import ModifiedResNet

    if not isinstance(model.visual, ModifiedResNet):
        return
    for module in list(model.visual.modules()):
        for number in (1, 2, 3):
            if isinstance(norm := getattr(module, f"bn{number}", None), nn.BatchNorm2d):
                conv = getattr(module, f"conv{number}")
                setattr(module, f"conv{number}", fuse_conv_bn_eval(conv, norm))
                setattr(module, f"bn{number}", nn.Identity())
        shortcut = getattr(module, "downsample", None)
        if shortcut is not None:
            shortcut[1], shortcut[2] = fuse_conv_bn_eval(shortcut[1], shortcut[2]), nn.Identity()
    model.visual.to(memory_format=torch.channels_last).requires_grad_(False)


def image_pass(
    model: Any, images: Tensor, layers: Sequence[str], embed: bool
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Run the image tower once, no further than is needed.

    Args:
        model: open_clip's model.
        images: (N, 3, H, W), preprocessed.
        layers: names from `feature_layers`, in any order.
        embed: whether to compute the embedding.

    Returns:
        The embedding (N, D) or None, and the features (N, C, h, w) by name in the order of `layers`.

    Raises:
        ValueError: the tower has no such layer, or is of a kind whose layers are not accessible.
    """
    offered = feature_layers(model)
    if not offered:
        raise ValueError(
            f"the image tower {type(model.visual).__name__} gives no features; the VisionTransformer and "
            "ModifiedResNet towers of open_clip do, such as those of ViT-B-32 and RN50"
        )
    for name in layers:
        if name not in offered:
            raise ValueError(f"the image tower has no layer '{name}'; expected one of {', '.join(offered)}")
    visual: Any = model.visual
    indices = sorted({offered.index(name) for name in layers})
    if offered is not _STAGES:
        output = visual.forward_intermediates(
            images, indices=indices, stop_early=not embed, intermediates_only=not embed
        )
        found = dict(zip(indices, output["image_intermediates"], strict=True))
        return output.get("image_features"), {name: found[offered.index(name)] for name in layers}
    # ModifiedResNet.forward_intermediates stops at the wrong layer with stop_early.
    found, hidden = {}, images
    for index in range(len(offered) if embed else indices[-1] + 1):
        hidden = found[index] = getattr(visual, offered[index])(hidden)
    embedding = visual.attnpool(hidden) if embed else None
    return embedding, {name: found[offered.index(name)] for name in layers}


def text_tower(model: Any) -> Any:
    """Return the module that holds the text transformer and its token table.

    Raises:
        ValueError: the tower does not take token embeddings; names it.
    """
    tower: Any = getattr(model, "text", model)
    missing = [name for name in ("token_embedding", "transformer", "ln_final") if not hasattr(tower, name)]
    pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    if missing or pool not in ("argmax", "eos", "first", "last"):
        kind = type(tower).__name__
        inner = getattr(getattr(tower, "config", None), "model_type", None)
        raise ValueError(
            f"the text tower {kind}{f' ({inner})' if inner else ''} takes no token embeddings; learnable "
            "prompts need open_clip's own text transformer, such as that of ViT-B-32 or micro"
        )
    return tower


def reads_padding(model: Any) -> bool:
    """Whether tokens after the end of a text can change its features; then it must be padded as in training.

    In causal towers that read the end-of-text token it cannot, and sequences may be cut there.
    """
    tower = text_tower(model)
    return (
        tower.attn_mask is None
        or getattr(tower, "cls_emb", None) is not None
        or _pool_type(tower) not in ("argmax", "eos")
    )


def text_pass(model: Any, embeddings: Tensor, ends: Tensor) -> Tensor:
    """Run the text tower from token embeddings on, as open_clip's `encode_text` does from token ids on.

    Args:
        model: open_clip's model.
        embeddings: (P, L, W) rows of the token table or vectors in their place, without positions; L is at
            most the context length, and equal to it where `reads_padding`.
        ends: (P,) int64, where the end-of-text token is.

    Returns:
        (P, D), not normalised.

    Raises:
        ValueError: the tower takes no embeddings, or L does not fit.
    """
    tower = text_tower(model)
    count, length = embeddings.shape[:2]
    limit = tower.context_length
    if length > limit or (length < limit and reads_padding(model)):
        raise ValueError(f"{length} token embeddings were given; this text tower takes {limit}")
    hidden, mask = embeddings, tower.attn_mask
    own_token = getattr(tower, "cls_emb", None)
    if own_token is not None:  # CoCa: a token of its own after the text, which does not attend to padding
        hidden = torch.cat([hidden, own_token.expand(count, 1, -1)], dim=1)
        length += 1
    mask = None if mask is None else mask[:length, :length]
    if own_token is not None or getattr(tower, "use_pad_mask", False):
        inside = torch.arange(embeddings.shape[1], device=ends.device) <= ends[:, None]
        ids = torch.where(inside, tower.pad_id + 1, tower.pad_id)
        hiding = tower._build_additive_mask(ids, length, hidden.dtype)
        mask = hiding if mask is None else mask + hiding
    hidden = hidden + tower.positional_embedding[:length]
    hidden = tower.transformer(hidden, attn_mask=mask)
    if own_token is not None:
        pooled = tower.ln_final(hidden[:, -1])
    else:
        hidden, pool = tower.ln_final(hidden), _pool_type(tower)
        places = {"first": torch.zeros_like(ends), "last": torch.full_like(ends, length - 1)}.get(pool, ends)
        pooled = hidden[torch.arange(count, device=hidden.device), places]
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def _pool_type(tower: Any) -> str:
    """How a tower pools: `CLIP` keeps it under another name than `TextTransformer`."""
    return str(tower.text_pool_type if hasattr(tower, "text_pool_type") else tower.pool_type)
