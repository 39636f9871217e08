"""Masked language modelling: the unigram baseline, raw outputs, scores, and the recipe."""

import copy
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT
from mlm_cases import PASSAGES, batch, documents, windows, word_piece

from trainwright import sources
from trainwright.core.params import Evaluation, Pipeline
from trainwright.core.yaml_file import read_yaml
from trainwright.engine.batching import FeatureTable
from trainwright.tasks.mlm import model, predictions, rows, scores
from trainwright.tasks.mlm.params import Postprocessing
from trainwright.text import unigrams

WORD_PIECE = word_piece()


# Baseline, outputs and scores


def test_the_unigram_baseline_is_the_train_split_s_own_with_one_added_to_each_count():
    counts = unigrams.counted([pa.chunked_array([["the the of", "the"]])], WORD_PIECE)
    losses = unigrams.losses(json.loads(json.dumps(counts)))
    the, of, stop = (WORD_PIECE.convert_tokens_to_ids(word) for word in ("the", "of", "stop"))
    size = len(WORD_PIECE)
    assert losses[[the, of, stop]] == pytest.approx([-math.log(n / (4 + size)) for n in (4, 2, 1)], rel=1e-6)
    assert np.exp(-losses).sum() == pytest.approx(1, rel=1e-5)


@pytest.fixture(scope="module")
def evaluated() -> tuple[Any, pa.Table, pa.Table, pa.Table, float]:
    """A tiny untrained model and, over passages in uneven batches, rows, windows, raw outputs and their mean loss."""
    import torch
    import transformers

    from trainwright.engine.prediction import raw_outputs

    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=len(WORD_PIECE), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    network = transformers.BertForMaskedLM(config)
    texts = [*PASSAGES[:5], "unaffordable " * 30, "the"]
    made = windows(texts, WORD_PIECE, max_length=64)
    section = Evaluation(batch_size=5, top=7)
    found, loss = raw_outputs(network, model, FeatureTable(made), WORD_PIECE, section, "float32")
    return network, documents(texts), made, found, float(loss)


def test_loss_and_perplexity_are_torchmetrics_own_over_uneven_batches(evaluated):
    import torch
    from torchmetrics.text import Perplexity

    network, table, made, found, loss = evaluated
    metric, features_ = Perplexity(ignore_index=model.IGNORED), FeatureTable(made)
    for indices in np.array_split(np.arange(len(features_)), 4):
        given = model.collate(features_.__getitems__(indices.tolist()), WORD_PIECE, True)
        with torch.inference_mode():
            metric.update(network(**given).logits, given["labels"])
    golden = float(metric.compute())
    measured = scores.scores(table, predictions.predict(table, found, Postprocessing(), {}), Postprocessing(), "en")
    assert measured["perplexity"]["value"] == pytest.approx(golden, rel=1e-4)
    assert math.exp(loss) == pytest.approx(golden, rel=1e-4)
    assert measured["tokens"] == sum(len(row) for row in found["loss"].to_pylist())


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("Bert", {}),
        ("Roberta", {}),
        ("Albert", {"embedding_size": 16}),
        ("Electra", {"embedding_size": 16}),
        ("DebertaV2", {"legacy": False}),  # multiplies by its embeddings without calling a head
        ("DebertaV2", {"legacy": True}),
        ("DistilBert", {"dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32}),
        ("ModernBert", {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "cls_token_id": 1, "sep_token_id": 1}),
        ("MPNet", {}),
    ],
)
def test_logits_of_the_chosen_tokens_alone_give_the_model_s_own_loss_and_gradients(family, sizes):
    import torch
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32} | sizes
    config = getattr(transformers, f"{family}Config")(vocab_size=len(WORD_PIECE), max_position_embeddings=80, **sizes)
    torch.manual_seed(0)
    network = getattr(transformers, f"{family}ForMaskedLM")(config).eval()
    made = windows(["the unaffordable river", PASSAGES[0], "a word"], WORD_PIECE, max_length=64)
    given = model.collate(FeatureTable(made).__getitems__([0, 1, 2]), WORD_PIECE, True)
    given.pop("token_type_ids")
    gradients = []
    for run in (lambda: network(**given).loss, lambda: model.loss(model.forward(network, given), given)):
        network.zero_grad()
        loss = run()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert len(model.forward(network, given).logits) == int((given["labels"] != model.IGNORED).sum())


def test_label_smoothing_leaves_the_loss_of_evaluation_as_it_is(evaluated):
    """Smoothing reads `targets`; what evaluation sums is `loss`, which equals their plain cross entropy."""
    import torch
    from torch.nn.functional import cross_entropy

    network, _, made, _, _ = evaluated
    given = model.collate(FeatureTable(made).__getitems__([0, 1, 2]), WORD_PIECE, True)
    with torch.inference_mode():
        output = model.forward(network, given)
    ((logits, labels),) = model.targets(output, given)
    right, count = model.agreement(output, given)
    assert (len(labels), right) == (count, float((logits.argmax(-1) == labels).sum()))
    assert float(model.loss(output, given)) == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-5)
    smoothed = cross_entropy(logits, labels, label_smoothing=0.1)
    assert abs(float(smoothed) - float(model.loss(output, given))) > 1e-3


def test_candidates_are_the_best_of_all_combinations_of_a_blank_s_tokens():
    """Against every combination of three pieces, by hand."""
    random = np.random.default_rng(3)
    probability = random.dirichlet(np.ones(6), size=3)
    order = np.argsort(-probability, axis=1)[:, :4]
    best = np.take_along_axis(probability, order, axis=1)
    fillings, score = model.combined(order, np.log(best), np.array([0]), np.array([3]))
    every = {
        (a, b, c): probability[0, a] * probability[1, b] * probability[2, c]
        for a in range(6)
        for b in range(6)
        for c in range(6)
    }
    wanted = sorted(every, key=lambda combination: -every[combination])[:4]
    assert [tuple(filling) for filling in fillings[0].tolist()] == wanted
    assert np.exp(score[0]) == pytest.approx([every[combination] for combination in wanted])


def test_a_blank_is_a_chosen_word_that_is_wholly_masked_and_says_where_it_stands(evaluated):
    _, table, made, found, _ = evaluated
    texts, features_ = table["text"].to_pylist(), FeatureTable(made)
    sizes = set()
    for index, output in enumerate(found.to_pylist()):
        given, own = batch(features_, [index], WORD_PIECE), made.slice(index, 1).to_pylist()[0]
        chosen = given["labels"][0] != model.IGNORED
        masked = given["input_ids"][0] == WORD_PIECE.mask_token_id
        word = np.array(own["word"])
        expected = [w for w in np.unique(word[chosen]) if masked[word == w].all()]
        spans = [
            (min(np.array(own["start_char"])[word == w]), max(np.array(own["end_char"])[word == w])) for w in expected
        ]
        assert list(zip(output["start"], output["end"], strict=True)) == spans
        assert all(texts[output["row"]][a:b].strip() for a, b in spans)
        assert len(output["loss"]) == chosen.sum()
        assert [len(c) for c in output["candidates"]] == [7] * len(spans)
        sizes |= set(output["pieces"])
    assert {1, 4} <= sizes


def test_padding_on_the_left_changes_no_output(evaluated):
    from trainwright.engine.prediction import raw_outputs

    network, _, made, found, _ = evaluated
    left = copy.deepcopy(WORD_PIECE)
    left.padding_side = "left"
    one = FeatureTable(made.slice(0, 1))
    single, _ = raw_outputs(network, model, one, left, Evaluation(top=7), "float32")
    assert single["start"].to_pylist() == found["start"].slice(0, 1).to_pylist()
    table = FeatureTable(made)
    given, shifted = (model.collate(table.__getitems__([0, len(table) - 1]), t, True) for t in (WORD_PIECE, left))
    size = len(table[len(table) - 1]["input_ids"])
    for name in ("input_ids", "labels", "attention_mask"):
        assert given[name][1, :size].tolist() == shifted[name][1, -size:].tolist()


def hand_worked() -> tuple[pa.Table, pa.Table]:
    """Two documents: three tokens and two blanks, one token and one blank."""
    table = documents(["a cat sat", "on"])

    def blank(start: int, end: int, text: str, said: str) -> dict[str, Any]:
        return {"start": start, "end": end, "text": text, "candidates": [{"text": said, "probability": 0.5}]}

    return table, pa.Table.from_pylist(
        [
            {
                "id": "d0", "prediction": [blank(2, 5, "cat", "cat"), blank(6, 9, "sat", "ran")],
                "loss": [1.0, 2.0, 0.5], "unigram": [3.0, 3.0, 3.0], "right": [True, False, True],
                "shown": [0, 0, 2], "pieces": [1, 2], "rank": [0, 3],
            },
            {
                "id": "d1", "prediction": [blank(0, 2, "on", "in")], "loss": [4.5], "unigram": [3.0],
                "right": [False], "shown": [1], "pieces": [1], "rank": [-1],
            },
        ],
        predictions.SCHEMA,
    )  # fmt: skip


def test_scores_of_a_hand_worked_case():
    found = scores.scores(*hand_worked(), Postprocessing(bootstrap=200), "en")
    assert found["count"] == 2
    assert found["loss"] | {"low": 0, "high": 0} == {"value": 2, "low": 0, "high": 0, "unit": "nats", "better": "lower"}
    assert found["perplexity"]["value"] == pytest.approx(math.exp(2), abs=1e-3)
    assert found["perplexity"]["unit"] == "perplexity"
    assert found["accuracy"]["value"] == pytest.approx(100 / 3, abs=1e-3)
    assert found["top5_accuracy"]["value"] == pytest.approx(200 / 3, abs=1e-3)
    assert (found["unigram_loss"], found["nats_below_unigram"]["value"], found["token_accuracy"]) == (3, 1, 50)
    assert (found["tokens"], found["blanks"]) == (4, 3)
    assert (found["loss"]["low"], found["loss"]["high"]) == (pytest.approx(3.5 / 3, abs=1e-3), 4.5)
    slices = {(entry["by"], entry["value"]): entry for entry in found["slices"]}
    assert slices["blank length in tokens", "1"]["accuracy"] == 50
    assert slices["blank length in tokens", "2"]["top5_accuracy"] == 100
    assert slices["what stood in a token's place", "masked"]["loss"] == 1.5
    assert slices["what stood in a token's place", "kept"]["count"] == 1
    assert slices["document length in characters", "under 500"]["loss"] == 2


def test_each_document_has_its_own_accuracy_its_fillings_and_what_is_right():
    each = scores.each(*hand_worked(), "en").to_pylist()
    assert [row["accuracy"] for row in each] == [0.5, 0.0]
    assert [row["confidence"] for row in each] == [0.5, 0.5]
    assert [blank["text"] for blank in each[0]["prediction"]] == ["cat", "ran"]
    assert [blank["text"] for blank in each[0]["gold"]] == ["cat", "sat"]


def test_what_cannot_be_scored_is_undefined():
    table, found = hand_worked()
    none = pa.Table.from_pylist(
        [{name: [] for name in found.column_names} | {"id": id} for id in ("d0", "d1")], predictions.SCHEMA
    )
    measured = scores.scores(table, none, Postprocessing(bootstrap=50), "en")
    assert [measured[name]["value"] for name in ("loss", "perplexity", "accuracy")] == [None] * 3
    assert (measured["unigram_loss"], measured["slices"][0]["loss"]) == (None, None)
    assert np.isnan(scores.each(table, none, "en")["accuracy"].to_numpy()).all()
    with pytest.raises(ValueError, match="not for these rows"):
        scores.each(table, found.take(pa.array([1, 0])), "en")


# The recipe


def test_the_sample_recipe_loads_and_reads_every_passage():
    ((name, section),) = read_yaml(ROOT / "recipes" / "sample-mlm.yaml").items()
    pipeline = Pipeline.model_validate(section)
    read = sources.read(pipeline.source, ROOT, rows.COLUMNS)
    table, faults = rows.from_source(read, pipeline.source.uri)
    assert (name, table["text"].to_pylist(), faults) == ("sample-mlm", PASSAGES, [])
