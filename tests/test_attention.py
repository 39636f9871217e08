"""The attention of our own against transformers', which is torch's: the same in float32 but for bfloat16's rounding."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trainwright.engine import attention

MODULE = SimpleNamespace(is_causal=False)


def states(tokens: int, width: int, seed: int = 0) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 2, tokens, width, generator=made).bfloat16().requires_grad_() for _ in range(3)]


def masks(tokens: int) -> dict[str, dict[str, Any]]:
    """What a model can give along; the first text is whole, of the last but one token is seen."""
    seen = torch.arange(tokens)[None] < torch.tensor([tokens, max(1, tokens // 2), 1])[:, None]
    padding = seen[:, None, None, :].expand(3, 1, tokens, tokens)
    bias = torch.randn(1, 2, tokens, tokens, generator=torch.Generator().manual_seed(9))
    return {
        "no mask": {"attention_mask": None},
        "causal": {"attention_mask": None, "is_causal": True},
        "padding": {"attention_mask": padding},
        "causal padding": {"attention_mask": padding & torch.ones(tokens, tokens, dtype=torch.bool).tril()},
        "added": {"attention_mask": torch.where(padding, 0.0, torch.finfo(torch.bfloat16).min).bfloat16()},
        "bias": {"attention_mask": padding, "position_bias": bias.bfloat16(), "scaling": 0.1},
    }


@pytest.mark.parametrize("kind", masks(1))
@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("tokens", [1, 7, attention.SHORT, attention.SHORT + 3])
def test_states_and_gradients_are_those_of_torchs_attention_in_float32(tokens: int, width: int, kind: str) -> None:
    given = masks(tokens)[kind]
    ours, theirs = states(tokens, width), [part.detach().float().requires_grad_() for part in states(tokens, width)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = attention.attend(MODULE, *ours, **given)
    in_float = {name: value.float() if _is_float(value) else value for name, value in given.items()}
    wanted, _ = sdpa_attention_forward(MODULE, *theirs, **in_float)
    assert out.dtype == torch.bfloat16 and out.shape == (3, tokens, 2, width)
    torch.testing.assert_close(out.float(), wanted, atol=0.03, rtol=0.03)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    (out.float() * weights).sum().backward()
    (wanted * weights).sum().backward()
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.grad is not None and reference.grad is not None
        scale = reference.grad.abs().max().clamp(min=0.1)  # none of one token's query has any
        torch.testing.assert_close(mine.grad.float() / scale, reference.grad / scale, atol=0.04, rtol=0.04)


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def test_in_float32_it_is_transformers_own_to_the_bit() -> None:
    parts = [part.detach().float() for part in states(12, 16)]
    for kind in masks(12).values():
        given = {name: value.float() if _is_float(value) else value for name, value in kind.items()}
        assert torch.equal(
            attention.attend(MODULE, *parts, **given)[0], sdpa_attention_forward(MODULE, *parts, **given)[0]
        )


@pytest.mark.parametrize("tokens", [8, attention.SHORT + 8])
def test_dropout_keeps_the_mean_of_the_states(tokens: int) -> None:
    query, key, value = states(tokens, 16)
    torch.manual_seed(0)
    draws = [attention.attend(MODULE, query, key, value, None, dropout=0.5)[0].float() for _ in range(600)]
    mean, wanted = torch.stack(draws).mean(0), attention.attend(MODULE, query, key, value, None)[0].float()
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(mean, wanted, atol=0.25, rtol=0)


def test_models_that_are_loaded_attend_by_it() -> None:
    attention.install()
    assert AttentionInterface()["sdpa"] is attention.attend
