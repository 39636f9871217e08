"""Attention in bfloat16 on a processor, forward and backward: ours against torch's own.

    python -m benchmarks.attention

For each shape, in turns on one thread: the milliseconds of `trainwright.engine.attention.attend` and of transformers'
`sdpa`, which is torch's fused kernel, under the same padding mask. The best of five.
"""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trainwright.engine.attention import attend

SHAPES = [(16, 12, tokens, 32) for tokens in (16, 32, 64, 128, 192, 256, 384)]  # MiniLM's heads
SHAPES += [(8, 12, tokens, 64) for tokens in (16, 64, 128, 256, 384)]  # BERT's
TURNS = 5


def milliseconds(attention: Callable[..., Any], shape: tuple[int, ...]) -> float:
    batch, heads, tokens, width = shape
    made = [torch.randn(batch, tokens, heads, width, dtype=torch.bfloat16).transpose(1, 2) for _ in range(3)]
    states = [part.requires_grad_() for part in made]
    mask = (torch.arange(tokens) < tokens - 3).expand(batch, 1, tokens, tokens)
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(SimpleNamespace(is_causal=False), *states, mask)[0]
    out.backward(torch.ones_like(out))
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    torch.set_num_threads(1)
    print("texts, heads, tokens, width:  torch    ours  ratio")
    for shape in SHAPES:
        turns = [
            (milliseconds(sdpa_attention_forward, shape), milliseconds(attend, shape)) for _ in range(TURNS + 1)
        ]  # the first of which makes the kernels
        theirs, ours = (min(values[1:]) for values in zip(*turns, strict=True))
        print(f"{shape!s:28} {theirs:7.1f} {ours:7.1f}  {theirs / ours:5.2f}")


if __name__ == "__main__":
    main()
