"""Attention in bfloat16 on a processor, where the backward pass of torch's own kernel is slow."""

from typing import Any

# Where another way was quicker than torch's kernel (docs/results.md, "Speed"): tokens up to which
# it is plain products, and the width of a head under which it is the same kernel in float32.
SHORT = 128
NARROW = 64


def install() -> None:
    """Have every model that transformers makes with torch's attention (`sdpa`) use `attend` in its place."""
    from transformers import AttentionInterface

    AttentionInterface.register("sdpa", attend)


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Any = None,
    **more: Any,
) -> tuple[Any, None]:
    """The attention of transformers' interface: states (batch, heads, tokens, width) to (batch, tokens, heads, width).

    In bfloat16 on a processor short texts, and all with dropout, are computed as attention is written down, with the
    softmax in float32, and longer ones with narrow heads in float32. All else is transformers' own.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def torchs(query: Any, key: Any, value: Any, mask: Any, bias: Any) -> Any:
        options = {"dropout": dropout, "scaling": scaling, "position_bias": bias, **more}
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0]

    states, given = (query, key, value), (attention_mask, position_bias)
    here = query.dtype == torch.bfloat16 and query.device.type == "cpu" and more.get("cache") is None
    causal = more["is_causal"] if more.get("is_causal") is not None else getattr(module, "is_causal", True)
    masked = attention_mask is not None or not causal or query.shape[2] == 1
    plain = key.shape[2] <= SHORT or dropout  # with dropout torch has no fused kernel here
    if here and masked and plain and key.shape[1] == query.shape[1]:
        scores = torch.matmul(query, key.transpose(2, 3)) * (query.shape[3] ** -0.5 if scaling is None else scaling)
        if position_bias is not None:
            scores = scores + position_bias
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        elif attention_mask is not None:
            scores = scores + attention_mask
        shares = torch.nn.functional.dropout(torch.softmax(scores, dim=-1, dtype=torch.float32), dropout)
        return torch.matmul(shares.to(query.dtype), value).transpose(1, 2).contiguous(), None
    if here and query.shape[3] < NARROW:
        with torch.autocast("cpu", enabled=False):
            floats = [part.float() if torch.is_floating_point(part) else part for part in states]
            added = [part.float() if part is not None and torch.is_floating_point(part) else part for part in given]
            return torchs(*floats, *added).to(query.dtype), None
    return torchs(*states, *given), None
