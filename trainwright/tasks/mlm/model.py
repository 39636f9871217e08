"""The masked language model: what each epoch masks, its quick validation score, its compact raw outputs.

Whole words are chosen, and of their tokens, each by itself, 80% become the mask token, 10% another token and 10% stay
(Devlin et al., 2019; whole words: https://github.com/google-research/bert, May 2019). All is drawn by a generator that
only counts: a number depends on the window's key, the epoch and the word's or token's place, so that neither the
batch that a window is in, nor what was drawn before it, nor a resumed run changes anything.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

AUTO_CLASS = "AutoModelForMaskedLM"
MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens; the rest stays as it is
IGNORED = -100  # the label of a token that is not to be predicted, as transformers' losses have it

OUTPUTS = pa.schema(
    [
        ("row", pa.int32()),
        # of each token that was chosen
        ("loss", pa.list_(pa.float32())),  # in nats
        ("unigram", pa.list_(pa.float32())),  # the same under the train split's unigrams
        ("right", pa.list_(pa.bool_())),  # whether the most likely token is the right one
        ("shown", pa.list_(pa.int8())),  # what stood in its place: 0 the mask token, 1 another one, 2 itself
        # of each blank: a chosen word of which the model saw mask tokens alone
        ("start", pa.list_(pa.int32())),  # its first character in the document
        ("end", pa.list_(pa.int32())),  # and one past its last
        ("pieces", pa.list_(pa.int32())),  # how many tokens it has
        ("rank", pa.list_(pa.int32())),  # the place of the right filling among the candidates, or -1
        ("candidates", pa.list_(pa.list_(pa.string()))),  # the fillings, best first
        ("probabilities", pa.list_(pa.list_(pa.float32()))),
    ]
)

Ints = NDArray[np.int64]
Words64 = NDArray[np.uint64]


def settings(learned: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    return {}


def collate(features: Sequence[Mapping[str, Any]], tokenizer: Any, labels: bool) -> dict[str, Any]:
    """Tensors (batch, longest) padded on the tokenizer's side; with labels, masked anew for each feature's `draw`."""
    import torch

    lengths = np.array([len(feature["input_ids"]) for feature in features])
    longest = int(lengths.max())
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]
    shift = longest - lengths[owner] if tokenizer.padding_side == "left" else 0
    ids = _flat(features, "input_ids")

    def padded(values: Any, otherwise: int) -> Any:
        matrix = np.full((len(lengths), longest), otherwise, dtype=np.int64)
        matrix[owner, place + shift] = values
        return torch.from_numpy(matrix)

    batch = {"attention_mask": padded(1, 0)}
    if len(features[0]["token_type_ids"]):
        batch["token_type_ids"] = padded(_flat(features, "token_type_ids"), tokenizer.pad_token_type_id)
    if labels:
        chosen, u = choose(features, owner, place, _flat(features, "word"))
        batch["labels"] = padded(np.where(chosen, ids, IGNORED), IGNORED)
        ids = np.where(chosen, _replaced(ids, u, tokenizer), ids)
    batch["input_ids"] = padded(ids, tokenizer.pad_token_id)
    return batch


def choose(
    features: Sequence[Mapping[str, Any]], owner: Ints, place: Ints, word: Ints
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which tokens are chosen, and a number in [0, 1) for each, from which it is said what becomes of it.

    Tokens are those of all `features`, one after the other: `owner` says whose each is, `place` where it stands and
    `word` of which word it is a piece. Each word is chosen by itself with its window's share for a probability; where
    that leaves none, the one that came nearest is.
    """
    seeds = np.array([_seed(feature["key"], feature["draw"]) for feature in features], dtype=np.uint64)
    share = np.array([feature["share"] for feature in features], dtype=np.float64)
    u = uniform(seeds[owner], 2 * word + 2)  # words take the even numbers, tokens the odd ones
    u = np.where(word >= 0, u, np.inf)
    least = np.full(len(features), np.inf)
    np.minimum.at(least, owner, u)
    chosen = (u < share[owner]) | ((u == least[owner]) & (word >= 0))
    return chosen, uniform(seeds[owner], 2 * place + 1)


def uniform(seeds: Words64, number: Ints) -> NDArray[np.float64]:
    """A number in [0, 1) for each: the `number`th that SplitMix64 gives from its seed (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        mixed = seeds + number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)) / float(2**53), dtype=np.float64)


def _seed(key: int, draw: int) -> int:
    """A window's seed for one epoch: its key and the epoch, mixed so that neighbours share no numbers."""
    word = (1 << 64) - 1
    mixed = (key ^ (draw * 0xDA942042E4DD58B5)) & word
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):  # MurmurHash3's finalizer
        mixed = ((mixed ^ (mixed >> shift)) * factor) & word
    return mixed ^ (mixed >> 33)


def _replaced(ids: Ints, u: NDArray[np.float64], tokenizer: Any) -> Ints:
    """What stands in the place of each chosen token: the mask token, any token but special ones, or itself."""
    special = sorted(set(tokenizer.all_special_ids))
    others = len(tokenizer) - len(special)
    within = np.clip((u - MASKED) / REPLACED, 0, np.nextafter(1, 0))  # where in its part of [0, 1) it lies
    other = (within * others).astype(np.int64)
    for token in special:  # the others, numbered without these
        other += other >= token
    return np.select([u < MASKED, u < MASKED + REPLACED], [np.full_like(ids, tokenizer.mask_token_id), other], ids)


def _flat(features: Sequence[Mapping[str, Any]], name: str) -> Ints:
    return np.concatenate([feature[name] for feature in features]).astype(np.int64)


def forward(model: Any, batch: Mapping[str, Any]) -> Any:
    """The output with logits (tokens, vocabulary) of the chosen tokens alone: the others' would be more than half of
    a small model's work. Without labels, of all tokens (batch, longest, vocabulary).
    """
    if "labels" not in batch:
        return model(**batch)
    chosen = batch["labels"] != IGNORED
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][chosen],)) if head is not None else None
    try:
        output = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    finally:
        if hook is not None:
            hook.remove()
    if output.logits.dim() > 2:  # a model that multiplies by its embeddings without calling a head
        output.logits = output.logits[chosen]
    return output


def loss(output: Any, batch: Mapping[str, Any]) -> Any:
    """The cross entropy in nats, its mean over the chosen tokens."""
    from torch.nn.functional import cross_entropy

    ((logits, right),) = targets(output, batch)
    return cross_entropy(logits.float(), right)


def targets(output: Any, batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """The logits (tokens, vocabulary) of the chosen tokens of a batch, and the right ones."""
    return [(output.logits, batch["labels"][batch["labels"] != IGNORED])]


def agreement(output: Any, batch: Mapping[str, Any]) -> tuple[float, int]:
    """How many of the chosen tokens are the most likely ones, and how many were chosen."""
    logits, labels = targets(output, batch)[0]
    return float((logits.argmax(dim=-1) == labels).sum()), len(labels)


def outputs(
    model: Any,  # noqa: ARG001
    output: Any,
    batch: Mapping[str, Any],
    features: pa.Table,
    tokenizer: Any,
    params: Any,
) -> pa.Table:
    """One row a window, in OUTPUTS; of each blank the `params.top` best fillings.

    Without labels the blanks are the mask tokens that stand in the text, each by itself, and no token is scored.
    """
    import torch

    given = batch["input_ids"].cpu().numpy()
    gold = batch["labels"].cpu().numpy() if "labels" in batch else None
    chosen = gold != IGNORED if gold is not None else given == tokenizer.mask_token_id
    window, column = np.nonzero(chosen)
    logits = output.logits if gold is not None else output.logits[batch["input_ids"] == tokenizer.mask_token_id]
    scores = torch.log_softmax(logits.float(), dim=-1).cpu()
    best = torch.topk(scores, min(params.top, scores.shape[1]), dim=-1)
    place = column - _padding(batch, features)[window]
    right = gold[chosen] if gold is not None else np.full(len(window), -1)
    masked = given[chosen] == tokenizer.mask_token_id
    blanks = _blanks(window, _at(features, "word", window, place), masked, apart=gold is None)
    first, pieces = blanks
    fillings, probability = combined(best.indices.numpy(), best.values.numpy(), first, pieces)
    columns: dict[str, Any] = {"row": features["row"].combine_chunks()}
    if gold is not None:
        loss = -scores.gather(1, torch.from_numpy(right)[:, None])[:, 0].numpy()
        shown = np.select([masked, given[chosen] != right], [0, 1], 2)
        unigram = _at(features, "unigram", window, place)
        hit = best.indices[:, 0].numpy() == right
        columns |= _lists(window, len(given), loss=loss, unigram=unigram, right=hit, shown=shown)
    else:
        nothing = np.zeros(0)
        columns |= _lists(window[:0], len(given), loss=nothing, unigram=nothing, right=nothing > 0, shown=nothing)
    columns |= _lists(
        window[first],
        len(given),
        start=_at(features, "start_char", window[first], place[first]),
        end=_at(features, "end_char", window[first], place[first + pieces - 1]),
        pieces=pieces,
        rank=_ranks(fillings, right, first, pieces),
        candidates=_nested(_decoded(fillings, tokenizer), fillings.shape[1]),
        probabilities=_nested(np.exp(probability).ravel().astype(np.float32), fillings.shape[1]),
    )
    return pa.table([columns[name] for name in OUTPUTS.names], schema=OUTPUTS)


def _padding(batch: Mapping[str, Any], features: pa.Table) -> Ints:
    """How many places each window was moved to the right by padding."""
    seen = batch["attention_mask"].cpu().numpy()
    lengths = np.diff(features["input_ids"].combine_chunks().offsets.to_numpy())
    return np.where(seen[:, 0] == 0, seen.shape[1] - lengths, 0).astype(np.int64)


def _at(features: pa.Table, name: str, window: Ints, place: Ints) -> NDArray[Any]:
    """The values of a list column at a place of each window."""
    column = features[name].combine_chunks()
    return np.asarray(column.values.to_numpy()[column.offsets.to_numpy()[window] + place])


def _blanks(window: Ints, word: NDArray[Any], masked: NDArray[np.bool_], apart: bool) -> tuple[Ints, Ints]:
    """Of each blank its first token, among the chosen ones in order, and how many it has.

    A blank is a word of which all tokens are masked, or with `apart` every token.
    """
    changes = (np.diff(window) != 0) | (np.diff(word) != 0) | apart
    first = np.flatnonzero(np.append(True, changes)[: len(window)])
    pieces = np.diff(np.append(first, len(window)))
    whole = np.append(0, np.cumsum(masked))
    kept = whole[first + pieces] - whole[first] == pieces
    return first[kept], pieces[kept]


def combined(tokens: NDArray[Any], scores: NDArray[Any], first: Ints, pieces: Ints) -> tuple[Ints, NDArray[np.float32]]:
    """The best fillings of each blank (blanks, top, most pieces), filled up with -1, and their log probabilities.

    `tokens` and `scores` (chosen tokens, top) are the best of each token, which the model predicts each by itself, so
    that a filling's probability is their product. The best `top` of all combinations are among those of the best
    `top` of each token, and are found piece by piece.
    """
    top = tokens.shape[1]
    fillings = np.full((len(first), top, int(pieces.max(initial=1))), -1, dtype=np.int64)
    fillings[:, :, 0] = tokens[first]
    total = scores[first].astype(np.float32)
    for piece in range(1, fillings.shape[2]):
        more = np.flatnonzero(pieces > piece)
        at = first[more] + piece
        sums = (total[more][:, :, None] + scores[at][:, None, :]).reshape(len(more), top * top)
        order = np.argsort(-sums, axis=1, kind="stable")[:, :top]
        total[more] = np.take_along_axis(sums, order, axis=1)
        fillings[more] = np.take_along_axis(fillings[more], (order // top)[:, :, None], axis=1)
        fillings[more, :, piece] = np.take_along_axis(tokens[at], order % top, axis=1)
    return fillings, total


def _ranks(fillings: Ints, right: NDArray[Any], first: Ints, pieces: Ints) -> Ints:
    """The place of the right tokens among each blank's fillings, or -1."""
    places = np.arange(fillings.shape[2])
    inside = places < pieces[:, None]
    gold = np.where(inside, right[np.minimum(first[:, None] + places, len(right) - 1)], -1) if len(first) else inside
    same = (fillings == gold[:, None, :]).all(axis=2)
    return np.where(same.any(axis=1), same.argmax(axis=1), -1)


def _decoded(fillings: Ints, tokenizer: Any) -> list[str]:
    """Each filling as text, each different one decoded once."""
    flat = fillings.reshape(-1, fillings.shape[2])
    different, which = np.unique(flat, axis=0, return_inverse=True)
    texts = [tokenizer.decode([token for token in tokens if token >= 0]).strip() for tokens in different.tolist()]
    return [texts[place] for place in which.ravel().tolist()]


def _nested(values: Any, width: int) -> pa.Array:
    """Flat values as lists of `width` each."""
    flat = pa.array(values)
    count = len(flat) // width if width else 0
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * width, pa.int32()), flat)


def _lists(window: Ints, windows: int, **columns: Any) -> dict[str, pa.Array]:
    """Columns with a value for each of some things, in the order of the windows that they are in, as lists."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.bincount(window, minlength=windows))]), pa.int32())
    kinds = {name: OUTPUTS.field(name).type.value_type for name in columns}
    return {
        name: pa.ListArray.from_arrays(offsets, pa.array(values).cast(kinds[name])) for name, values in columns.items()
    }
