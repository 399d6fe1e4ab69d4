import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.prompts import LearnablePrompts

Clips = Callable[..., FrozenClip]
# Every kind of text tower that takes embeddings; nothing of them is at their default twice.
TOWERS: dict[str, dict[str, Any]] = {
    "CLIP": {},
    "custom text": {"custom_text": True},
    "eos": {"custom_text": True, "pool_type": "eos", "eos_id": 49407, "proj_bias": True},
    "SigLIP": {"custom_text": True, "pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    "MobileCLIP": {"custom_text": True, "no_causal_mask": True},
    "not causal": {"no_causal_mask": True},
    "CoCa": {"custom_text": True, "embed_cls": True},
    "first": {"custom_text": True, "pool_type": "first", "no_causal_mask": True},
    "no projection": {"custom_text": True, "proj_type": "none"},
}
CLEAR, DULL = "a clear picture of bright things", "dull"


@pytest.mark.parametrize("tower", TOWERS)
def test_a_fresh_prompt_is_its_description(tiny_clip: Clips, tower: str) -> None:
    clip = tiny_clip(**TOWERS[tower])
    descriptions = {"positive": CLEAR, "negative": DULL}
    prompts = LearnablePrompts(clip, {"positive": "", "negative": ""}, descriptions)
    torch.testing.assert_close(prompts(), clip.encode_text([CLEAR, DULL]), rtol=1e-5, atol=5e-6)
    words = LearnablePrompts(clip, {"positive": "at night", "negative": "fog"}, descriptions)
    expected = clip.encode_text([f"{CLEAR} at night", f"{DULL} fog"])
    torch.testing.assert_close(words(), expected, rtol=1e-5, atol=5e-6)  # another order of operations
    front = LearnablePrompts(clip, {"positive": "at night"}, CLEAR, position="front")
    torch.testing.assert_close(front(), clip.encode_text([f"at night {CLEAR}"]), rtol=1e-5, atol=5e-6)
    middle = LearnablePrompts(clip, {"positive": "at night"}, CLEAR, position="middle")
    expected = clip.encode_text(["a clear picture at night of bright things"])
    torch.testing.assert_close(middle(), expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("tower", TOWERS)
def test_padding_changes_nothing(tiny_clip: Clips, tower: str) -> None:
    """A prompt has the same features alone and beside a longer one."""
    clip = tiny_clip(**TOWERS[tower])
    alone = LearnablePrompts(clip, {"a": "x"}, length=3)
    both = LearnablePrompts(clip, {"a": "x", "long": "one two three four five six seven eight"}, length=3)
    torch.testing.assert_close(both()[:1], alone(), rtol=1e-5, atol=1e-6)


def test_causal_towers_are_not_run_on_padding(tiny_clip: Clips) -> None:
    short = LearnablePrompts(tiny_clip(), {"a": "x"}, length=3)
    assert short.get_buffer("ids").shape == (1, 6)
    assert LearnablePrompts(tiny_clip(no_causal_mask=True), {"a": "x"}, length=3).get_buffer("ids").shape == (
        1,
        77,
    )


def test_gradients_reach_the_contexts_alone(tiny_clip: Clips) -> None:
    clip = tiny_clip()
    prompts = LearnablePrompts(clip, {"positive": "clear", "negative": "dull"}, length=4)
    prompts()[0].square().sum().backward()
    positive, negative = prompts.contexts
    assert positive.grad is not None
    assert (positive.grad.abs().sum(dim=1) > 0).all()
    assert negative.grad is not None
    assert not negative.grad.any()
    assert all(p.grad is None for p in clip.model.parameters())


def test_the_gradient_is_that_of_the_tower(tiny_clip: Clips) -> None:
    clip = tiny_clip().to(dtype=torch.float64)
    prompts = LearnablePrompts(clip, {"a": "clear", "b": ""}, length=2).double()
    values = [context.detach().clone().requires_grad_() for context in prompts.contexts]
    assert torch.autograd.gradcheck(lambda *v: prompts.features(v), values, atol=1e-4, fast_mode=True)


def test_features_at_other_values_leave_the_module_alone(tiny_clip: Clips) -> None:
    prompts = LearnablePrompts(tiny_clip(), {"a": "clear", "b": "dull"}, length=4)
    before, state = prompts().detach(), copy.deepcopy(prompts.state_dict())
    other = [torch.randn_like(context).requires_grad_() for context in prompts.contexts]
    found = prompts.features(other)
    assert not torch.allclose(found, before)
    torch.autograd.grad(found.sum(), other)
    assert all(context.grad is None for context in prompts.contexts)
    for name, value in prompts.state_dict().items():
        assert torch.equal(value, state[name])
    with torch.no_grad():
        for context, value in zip(prompts.contexts, other, strict=True):
            context.copy_(value)
    torch.testing.assert_close(prompts(), found)
    with pytest.raises(ValueError, match=r"shapes \[\(4, 16\)\]; expected \[\(4, 16\), \(4, 16\)\]"):
        prompts.features(other[:1])


def test_few_sets_of_values_are_remembered(tiny_clip: Clips) -> None:
    """Points between those that a solver moves are new at each of its checks."""
    prompts = LearnablePrompts(tiny_clip(), {"a": "x"}, length=3)
    moved = [prompts.contexts[0].detach().clone()]
    for step in range(12):
        moved[0].add_(0.1)
        expected = prompts.kept_features(moved)
        prompts.kept_features([moved[0] + step])  # of its own memory
        assert prompts.kept_features(moved) is expected
    assert len(prompts._known) <= 4


def test_the_state_is_the_contexts(tiny_clip: Clips) -> None:
    clip = tiny_clip()
    prompts = LearnablePrompts(clip, {"positive": "", "negative": ""}, length=4)
    assert list(prompts.state_dict()) == ["contexts.0", "contexts.1"]
    assert sum(p.numel() for p in prompts.parameters()) == 2 * 4 * 16
    assert copy.deepcopy(prompts).clip is clip


def test_a_shared_context(tiny_clip: Clips) -> None:
    clip = tiny_clip()
    prompts = LearnablePrompts(clip, {"a": "night", "b": "a day of rain"}, "a picture at", shared=True)
    assert len(prompts.contexts) == 1
    expected = clip.encode_text(["a picture at night", "a picture at a day of rain"])
    torch.testing.assert_close(prompts(), expected, rtol=1e-5, atol=1e-6)
    assert list(prompts.nearest_tokens()) == ["shared"]


def test_random_contexts_depend_on_seed_and_name(tiny_clip: Clips) -> None:
    clip = tiny_clip()
    torch.manual_seed(1)
    first = LearnablePrompts(clip, {"a": "", "b": ""}, seed=3).contexts
    torch.manual_seed(2)
    again = LearnablePrompts(clip, {"b": "", "a": ""}, seed=3).contexts
    assert torch.equal(first[0], again[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], LearnablePrompts(clip, {"a": ""}, seed=4).contexts[0])
    assert first[0].shape == (16, 16)
    assert 0.015 < first[0].std() < 0.025
    partly = LearnablePrompts(clip, {"a": ""}, "an infrared image", length=5).contexts[0]
    known = clip.token_table[clip.tokens.split("an infrared image")[1]]
    assert torch.equal(partly[:3], known)
    assert partly[3:].abs().max() < 0.1 < known.abs().max()


def test_the_nearest_tokens_of_a_fresh_prompt_are_its_words(tiny_clip: Clips) -> None:
    clip = tiny_clip()
    prompts = LearnablePrompts(clip, {"positive": "night"}, "an infrared image")
    read = prompts.nearest_tokens(2)["positive"]
    assert [tokens[0] for tokens in read] == [("an", 0.0), ("infrared", 0.0), ("image", 0.0)]
    assert all(len(tokens) == 2 and tokens[1][1] > 0 for tokens in read)
    among = clip.tokens.split("image of")[1]
    assert {word for tokens in prompts.nearest_tokens(1, among)["positive"] for word, _ in tokens} <= {
        "image",
        "of",
    }
    clip.seen_tokens = tuple(among)
    assert prompts.nearest_tokens(9)["positive"][2][0][0] == "image"
    assert len(prompts.nearest_tokens(9)["positive"][2]) == 2


def test_long_prompts(tiny_clip: Clips) -> None:
    clip, long = tiny_clip(), "word " * 80
    with pytest.raises(
        ValueError, match="'a' has 80 context vectors; beside its words and marks the model takes 73"
    ):
        LearnablePrompts(clip, {"a": "of night"}, long)
    cut = LearnablePrompts(clip, {"a": "of night"}, long, truncate=True)
    torch.testing.assert_close(cut(), clip.encode_text(["word " * 73 + "of night"]), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="has 80 tokens, more than length=4"):
        LearnablePrompts(clip, {"a": ""}, long, length=4)
    assert LearnablePrompts(clip, {"a": ""}, long, length=4, truncate=True).contexts[0].shape == (4, 16)
    with pytest.raises(ValueError, match="the model takes 0"):
        LearnablePrompts(clip, {"a": long}, "x", truncate=True)


def test_wrong_arguments(tiny_clip: Clips) -> None:
    clip = tiny_clip()
    for message, arguments in {
        "words names no prompt": {"words": {}},
        "position is 'back'": {"words": {"a": ""}, "position": "back"},
        "length is 0": {"words": {"a": ""}, "length": 0},
        "names the prompt 'b'": {"words": {"a": ""}, "descriptions": {"b": "x"}},
        "one description": {"words": {"a": ""}, "descriptions": {"a": "x"}, "shared": True},
    }.items():
        with pytest.raises(ValueError, match=message):
            LearnablePrompts(clip, **arguments)


def test_a_text_tower_without_embeddings_is_named(tiny_clip: Clips) -> None:
    class HFTextEncoder(nn.Module):
        context_length = 77

    clip = tiny_clip(custom_text=True)
    clip.model.text = HFTextEncoder()
    with pytest.raises(ValueError, match=r"HFTextEncoder takes no token embeddings.*ViT-B-32 or micro"):
        LearnablePrompts(clip, {"a": ""})
    with pytest.raises(ValueError, match="HFTextEncoder"):
        clip.encode_embeddings(torch.rand(1, 77, 16), torch.tensor([3]))


def test_embeddings_that_do_not_fit(tiny_clip: Clips) -> None:
    with pytest.raises(ValueError, match="78 token embeddings were given; this text tower takes 77"):
        tiny_clip().encode_embeddings(torch.rand(1, 78, 16), torch.tensor([3]))
    with pytest.raises(ValueError, match="12 token embeddings were given; this text tower takes 77"):
        tiny_clip(no_causal_mask=True).encode_embeddings(torch.rand(1, 12, 16), torch.tensor([3]))


def test_a_real_architecture(vit_clip: FrozenClip) -> None:
    prompts = LearnablePrompts(
        vit_clip, {"positive": "", "negative": ""}, {"positive": CLEAR, "negative": DULL}
    )
    torch.testing.assert_close(prompts(), vit_clip.encode_text([CLEAR, DULL]), rtol=1e-4, atol=1e-5)
    prompts().sum().backward()
    assert prompts.contexts[0].grad is not None
    assert [tokens[0][0] for tokens in prompts.nearest_tokens()["positive"]] == CLEAR.split()


class SentencePiece:
    """A tokenizer of the other kind: no start mark, padded with its end mark, as SigLIP's."""

    eos_token_id = pad_token_id = 1

    class Inner:
        eos_token_id, pad_token_id = 1, 1

        def decode(self, ids: list[int]) -> str:
            return f" w{ids[0]}"

    tokenizer = Inner()

    def __call__(self, texts: list[str], context_length: int) -> torch.Tensor:
        rows = [[*(100 + len(word) for word in text.split()[: context_length - 1]), 1] for text in texts]
        return torch.tensor([row + [1] * (context_length - len(row)) for row in rows])


def test_a_tokenizer_without_a_start_mark(tiny_clip: Clips) -> None:
    from clipfuse.clip.tokens import Tokens

    clip = tiny_clip(**TOWERS["SigLIP"])
    clip.tokens = Tokens(SentencePiece(), 77)
    assert clip.tokens.split("ab c") == ([], [102, 101], [1])
    prompts = LearnablePrompts(clip, {"a": "at night"}, "one three")
    torch.testing.assert_close(prompts(), clip.encode_text(["one three at night"]), rtol=1e-5, atol=1e-6)
    assert prompts.nearest_tokens()["a"][0][0][0] == "w103"
    with pytest.raises(ValueError, match="has 81 tokens"):
        clip.encode_text(["word " * 80])


def test_two_losses_of_the_same_values_share_one_pass(
    tiny_clip: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = LearnablePrompts(tiny_clip(), {"a": "", "b": ""}, length=3)
    passes: list[int] = []
    encode = FrozenClip.encode_embeddings
    monkeypatch.setattr(FrozenClip, "encode_embeddings", lambda *given: passes.append(1) or encode(*given))
    values = [value.detach().clone().requires_grad_() for value in prompts.contexts]

    def slope(*losses: Tensor) -> Tensor:
        return torch.autograd.grad(torch.stack(losses).sum(), values)[0]

    first, second = prompts.shared_features(values), prompts.shared_features(values)
    assert first is second
    copy.deepcopy(prompts)  # a graph cannot be copied, and is left out
    together = slope(first.square().sum(), second.sum())
    assert len(passes) == 1
    apart = slope(prompts.shared_features(values).square().sum()) + slope(
        prompts.shared_features(values).sum()
    )
    assert len(passes) == 3  # whose graph is gone is computed anew
    torch.testing.assert_close(together, apart)
    kept = prompts.shared_features(values)
    with torch.no_grad():
        values[0] += 1
    assert not torch.equal(prompts.shared_features(values), kept)
    with torch.no_grad():
        assert not prompts.shared_features(values).requires_grad
