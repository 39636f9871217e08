"""Text to text: what is dropped can be filled in again, what is generated is scored as the field scores it."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.core.errors import InputError
from trainwright.engine.batching import FeatureTable
from trainwright.engine.prediction import load_model, raw_outputs
from trainwright.rows import corruption
from trainwright.tasks.seq2seq import features, model, predictions, rows
from trainwright.tasks.seq2seq.params import Evaluation, Postprocessing, Tokenization

MARKS = np.arange(99, -1, -1, dtype=np.int32) + 1000  # falling, as T5's are
SENTENCES = [
    "The bridge was built in seven years by four hundred masons from the valley.",
    "Snow fell early that autumn, and the passes were closed until the following May.",
    "A clock maker of the town measured the height of the tower with a long rope.",
    "Under the old market runs a canal that brings water to the three lower mills.",
    "船在黎明时离开港口，风从西边吹来。",
    "Nobody remembers who planted the pear trees along the road to the harbour.",
]


def filled(source, target, marks):
    """A corrupted text with its spans back in place, by plain loops."""
    marks, spans, current = set(marks.tolist()), {}, None
    for token in target.tolist():
        if token in marks:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    return [t for token in source.tolist() for t in (spans[token] if token in marks else [token])]


lengths = st.integers(2, 300)
densities = st.floats(0.01, 0.99)


@given(length=lengths, density=densities, mean=st.floats(3, 12), draw=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_a_corrupted_text_with_its_spans_filled_in_is_the_text(length, density, mean, draw, seed):
    text = np.random.default_rng(seed).integers(0, 1000, length).astype(np.int32)
    noise, spans = (int(count[0]) for count in corruption.counts(np.array([length]), density, mean))
    source, target = corruption.corrupt(text, noise, spans, draw, MARKS)
    assert filled(source, target, MARKS) == text.tolist()
    assert (len(source), len(target)) == (length - noise + spans, noise + spans + 1)
    assert target[0] == MARKS[0]
    assert target[-1] == MARKS[spans]
    assert [token for token in target if token >= 1000] == MARKS[: spans + 1].tolist()
    assert corruption.dropped(text, noise, spans, draw).sum() == noise


@given(length=lengths, density=densities, mean=st.floats(1, 12))
def test_the_share_that_is_dropped_and_the_mean_span_are_those_asked_for(length, density, mean):
    noise, spans = (int(count[0]) for count in corruption.counts(np.array([length]), density, mean))
    assert 1 <= noise < length
    assert abs(noise - length * density) <= 1
    assert 1 <= spans <= min(noise, length - noise)
    if spans < min(noise, length - noise) and spans > 1:
        assert abs(spans - noise / mean) <= 0.5


@given(st.integers(8, 600), st.integers(8, 300), st.floats(0.05, 0.9), st.floats(1, 10))
def test_windows_are_as_long_as_both_limits_allow_and_no_longer(source, target, density, mean):
    most = corruption.longest(source, target, density, mean)
    for length, fits in ((most, True), (most + 1, False)):
        if length >= 2:
            noise, spans = (int(count[0]) for count in corruption.counts(np.array([length]), density, mean))
            assert (length - noise + spans <= source and noise + spans + 1 <= target) == fits


def test_every_cut_into_spans_is_as_likely_as_any_other():
    seen = {}
    for draw in range(6000):
        kept, gone = corruption._segments(np.arange(7, dtype=np.int32), 3, 2, draw)
        key = (*kept.tolist(), *gone.tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 10 * 2  # four kept tokens around and between two spans, three dropped ones in two
    assert all(abs(count - 300) < 5 * math.sqrt(300) for count in seen.values())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5(tmp_path_factory.mktemp("base"))


def tiny_t5(folder: Path, seed: int = 1) -> Path:
    """A T5 of two layers with a Unigram tokenizer of the sentences above."""
    import tokenizers
    import torch
    import transformers
    from tokenizers import models, pre_tokenizers, trainers

    marks = [f"<extra_id_{number}>" for number in range(19, -1, -1)]
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(
        SENTENCES, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    )
    backend.add_special_tokens(marks)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=marks,
        model_max_length=512,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(base: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def t5(base: Path):
    return load_model(model.AUTO_CLASS, base, {})


def table(sources, targets=None) -> pa.Table:
    targets = targets or [None] * len(sources)
    made = [
        {"id": f"r{i}", "group": f"g{i}", "source": source, "target": target}
        for i, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]
    return pa.Table.from_pylist(made, rows.SCHEMA)


TEXTS = table(SENTENCES)
PAIRS = table(SENTENCES, ["seven years", "early", "a clock maker", "a canal", "船", "nobody"])
SECTION = Tokenization(max_source_length=24, max_target_length=12)


def made(given: pa.Table, tokenizer, params=SECTION):
    learned = features.learn([given], tokenizer, params)
    found, faults = features.features(given, tokenizer, params, "train.parquet", learned)
    return found, faults, learned


def feature_list(found: pa.Table):
    return [FeatureTable(found)[index] for index in range(found.num_rows)]


def test_the_windows_of_a_text_are_the_text_and_keep_to_both_limits(tokenizer):
    long = table([" ".join(SENTENCES[:4]), *SENTENCES])
    found, faults, _ = made(long, tokenizer)
    assert not faults
    for row, text in enumerate(long["source"].to_pylist()):
        parts = [f for f in found.to_pylist() if f["row"] == row]
        assert [t for part in parts for t in part["input_ids"]] == tokenizer(text, add_special_tokens=False).input_ids
        sizes = [len(part["input_ids"]) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    batch = model.collate(feature_list(found), tokenizer, True)
    assert batch["input_ids"].shape[1] <= 24
    assert batch["labels"].shape[1] <= 12


def test_what_is_dropped_does_not_depend_on_the_batch_and_changes_with_the_draw(tokenizer):
    given = feature_list(made(TEXTS, tokenizer)[0])
    whole = model.collate(given, tokenizer, True)
    for place, feature in enumerate(given):
        alone = model.collate([feature], tokenizer, True)
        for name in ("input_ids", "labels"):
            width = alone[name].shape[1]
            assert alone[name][0].tolist() == whole[name][place, :width].tolist()
    again = model.collate([{**feature, "draw": 1} for feature in given], tokenizer, True)
    assert whole["labels"].tolist() == model.collate(given, tokenizer, True)["labels"].tolist()
    assert whole["labels"].tolist() != again["labels"].tolist()


def test_labels_are_padded_with_the_ignored_label_on_the_right_and_sources_masked(tokenizer):
    found, _, _ = made(PAIRS, tokenizer)
    batch = model.collate(feature_list(found), tokenizer, True)
    for feature, labels, ids, mask in zip(
        found.to_pylist(), *(batch[n].tolist() for n in ("labels", "input_ids", "attention_mask")), strict=True
    ):
        size, length = len(feature["labels"]), len(feature["input_ids"])
        assert feature["labels"][-1] == feature["input_ids"][-1] == tokenizer.eos_token_id
        assert labels == feature["labels"] + [-100] * (len(labels) - size)
        assert ids == feature["input_ids"] + [tokenizer.pad_token_id] * (len(ids) - length)
        assert mask == [1] * length + [0] * (len(ids) - length)


def test_tokens_that_the_limits_cut_off_are_counted(tokenizer):
    found, _, _ = made(PAIRS, tokenizer, Tokenization(max_source_length=10, max_target_length=8))
    for feature, row in zip(found.to_pylist(), PAIRS.to_pylist(), strict=True):
        for name, column, limit in (("source", "input_ids", 10), ("target", "labels", 8)):
            whole = tokenizer(row[name], add_special_tokens=False).input_ids
            assert feature[column][:-1] == whole[: limit - 1]
            assert feature[f"{name}_cut"] == max(0, len(whole) - limit + 1)


def test_the_baseline_is_the_loss_of_the_train_splits_frequencies(tokenizer):
    found, _, learned = made(PAIRS, tokenizer)
    seen = [t for feature in found["labels"].to_pylist() for t in feature]
    counts = [int(count) for count in learned["unigrams"].split()]
    assert counts == [seen.count(token) for token in range(len(tokenizer))]
    total = len(seen) + len(tokenizer)
    for feature in found.to_pylist():
        loss = -sum(math.log((seen.count(token) + 1) / total) for token in feature["labels"])
        assert feature["baseline"] == pytest.approx(loss)


def test_the_baseline_of_dropped_spans_leaves_sentinels_out(tokenizer):
    found, _, learned = made(TEXTS, tokenizer)
    counts = np.array([int(count) for count in learned["unigrams"].split()]) + 1
    special = {tokenizer.eos_token_id, *corruption.sentinels(tokenizer).tolist()}
    for feature in feature_list(found):
        labels = model.collate([feature], tokenizer, True)["labels"][0].tolist()
        loss = -sum(math.log(counts[token] / counts.sum()) for token in labels if token not in special)
        assert feature["baseline"] == pytest.approx(loss)


def test_rows_of_which_no_feature_can_be_made_are_named(tokenizer):
    word = next(token[1:] for token in sorted(tokenizer.get_vocab()) if token.startswith("▁") and len(token) > 2)
    assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
    short = table([word, *SENTENCES])
    found, faults, _ = made(short, tokenizer)
    assert [(fault.id, fault.reason) for fault in faults] == [("r0", "it has too few tokens to drop a span of")]
    assert 0 not in found["row"].to_pylist()


def test_rows_that_the_tokenizer_does_not_know_whole_are_misaligned(tokenizer):
    given = table(SENTENCES[:2], ["seven", "Ωmega"])
    found, _, _ = made(given, tokenizer)
    assert features.misaligned(given, found).to_pylist() == ["r1"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pad_token": None}, "no pad_token"),
        ({"eos_token": None}, "no eos_token"),
        ({"model_max_length": 16}, "more than the model's 16"),
    ],
)
def test_a_tokenizer_that_cannot_serve_is_refused(base, change, reason):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    for name, value in change.items():
        setattr(tokenizer, name, value)
    with pytest.raises(InputError, match=reason):
        features.check_tokenizer(tokenizer, SECTION)


def test_more_spans_than_sentinels_are_refused_before_anything_is_made(tokenizer):
    with pytest.raises(InputError, match="sentinels, the tokenizer has 20"):
        features.learn([TEXTS], tokenizer, Tokenization(max_source_length=400, max_target_length=200))


def test_rows_with_and_without_a_target_do_not_mix(tokenizer):
    with pytest.raises(InputError, match="some rows of the train split have a target"):
        features.learn([TEXTS, PAIRS], tokenizer, SECTION)


def test_a_model_that_does_not_say_how_texts_begin_is_refused_with_what_to_write(base, tmp_path):
    from trainwright.engine import base_model

    folder = tmp_path / "t5"
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["decoder_start_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r'names no decoder_start_token_id.*"decoder_start_token_id": 0'):
        base_model.check_loadable(f"folder:{folder}", folder)
    base_model.check_loadable(f"folder:{base}", base)


def outputs_of(given, tokenizer, t5, labels=True, batch_size=2):
    found, _, _ = made(given, tokenizer)
    section = Evaluation(batch_size=batch_size, beams=2, max_new_tokens=8)
    return raw_outputs(t5, model, FeatureTable(found), tokenizer, section, "float32", labels)


def test_losses_of_pairs_are_the_models_weighed_by_token_whatever_the_batch(tokenizer, t5):
    import torch

    found, mean = outputs_of(PAIRS, tokenizer, t5)
    other, again = outputs_of(PAIRS, tokenizer, t5, batch_size=5)
    assert mean == pytest.approx(again, rel=1e-5)
    assert found["loss"].to_pylist() == pytest.approx(other["loss"].to_pylist(), rel=1e-4)
    assert mean == pytest.approx(sum(found["loss"].to_pylist()) / sum(found["tokens"].to_pylist()), rel=1e-5)
    for output, feature in zip(found.to_pylist(), made(PAIRS, tokenizer)[0].to_pylist(), strict=True):
        with torch.no_grad():
            said = t5(input_ids=torch.tensor([feature["input_ids"]]), labels=torch.tensor([feature["labels"]]))
        assert output["loss"] / output["tokens"] == pytest.approx(float(said.loss), rel=1e-4)
        assert output["tokens"] == len(feature["labels"])


def test_the_loss_of_dropped_spans_leaves_sentinels_and_the_end_out(tokenizer, t5):
    import torch

    found, _ = outputs_of(TEXTS, tokenizer, t5)
    special = [tokenizer.eos_token_id, *corruption.sentinels(tokenizer).tolist()]
    given, _, _ = made(TEXTS, tokenizer)
    for output, feature in zip(found.to_pylist(), feature_list(given), strict=True):
        batch = model.collate([feature], tokenizer, True)
        with torch.no_grad():
            logs = t5(**batch).logits[0].log_softmax(-1)
        pairs = [(place, token) for place, token in enumerate(batch["labels"][0].tolist()) if token not in special]
        assert output["tokens"] == len(pairs) == feature["noise_tokens"]
        assert output["loss"] == pytest.approx(-sum(float(logs[pair]) for pair in pairs), rel=1e-4)


def test_texts_are_generated_as_the_model_generates_them_alone(tokenizer, t5):
    found, _ = outputs_of(PAIRS, tokenizer, t5)
    for output, feature in zip(found.to_pylist(), made(PAIRS, tokenizer)[0].to_pylist(), strict=True):
        import torch

        ids = torch.tensor([feature["input_ids"]])
        said = t5.generate(input_ids=ids, num_beams=2, max_new_tokens=8, do_sample=False)[0].tolist()
        special = {*tokenizer.all_special_ids} - {*corruption.sentinels(tokenizer).tolist()}
        assert output["generated"] == tokenizer.decode([t for t in said if t not in special]).strip()
        assert output["reference"] is None


def test_a_file_of_sources_is_answered_without_targets(tokenizer, t5):
    given = table(SENTENCES)
    learned = features.learn([PAIRS], tokenizer, SECTION)
    found, faults = features.features(given, tokenizer, SECTION, "f", learned)
    assert not faults
    section = Evaluation(max_new_tokens=4)
    outputs, loss = raw_outputs(t5, model, FeatureTable(found), tokenizer, section, "float32", False)
    assert loss is None
    said = predictions.predict(given, outputs, Postprocessing(), {})
    assert said["id"].to_pylist() == given["id"].to_pylist()
    assert said["prediction"].to_pylist() == outputs["generated"].to_pylist()


def test_a_text_with_sentinels_of_its_own_is_filled_as_it_stands(tokenizer):
    learned = features.learn([TEXTS], tokenizer, SECTION)
    given = table(["Snow fell <extra_id_0> that autumn", *SENTENCES[:1]])
    found, _ = features.features(given, tokenizer, SECTION, "f", learned)
    batch = model.collate(feature_list(found)[:1], tokenizer, False)
    assert batch["input_ids"][0].tolist() == [*tokenizer("Snow fell <extra_id_0> that autumn").input_ids, 1]
    assert found["noise_spans"].to_pylist()[0] == 0 < found["noise_spans"].to_pylist()[1]


def test_windows_of_one_text_are_one_prediction_in_their_order():
    columns = {"generated": ["b", "a1", "a2"], "reference": ["B", "A1", "A2"], "row": [1, 0, 0]}
    outputs = (
        pa.table({**columns, "loss": [3.0, 1.0, 2.0], "tokens": [3, 1, 2], "baseline": [6.0, 2.0, 4.0]})
        .select(model.OUTPUTS.names)
        .cast(model.OUTPUTS)
    )
    found = predictions.predict(table(["x", "y", "z"]), outputs, Postprocessing(), {}).to_pylist()
    assert [row["prediction"] for row in found] == ["a1\na2", "b", ""]
    assert [row["reference"] for row in found] == ["A1\nA2", "B", None]
    assert [(row["loss"], row["tokens"], row["baseline"]) for row in found] == [(3, 3, 6), (3, 3, 6), (0, 0, 0)]


def test_predictions_are_written_by_id_as_they_were_generated(tmp_path):
    said = ['a "quoted" word', "中文\nand a break", ""]
    content = pa.table({"id": ["1", "zwei", "三"], "prediction": said})
    predictions.write(content, tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text()) == dict(zip(["1", "zwei", "三"], said, strict=True))
    predictions.write(content.slice(0, 0), tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text()) == {}
