"""Masked language modelling: what is masked, what a word is, how windows are cut."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlm_cases import PASSAGES, STYLES, batch, byte_level, documents, windows, word_piece

from trainwright.core.errors import InputError
from trainwright.engine.batching import FeatureTable, SimilarLengths
from trainwright.tasks.mlm import features, model
from trainwright.tasks.mlm.params import Tokenization
from trainwright.text import words

WORD_PIECE = word_piece()


@pytest.fixture(params=STYLES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return STYLES[request.param]()


def spread(text: str, tokenizer: Any) -> list[str]:
    """The words of a text as `words` sees them."""
    found = words.tokens(pa.array([text]), tokenizer)
    begin = np.flatnonzero(found.begins & found.ordinary)
    ends = [*begin[1:], len(found.ids)][: len(begin)]
    last = [a + max(np.flatnonzero(found.ordinary[a:b])) for a, b in zip(begin, ends, strict=True)]
    return [text[found.starts[a] : found.ends[b]] for a, b in zip(begin, last, strict=True)]


# What is masked


def test_fifteen_words_in_a_hundred_are_chosen_and_of_their_tokens_80_masked_10_replaced_10_kept():
    """Over 30 epochs, within five standard deviations of the binomial."""
    table = FeatureTable(windows(PASSAGES[:40], WORD_PIECE, max_length=512))
    total = taken = 0
    counts = np.zeros(3)
    for draw in range(30):
        indices = [row + draw * len(table) for row in range(len(table))]
        made = batch(table, indices, WORD_PIECE)
        chosen = made["labels"] != model.IGNORED
        masked = made["input_ids"] == WORD_PIECE.mask_token_id
        replaced = chosen & ~masked & (made["input_ids"] != made["labels"])
        counts += [masked.sum(), replaced.sum(), (chosen & ~masked & ~replaced).sum()]
        for row in range(len(table)):
            word = table[row]["word"]
            total += word.max() + 1
            taken += len(np.unique(word[chosen[row, : len(word)]]))

    def near(seen: float, whole: float, share: float) -> bool:
        return abs(seen - whole * share) < 5 * math.sqrt(whole * share * (1 - share))

    assert total > 50_000
    assert near(taken, total, 0.15)
    others = len(WORD_PIECE) - len(WORD_PIECE.all_special_ids)
    shares = (0.8, 0.1 * (1 - 1 / others), 0.1 * (1 + 1 / others))  # one in `others` is replaced by itself
    assert all(near(seen, counts.sum(), share) for seen, share in zip(counts, shares, strict=True))


def test_a_word_is_chosen_whole_and_its_tokens_are_decided_one_by_one():
    table = FeatureTable(windows(["unaffordable " * 100], WORD_PIECE, max_length=512))
    word, kinds = table[0]["word"], set()
    for draw in range(20):
        made = batch(table, [draw * len(table)], WORD_PIECE)
        chosen = made["labels"][0] != model.IGNORED
        for own in range(word.max() + 1):
            assert len(set(chosen[word == own])) == 1
            if chosen[word == own].all():
                kinds.add(tuple(made["input_ids"][0][word == own] == WORD_PIECE.mask_token_id))
    assert len(kinds) > 5


def test_special_tokens_and_masks_of_the_text_itself_are_never_chosen(tokenizer):
    text = f"One {tokenizer.mask_token} two {tokenizer.pad_token} three four five six seven eight nine ten."
    table = FeatureTable(windows([text], tokenizer, mask_share=0.9))
    for draw in range(20):
        made = batch(table, [draw], tokenizer)
        assert not np.isin(made["labels"], tokenizer.all_special_ids).any()
        new = made["input_ids"][made["labels"] != model.IGNORED]
        assert set(new[np.isin(new, tokenizer.all_special_ids)]) <= {tokenizer.mask_token_id}


@pytest.mark.parametrize("share", [0.001, 0.15])
def test_every_window_has_a_word_to_predict_however_short(share):
    table = FeatureTable(windows(["the", "of and", *PASSAGES[:5]], WORD_PIECE, mask_share=share))
    for draw in range(10):
        made = batch(table, [row + draw * len(table) for row in range(len(table))], WORD_PIECE)
        assert ((made["labels"] != model.IGNORED).sum(axis=1) > 0).all()


def test_each_epoch_masks_anew_and_evaluation_always_the_same():
    table = FeatureTable(windows(PASSAGES[:4], WORD_PIECE))
    draws = [batch(table, [row + draw * len(table) for row in range(len(table))], WORD_PIECE) for draw in (0, 1, 2)]
    assert not np.array_equal(draws[0]["labels"], draws[1]["labels"])
    assert not np.array_equal(draws[1]["labels"], draws[2]["labels"])
    again = batch(table, list(range(len(table))), WORD_PIECE)
    assert all(np.array_equal(draws[0][name], again[name]) for name in again)


def test_windows_of_one_text_under_other_ids_or_another_seed_are_masked_differently():
    one, other, seeded = (
        FeatureTable(windows(texts, WORD_PIECE, seed=seed))
        for texts, seed in ((PASSAGES[:2], 11), (PASSAGES[1::-1], 11), (PASSAGES[:2], 12))
    )
    labels = [batch(table, [row], WORD_PIECE)["labels"] for table, row in ((one, 0), (other, len(other) - 1))]
    assert labels[0].shape != labels[1].shape or not np.array_equal(*labels)
    assert not np.array_equal(batch(one, [0], WORD_PIECE)["labels"], batch(seeded, [0], WORD_PIECE)["labels"])


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(12)), size=st.integers(1, 12), draw=st.integers(0, 5))
def test_neither_a_batch_s_composition_nor_its_order_changes_what_is_masked(order, size, draw):
    table = FeatureTable(windows(PASSAGES[:6], WORD_PIECE, max_length=64))
    chosen = [row % len(table) + draw * len(table) for row in order]
    for at in range(0, len(chosen), size):
        together = batch(table, chosen[at : at + size], WORD_PIECE)
        for place, index in enumerate(chosen[at : at + size]):
            alone = batch(table, [index], WORD_PIECE)
            length = alone["labels"].shape[1]
            for name in alone:
                assert np.array_equal(together[name][place, :length], alone[name][0])


def test_a_run_resumed_in_its_third_epoch_masks_what_an_unbroken_one_does():
    table = FeatureTable(windows(PASSAGES[:6], WORD_PIECE, max_length=64))
    unbroken, resumed = (SimilarLengths(table.lengths, 4, seed=3) for _ in range(2))
    seen = []
    for epoch in range(3):
        unbroken.set_epoch(epoch)
        seen.append([batch(table, list(part), WORD_PIECE) for part in batched(unbroken, 4)])
    resumed.set_epoch(2)
    rest = [batch(table, list(part), WORD_PIECE) for part in list(batched(resumed, 4))[3:]]
    assert rest
    for before, after in zip(seen[2][3:], rest, strict=True):
        assert all(np.array_equal(before[name], after[name]) for name in before)


def batched(indices: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    rest = iter(indices)
    while part := tuple(islice(rest, size)):
        yield part


def test_the_generator_counts_as_splitmix64_does():
    """The first outputs for the seed 1234567, as published with the algorithm's reference implementations."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    seeds = np.full(5, 1234567, dtype=np.uint64)
    drawn = model.uniform(seeds, np.arange(1, 6))
    assert (drawn * 2**53).astype(np.uint64).tolist() == [value >> 11 for value in known]


# What a word is


def test_words_are_the_same_in_every_tokenizer_s_style(tokenizer):
    found = spread("Don't stop: 3.5 cafes!", tokenizer)
    assert found == ["Don", "'", "t", "stop", ":", "3", ".", "5", "cafes", "!"]


def test_a_chinese_word_is_a_character_unless_the_tokenizer_has_a_token_for_more(tokenizer):
    text = "故宫在北京。"
    found = spread(text, tokenizer)
    assert "".join(found) == text
    token = words.tokens(pa.array([text]), tokenizer)
    longest = max((token.ends - token.starts).tolist())
    assert max(map(len, found)) <= longest
    assert found[-1] == "。"


def test_the_bytes_of_one_character_are_one_word():
    assert spread("a 🦊 b", byte_level()) == ["a", "🦊", "b"]
    assert len(words.tokens(pa.array(["🦊"]), byte_level()).ids) > 1


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="ab é故京タ🦊.,' \n\u00a0ส", min_size=1, max_size=40), style=st.sampled_from([*STYLES]))
def test_words_hold_every_character_but_white_space_once_and_in_order(text, style):
    found = spread(text, STYLES[style]())
    assert "".join(found).split() == "".join(text.split()).split()
    assert all(not any(letter.isspace() for letter in word) for word in found)


# How windows are cut


def test_windows_hold_a_document_s_tokens_in_order_with_special_tokens_around_them(tokenizer):
    whole = tokenizer(PASSAGES[0], add_special_tokens=False)["input_ids"]
    made = windows([PASSAGES[0], "Short."], tokenizer, max_length=32)
    around = tokenizer("")["input_ids"]
    ids = [row for row, owner in zip(made["input_ids"].to_pylist(), made["row"].to_pylist(), strict=True) if owner == 0]
    assert [token for row in ids for token in row[1:-1]] == whole
    assert all([row[0], row[-1]] == around and len(row) <= 32 for row in ids)
    assert made["window"].to_pylist() == [*range(len(ids)), 0]
    assert made["row"].to_pylist() == [*[0] * len(ids), 1]


def test_a_word_is_cut_only_where_it_is_longer_than_a_window():
    made = windows(["the unaffordable " * 20], WORD_PIECE, max_length=9)
    for row in made.to_pylist():
        pieces = WORD_PIECE.convert_ids_to_tokens(row["input_ids"][1:-1])
        assert not pieces[0].startswith("##")
        assert pieces.count("un") == pieces.count("##able")
    long = windows(["unaffordable"], WORD_PIECE, max_length=4)
    assert [len(ids) for ids in long["input_ids"].to_pylist()] == [4, 4]
    assert [word for row in long["word"].to_pylist() for word in row] == [-1, 0, 0, -1] * 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet="ab é京.' \n", max_size=60).map(lambda text: f"a{text}"), min_size=1, max_size=4))
def test_every_token_s_offsets_are_its_text_s(texts):
    table = documents(texts)
    made = windows(texts, WORD_PIECE, max_length=8)
    for row in made.to_pylist():
        for start, end, word in zip(row["start_char"], row["end_char"], row["word"], strict=True):
            cut = texts[row["row"]][start:end]
            assert cut == cut.strip()
            assert bool(cut) == (word >= 0)
    assert features.misaligned(table, made).to_pylist() == []


def test_a_document_that_loses_characters_is_misaligned_and_one_without_words_is_a_fault():
    table = documents(["a fine one", "the \u0001 of"])
    made = windows(["a fine one", "the \u0001 of"], WORD_PIECE)
    assert features.misaligned(table, made).to_pylist() == ["d1"]
    learned = features.learn([table], WORD_PIECE, Tokenization())
    found, faults = features.features(documents(["\u0001", "the"]), WORD_PIECE, Tokenization(), "a.txt", learned)
    assert found["row"].to_pylist() == [1]
    assert [(fault.file, fault.id, fault.field) for fault in faults] == [("a.txt", "d0", "text")]


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda t: setattr(t, "mask_token", None), "has no mask token"),
        (lambda t: setattr(t, "pad_token", None), "has no pad token"),
        (lambda t: setattr(t, "model_max_length", 16), "longer than the model's 16"),
    ],
    ids=["mask", "pad", "positions"],
)
def test_a_tokenizer_that_cannot_serve_is_refused_in_words(break_it: Callable[[Any], None], says: str):
    broken = copy.deepcopy(WORD_PIECE)
    break_it(broken)
    with pytest.raises(InputError, match=says):
        features.check_tokenizer(broken, Tokenization())
