"""Passes through open_clip's towers: named image features, and texts from token embeddings."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
_QUICK = 1.702  # of QuickGELU


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
    """Rewrite frozen weights so that the same features, up to rounding, take less time and memory.

    The batch norms of a `ModifiedResNet` are folded into its convolutions, and those are laid out for speed:
    forward and backward take two thirds of the time on a CPU. QuickGELU, x sigmoid(1.702 x), becomes SiLU
    with its factor in the weights before and behind it: one operation, of which one tensor is kept, instead
    of three.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock

    for block in model.modules():
        if isinstance(block, ResidualAttentionBlock) and type(block.mlp.gelu) is QuickGELU:
            with torch.no_grad():
                block.mlp.c_fc.weight *= _QUICK
                block.mlp.c_fc.bias *= _QUICK
                block.mlp.c_proj.weight /= _QUICK
            block.mlp.gelu = nn.SiLU()
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
    if not offered and not layers:
        return model.encode_image(images, normalize=False), {}
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
    if offered is not _STAGES and is_plain(visual):
        return _vit_pass(visual, images, layers, embed)
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


def is_plain(tower: Any) -> bool:
    """Return whether a tower's transformer is of the plain kind, which `run_blocks` computes by itself."""
    from open_clip.transformer import ResidualAttentionBlock

    return all(
        type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and block.attn.batch_first
        and block.attn._qkv_same_embed_dim
        and block.attn.bias_k is None
        and block.attn.in_proj_bias is not None
        for block in tower.transformer.resblocks
    )


def _vit_pass(
    visual: Any, images: Tensor, layers: Sequence[str], embed: bool
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """`image_pass` of a plain VisionTransformer.

    As open_clip computes it, but for the order of operations: patches are embedded by a matrix product, whose
    backward is far faster on a CPU than that of a convolution of that stride; and where the class token alone
    is read at the end, the last block computes no other.
    """
    count, (height, width) = len(images), visual.patch_size
    grid = images.shape[2] // height, images.shape[3] // width
    cut = images.reshape(count, -1, grid[0], height, grid[1], width).permute(0, 2, 4, 1, 3, 5)
    tokens = F.linear(cut.reshape(count, grid[0] * grid[1], -1), visual.conv1.weight.flatten(1))
    first = visual.class_embedding.to(tokens.dtype).expand(count, 1, -1)
    hidden = torch.cat([first, tokens], dim=1) + visual.positional_embedding.to(tokens.dtype)
    hidden = visual.ln_pre(visual.patch_dropout(hidden))
    numbers = {int(name.removeprefix("block")) for name in layers}
    blocks = visual.transformer.resblocks[: None if embed else max(numbers)]
    alone = visual.attn_pool is None and visual.pool_type == "tok" and len(blocks) not in numbers
    found = {}
    for number, block in enumerate(blocks, start=1):
        only = (
            torch.zeros_like(hidden[:, 0, 0], dtype=torch.long) if alone and number == len(blocks) else None
        )
        hidden = _block(block, hidden, None, only)
        if number in numbers:
            found[number] = hidden[:, 1:].transpose(1, 2).unflatten(2, grid)
    features = {name: found[int(name.removeprefix("block"))].contiguous() for name in layers}
    if not embed:
        return None, features
    pooled = visual._pool(hidden)[0]
    return pooled if visual.proj is None else pooled @ visual.proj, features


def run_blocks(transformer: Any, hidden: Tensor, mask: Tensor | None, only: Tensor | None = None) -> Tensor:
    """Run a plain transformer, with less memory traffic than `nn.MultiheadAttention`.

    Args:
        transformer: open_clip's, of plain blocks.
        hidden: (N, L, W).
        mask: added to the attention, (L, L) or None.
        only: (N,) int64, the one token that is read at the end; the last block computes no other. None: all.

    Returns:
        (N, L, W), or (N, 1, W) with `only`.
    """
    blocks = list(transformer.resblocks)
    for block in blocks[:-1]:
        hidden = _block(block, hidden, mask, None)
    return _block(blocks[-1], hidden, mask, only)


def _block(block: Any, hidden: Tensor, mask: Tensor | None, only: Tensor | None) -> Tensor:
    attention = block.attn
    width, heads = hidden.shape[-1], attention.num_heads
    normed = block.ln_1(hidden)
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if only is None:
        query, key, value = (
            each.unflatten(-1, (heads, -1)).transpose(1, 2)
            for each in F.linear(normed, weight, bias).chunk(3, dim=-1)
        )
    else:
        rows = torch.arange(len(hidden), device=hidden.device)
        hidden, mask = hidden[rows, only].unsqueeze(1), None if mask is None else mask[only].unsqueeze(1)
        mask = None if mask is None else mask.unsqueeze(1)
        queries = F.linear(normed[rows, only].unsqueeze(1), weight[:width], bias[:width])
        pairs = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        query, key, value = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (queries, *pairs))
    mask = None if mask is None else mask.to(query.dtype)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    hidden = hidden + block.ls_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))
    return hidden + block.ls_2(block.mlp(block.ln_2(hidden)))


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
    if own_token is None and is_plain(tower) and (mask is None or mask.ndim == 2):
        only = ends if _pool_type(tower) in ("argmax", "eos") else None
        hidden = run_blocks(tower.transformer, hidden, mask, only)
        ends = ends if only is None else torch.zeros_like(ends)
    else:
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
