"""The report of every kind of task: scores in any unit, labels and entities, all from fabricated evidence."""

from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from test_report import PLANTED, needs_browser, row, visit, write_json, write_rows

from trainwright.core import params
from trainwright.report import card, examples, facts, heads, learning, page, results, said
from trainwright.report.examples import Mistake, Piece, Shown, Torn
from trainwright.report.said import Said, Span
from trainwright.rows import tables
from trainwright.scoring import wording

ROOT = Path(__file__).parent.parent
LABELS = ["sports", "business", "science", "<script>alert(1)</script>"]
COUNTS = [[310, 12, 3, 5], [9, 271, 40, 0], [2, 35, 288, 5], [0, 0, 1, 19]]
LOSSES = {"unit": "nats", "better": "lower"}


def score(value: float, spread: float, **kind: str) -> dict[str, Any]:
    return {"value": value, "low": value - spread, "high": value + spread, **kind}


def classified(accuracy: float) -> dict[str, Any]:
    table = [
        {"label": name, "count": sum(COUNTS[n]), "precision": 90.0 - n, "recall": 80.0, "f1": None if n == 3 else 84.7}
        for n, name in enumerate(LABELS)
    ]
    lengths = [
        {"by": "text length", "value": v, "count": 100, "accuracy": a} for v, a in (("short", 80.0), ("long", 94.0))
    ]
    return {
        "count": 1000, "accuracy": score(accuracy, 1.8), "macro_f1": score(accuracy - 3, 2.2),
        "matthews": score(accuracy - 12, 3.0), "ece": score(3.4, 0.9, better="lower"), "classes": table,
        "confusion": {"labels": LABELS, "counts": COUNTS}, "slices": lengths,
    }  # fmt: skip


def pretrained(perplexity: float) -> dict[str, Any]:
    loss = float(np.log(perplexity))
    parts = [
        {"by": "document length", "value": v, "count": 40, "perplexity": perplexity * f}
        for v, f in (("short", 1.4), ("long", 0.8))
    ]
    return {
        "count": 200, "perplexity": score(perplexity, perplexity / 30, unit="perplexity", better="lower"),
        "loss": score(loss, 0.03, **LOSSES), "accuracy": score(100 / perplexity**0.4, 1.0), "slices": parts,
        "unigram_loss": 6.2,
    }  # fmt: skip


CLASSIFIED = {"test": classified(88.8), "validation": classified(89.4), "untrained": classified(24.9)}
CLASSIFIED["untrained"]["matthews"] = score(-4.0, 6.0)
CLASSIFIED["constant"] = classified(60.1) | {"answer": LABELS[3]}
PRETRAINED = {"test": pretrained(12.34), "validation": pretrained(12.9), "untrained": pretrained(31_022.0)}
CURVES = {
    "train/loss": [(10, 2.1), (20, 1.2), (30, 0.8), (40, 0.6), (50, 0.45), (60, 0.35)],
    "validation/loss": [(20, 1.5), (40, 1.3), (60, 1.7)],
    "validation/agreement": [(20, 60.0), (40, 64.0), (60, 63.0)],
}
TRAINING = {
    "threads": 2, "precision": "float32", "device": "x86_64", "steps": 60, "epochs": 3.0, "first_loss": 2.1,
    "last_loss": 0.35, "best_loss": 1.3, "best_step": 40, "parameters": 9_000, "trained_parameters": 9_000,
    "accumulation": 1, "ended_early": True, "batch_size": 12,
    "validation": [{"step": 20 * n, "epoch": float(n), "eval_loss": 1.0, "eval_agreement": 60.0} for n in (1, 2, 3)],
}  # fmt: skip
SPANNED = examples.excerpt(
    "Angela Merkel met Tim Cook of Apple in Cupertino.",
    [Span(0, 13, "PER"), Span(18, 26, "PER"), Span(30, 35, "ORG")],
    [Span(0, 13, "PER"), Span(30, 35, "LOC"), Span(39, 48, "LOC")],
)
TEXTS = [Shown("text", [Piece(f"A text {PLANTED}")])]
CHOICES = [Shown("choices", [Piece("one", "gold")]), Shown("choices", [Piece("two", "predicted")])]
MISTAKES = [
    Mistake("t1", TEXTS, [Said("sports")], [Said(LABELS[3])], 0.97, {"right": 0.0}),
    Mistake("t2", [Shown("text", SPANNED)], [Said("Tim Cook", "PER")], [Said("Apple", "LOC")], None, {"f1": 0.5}),
    Mistake("t3", CHOICES, None, [], 0.5, {}),
]
TORN = [Torn("t4", [Shown("text", [Piece("Torn.")])], None, [(Said(LABELS[3]), 0.41), (Said("sports"), 0.39)])]


@pytest.fixture(scope="module")
def chosen() -> params.Pipeline:
    return params.load(ROOT / "params.yaml").pipeline("sample-qa")


@pytest.fixture(scope="module")
def classification(chosen: params.Pipeline) -> facts.Facts:
    return facts.Facts(
        pipeline="topics", params={**chosen.model_dump(mode="json"), "task": "classification"},
        source={"uri": "hub:owner/news", "format": "hub", "commit": "ab" * 20, "sha256": "ab" * 32, "rows": 9,
                "bytes": 99, "licence": "MIT"},
        base={"uri": "package:encoder", "revision": "1.0", "licence": "mit", "files": {"model.safetensors": "cd" * 32}},
        base_datasets=None, steps=[facts.Step("ingestion", "rows", [facts.Part("read", 9, "kept")])], misaligned=0,
        gates=[], floors=[], training=TRAINING, architecture="BertForSequenceClassification", curves=CURVES,
        commit="ef" * 20, edited=True, losses={"test": 0.4}, metrics=CLASSIFIED, learned={"labels": LABELS},
        tuned={"temperature": 1.3}, mistakes=MISTAKES, wrong=112, spans_answer=False, torn=TORN,
        timings=[], started=None, rendered=0.0, versions={"torch": "2"},
        machine={"system": "Linux", "cpus": 2, "python": "3.12"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def language_model(classification: facts.Facts) -> facts.Facts:
    floors = list(facts._floors({"max_perplexity": 12.0, "max_loss": 3.0, "min_accuracy": None}, PRETRAINED))
    return replace(
        classification, pipeline="shakespeare", metrics=PRETRAINED, architecture="GPT2LMHeadModel", floors=floors,
        base={"uri": "scratch", "revision": None, "licence": None, "files": {}}, wrong=None, mistakes=MISTAKES[1:2],
        torn=[], learned={}, tuned={},
    )  # fmt: skip


@needs_browser
@pytest.mark.parametrize("width", [1600, 1000, 400])
def test_a_label_that_looks_like_a_script_stays_text(classification: facts.Facts, tmp_path: Path, width: int) -> None:
    html = page.render(classification)
    assert "<script" not in html and PLANTED not in html
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    seen = visit(tmp_path / "index.html", width)
    assert (seen.complaints, seen.scripts) == ([], 0)
    assert seen.wider <= 0
    assert seen.text.count(LABELS[3]) >= 6  # by class, in the errors, in a mistake, among candidates


def test_scores_are_said_in_their_own_units(language_model: facts.Facts) -> None:
    html = page.render(language_model)
    for said_so in ("95% interval 11.9 to 12.8", "untrained 31,022", "2.513<small>nats</small>", "(lower is better)"):
        assert said_so in html
    assert "A model trained from scratch on" in html and "drawn from the seed 42" in html
    assert "12.3<small>of 100" not in html


def test_the_constant_baseline_and_the_commit_stand_beside_the_scores(classification: facts.Facts) -> None:
    html, text = page.render(classification), card.card(classification)
    assert f"always {escape(LABELS[3])} 60.1" in html and "| always " in text and "| 60.1 (" in text
    assert "ef" * 20 in html and "edits that are not committed" in html


def test_rows_that_a_limit_leaves_out_are_told_from_rows_that_were_taken(tmp_path: Path) -> None:
    for stage in ("ingestion", "cleaning", "augmentation", "splitting", "tokenization"):
        (tmp_path / stage).mkdir()
    tables.write(pa.table({"id": ["a", "b", "c"]}), tmp_path / "ingestion" / "rows.parquet")
    (tmp_path / "ingestion" / "quarantine.jsonl").write_text("{}\n")
    step = next(facts._steps({path.name: path for path in tmp_path.iterdir()}, 9))
    assert [(part.name, part.count) for part in step.parts] == [
        ("taken", 3),
        ("in quarantine", 1),
        ("left out by the limit", 5),
    ]


@pytest.mark.parametrize(
    ("values", "unit", "scale"),
    [
        ([31.6, 12.0], "points", (0.0, 100.0, False)),
        ([-4.0, 76.0], "points", (-100.0, 100.0, False)),
        ([12.3, 31_022.0], "perplexity", (10, 100_000, True)),
        ([2.0, 10.0], "nats", (0.0, 11.0, False)),
        ([0.0, 0.0], "nats", (0.0, 1.0, False)),
    ],
)
def test_an_axis_fits_its_unit(values: list[float], unit: str, scale: tuple[float, float, bool]) -> None:
    assert results.scale_of(values, unit) == pytest.approx(scale)


def test_a_ceiling_is_kept_from_above_and_a_floor_from_below(language_model: facts.Facts) -> None:
    floors = {floor.metric: floor for floor in language_model.floors}
    assert set(floors) == {"perplexity", "loss"}  # a limit of None sets none
    assert (floors["perplexity"].reached, floors["loss"].reached) == (False, True)
    assert (floors["perplexity"].promised, floors["perplexity"].seen) == ("at most 12", "12.3")
    assert "Perplexity was to stay under 12 on test: it does not (12.3)." in card.card(language_model)
    (missing,) = facts._floors({"max_wer": 5.0}, PRETRAINED)
    assert not missing.reached


def test_more_labels_than_fit_are_folded_and_every_row_is_still_counted() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 50, (33, 33)).tolist()
    found = results._confusion({"labels": [f"l{n}" for n in range(33)], "counts": counts})
    assert found is not None and len(found["labels"]) == results.MOST_LABELS
    assert found["labels"][-1] == "all others (14)"
    assert sum(total for _, _, total in found["rows"]) == sum(map(sum, counts))
    assert found["errors"][0][0] == max(c for g, line in enumerate(counts) for p, c in enumerate(line) if g != p)


def test_rows_that_were_taken_for_others_are_named_with_their_count(classification: facts.Facts) -> None:
    html = page.render(classification)
    assert "40 times business was taken for science; 35 times science was taken for business" in html
    assert ">94%</small>" in html  # 310 of 330 in the table


def test_a_class_table_shows_counts_whole_and_the_undefined_as_a_dash() -> None:
    table = results._class_table("types", CLASSIFIED["test"]["classes"])
    assert table["title"] == "By type"
    assert table["columns"] == ["count", "precision", "recall", "f1"]
    assert table["rows"][3] == (LABELS[3], ["20", "87.0", "80.0", "–"])


def test_an_interval_of_a_class_stands_beside_its_score() -> None:
    both = [
        {"label": "PER", "f1": 80.0, "f1_low": 75.0, "f1_high": 84.0},
        {"label": "LOC", "f1": {"value": 70.0, "low": 66.0, "high": 74.0}},
    ]
    table = results._class_table("labels", both)
    assert (table["title"], table["columns"]) == ("By label", ["f1"])
    assert table["rows"] == [("PER", ["80.0 (75.0 to 84.0)"]), ("LOC", ["70.0 (66.0 to 74.0)"])]


OVERFITTED = (
    "Training loss 0.7, validation 1.3 at the best step (epoch 2): a gap of 0.6.",
    "It overfits from epoch 3 on: by the end training loss came to 0.4 and validation to 1.7, a gap of 1.3.",
)


def test_the_gap_between_the_curves_is_named(classification: facts.Facts) -> None:
    html = page.render(classification)
    assert all(words in html for words in OVERFITTED)
    assert all(words in card.card(classification) for words in OVERFITTED)


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        ([3.0, 2.0], [2.5, 2.02], "no gap to speak of"),
        ([3.0, 2.0], [2.5, 2.02], "still falling at the end: no overfitting is seen"),
        ([3.0, 3.2], [2.5, 2.9], "After epoch 1 neither loss fell"),
        ([3.0, 2.6], [2.5, 2.51], "validation stayed about level while training fell"),
        ([3.0], [2.5], "validation is lower by 0.5"),
        ([3.0], [2.5], "whether more would overfit is not known"),
    ],
)
def test_what_the_curves_say_is_what_they_say(train: list[float], validation: list[float], words: str) -> None:
    curves = {
        "train/loss": [(10 * n + 5, loss) for n, loss in enumerate(train)],
        "validation/loss": [(10 * n + 10, loss) for n, loss in enumerate(validation)],
    }
    assert words in " ".join(learning.sentences(curves, {}, {"early_stopping": 2}))


def test_what_was_set_against_overfitting_is_said() -> None:
    chosen = {"dropout": 0.2, "weight_decay": 0.05, "label_smoothing": 0.1, "early_stopping": 1}
    said_so = " ".join(learning.sentences(CURVES, {"ended_early": True}, chosen))
    assert "Label smoothing raises the training loss alone" in said_so
    assert "Early stopping ended it after 1 epoch without a better validation loss." in said_so
    assert said_so.endswith("Set against it: dropout 0.2, weight decay 0.05, label smoothing 0.1.")
    assert "not computed" in learning.sentences({}, {}, chosen)[0]


def test_what_is_said_of_the_kept_weights_is_of_them_whatever_they_were_chosen_by() -> None:
    train, validation = [2.0, 1.0, 0.5], [1.5, 1.2, 1.4]
    curves = {
        "train/loss": [(10 * n + 5, loss) for n, loss in enumerate(train)],
        "validation/loss": [(10 * n + 10, loss) for n, loss in enumerate(validation)],
    }
    by_loss = " ".join(learning.sentences(curves, {"best_step": 20}, {"early_stopping": 1}))
    assert "validation 1.2 at the best step (epoch 2)" in by_loss
    assert "The weights kept are those before that." in by_loss
    chosen = {"early_stopping": 1, "best_by": "agreement"}
    by_agreement = " ".join(learning.sentences(curves, {"best_step": 30, "ended_early": True}, chosen))
    assert "Training loss 0.5, validation 1.4 at the best step (epoch 3): a gap of 0.9." in by_agreement
    assert "It overfits from epoch 3 on" in by_agreement
    assert "The weights kept are those of epoch 3, the most often right." in by_agreement
    assert "after 1 epoch without a better agreement" in by_agreement


def test_a_training_loss_that_counts_a_teacher_is_not_taken_for_a_gap() -> None:
    curves = {
        "train/loss": [(5, 9.0), (15, 6.0), (25, 4.0)],
        "validation/loss": [(10, 1.5), (20, 1.2), (30, 1.4)],
    }
    said_so = " ".join(learning.sentences(curves, {"best_step": 20}, {"teacher": "pipeline:large"}))
    assert "no gap can be told, since the training loss holds the distance to the teacher" in said_so
    assert "a gap of" not in said_so


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("Prague", [Said("Prague")]),
        (3, [Said("3")]),
        (0.25, [Said("0.25")]),
        ({"label": "positive", "probability": 0.934}, [Said("positive", "93%")]),
        ({"start": 0, "end": 3, "label": "PER", "text": "Tim", "probability": 0.5}, [Said("Tim", "PER, 50%")]),
        ({"labels": ["a", "b"]}, [Said("a, b")]),
        ({"labels": []}, [Said("none of the labels")]),
        ([{"text": "a"}, {"text": "b"}], [Said("a"), Said("b")]),
        ([str(n) for n in range(14)], [*(Said(str(n)) for n in range(12)), Said("and 2 more")]),
        ({"x": 1}, [Said('{"x": 1}')]),
        ([], []),
        ("", []),
    ],
)
def test_any_prediction_is_said_by_its_own_form(value: Any, words: list[Said]) -> None:
    assert said.said(value) == words


def test_entities_are_marked_with_what_both_sides_call_them() -> None:
    marked = [(piece.text, piece.mark, piece.tag) for piece in SPANNED if piece.mark]
    assert marked == [
        ("Angela Merkel", "both", "PER"),
        ("Tim Cook", "gold", "right PER"),
        ("Apple", "both", "right ORG; predicted LOC"),
        ("Cupertino", "predicted", "predicted LOC"),
    ]
    assert "".join(piece.text for piece in SPANNED) == "Angela Merkel met Tim Cook of Apple in Cupertino."


def test_candidates_are_read_from_nbest_and_from_predictions() -> None:
    nbest = [{"text": "", "probability": 0.2}, {"text": "Prague", "probability": 0.7}]
    assert said.candidates(nbest) == [(Said("Prague"), 0.7), (Said(""), 0.2)]
    assert said.candidates({"label": "a", "probabilities": {"a": 0.6, "b": 0.4}}) == [
        (Said("a"), 0.6),
        (Said("b"), 0.4),
    ]
    assert said.candidates([{"start": 0, "end": 2, "text": "an", "probability": 0.5}]) == []  # entities are no options
    assert said.candidates("Prague") == []


def postprocessed(folder: Path, columns: dict[str, Any], nbest: Any = None) -> dict[str, Path]:
    rows = [row(number) for number in range(4)]
    write_rows(folder / "splitting", "test", rows)
    (folder / "postprocessing").mkdir()
    table = pa.table({"id": [r["id"] for r in rows], **columns})
    tables.write(table, folder / "postprocessing" / "scores.parquet")
    if nbest is not None:
        write_json(folder / "postprocessing" / "predictions" / "nbest.json", nbest)
    return {name: folder / name for name in ("splitting", "postprocessing")}


def test_mistakes_of_labels_come_with_gold_and_confidence(chosen: params.Pipeline, tmp_path: Path) -> None:
    labels = [{"label": name, "probability": p} for name, p in (("a", 0.9), ("b", 0.6), ("b", 0.8), ("a", 0.7))]
    columns = {"right": [1.0, 0.0, 0.0, float("nan")], "prediction": labels, "gold": ["a", "a", "a", "b"]}
    mistakes, wrong, torn = examples.choose(postprocessed(tmp_path, columns), chosen)
    assert wrong == 2 and torn == []
    assert [(m.id, m.gold, m.predicted, m.confidence) for m in mistakes] == [
        ("q2", [Said("a")], [Said("b", "80%")], 0.8),
        ("q1", [Said("a")], [Said("b", "60%")], 0.6),
    ]


def test_a_confidence_column_is_no_score(chosen: params.Pipeline, tmp_path: Path) -> None:
    columns = {"confidence": [0.1, 0.4, 0.3, 0.2], "prediction": ["w", "x", "y", "z"], "gold": ["1", "2", "3", "4"]}
    mistakes, wrong, _ = examples.choose(postprocessed(tmp_path, columns), chosen)
    assert wrong is None
    assert (mistakes[0].id, mistakes[0].confidence, mistakes[0].scores) == ("q1", 0.4, {})


def test_numbers_come_by_their_distance_from_what_is_right(chosen: params.Pipeline, tmp_path: Path) -> None:
    columns = {"prediction": [1.0, 2.5, 0.2, 4.0], "gold": [1.1, 0.5, 0.2, 3.0]}
    mistakes, wrong, _ = examples.choose(postprocessed(tmp_path, columns), chosen)
    assert wrong is None
    assert [(m.id, m.gold, m.predicted) for m in mistakes][:2] == [
        ("q1", [Said("0.5")], [Said("2.5")]),
        ("q3", [Said("3")], [Said("4")]),
    ]


def test_a_choice_of_several_texts_is_marked_where_it_stands() -> None:
    assert [examples._chosen(text, {"label": "b"}, "a") for text in "abc"] == ["gold", "predicted", ""]
    assert examples._chosen("a", "a", "a") == "both"


@pytest.mark.parametrize("uri", ["scratch", "pipeline:pretrained", "folder:base"])
def test_a_base_that_has_no_name_on_the_hub_gets_none(classification: facts.Facts, uri: str) -> None:
    base = {"uri": uri, "revision": None, "licence": None, "files": {}}
    assert "base_model" not in card.metadata(replace(classification, base=base)).to_dict()
    begun = card.card(replace(classification, base=base)).split("\n# topics")[1].strip()
    words = {
        "s": "A model trained from scratch by",
        "p": "The model of pipeline pretrained, fine-tuned by",
        "f": "base, ",
    }
    assert begun.startswith(words[uri[0]])


def test_the_data_sets_of_a_hub_models_own_card_are_read_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--owner--encoder" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\ndatasets:\n- squad\n- snli\n---\n# An encoder\n")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert facts._datasets(f"hub:owner/encoder@{commit}", tmp_path) == ["squad", "snli"]
    assert facts._datasets("hub:owner/other@" + commit, tmp_path) is None
    assert facts._datasets("scratch", tmp_path) is None


@pytest.mark.parametrize(
    ("architecture", "tag", "auto_class"),
    [
        ("BertForSequenceClassification", "text-classification", "AutoModelForSequenceClassification"),
        ("BertForTokenClassification", "token-classification", "AutoModelForTokenClassification"),
        ("BertForMaskedLM", "fill-mask", "AutoModelForMaskedLM"),
        ("GPT2LMHeadModel", "text-generation", "AutoModelForCausalLM"),
        ("T5ForConditionalGeneration", "text2text-generation", "AutoModelForSeq2SeqLM"),
        ("BertForMultipleChoice", "multiple-choice", "AutoModelForMultipleChoice"),
        ("SomethingElse", None, "AutoModel"),
    ],
)
def test_the_card_has_the_tag_and_the_class_of_the_head(
    classification: facts.Facts, architecture: str, tag: str | None, auto_class: str
) -> None:
    known = replace(classification, architecture=architecture)
    assert card.metadata(known).to_dict().get("pipeline_tag") == tag
    code = card.card(known).split("```python\n")[1].split("```")[0]
    assert f"{auto_class}.from_pretrained" in code
    compile(code, "usage", "exec")


@pytest.mark.parametrize(
    "head", ["QuestionAnswering", "SequenceClassification", "TokenClassification", "MaskedLM", "MultipleChoice"]
)
def test_the_lines_of_the_card_run(head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    getattr(transformers, f"BertFor{head}")(config).save_pretrained(tmp_path)
    words = [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[UNK]",
        "[MASK]",
        *["a", "text", "question", "choice", ".", "?", "one", "another"],
    ]
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(tmp_path)
    capsys.readouterr()
    exec(heads.HEADS[head].usage(adapted=False).replace(heads.FOLDER, str(tmp_path)), {})
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize(("family", "head"), [("gpt2", "LMHeadModel"), ("t5", "ConditionalGeneration")])
def test_the_lines_of_the_card_write_a_text(family: str, head: str, tmp_path: Path, capfd: Any) -> None:
    from trainwright.engine import prediction, scratch

    sizes = params.Scratch(family=family, layers=1, heads=2, width=16, positions=64, tokenizer="bpe", vocabulary=400)
    tokenizer = scratch.train_tokenizer(lambda: iter([["A text that is read."]]), sizes)
    scratch.configuration(sizes, tokenizer).save_pretrained(tmp_path)
    prediction.load_model(heads.HEADS[head].auto_class, tmp_path, {}, scratch=True).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    exec(heads.HEADS[head].usage(adapted=False).replace(heads.FOLDER, str(tmp_path)), {})
    assert capfd.readouterr().out.endswith("\n")


def test_the_lines_of_a_card_lay_an_adapter_over_its_base_model(tmp_path: Path) -> None:
    import torch
    import transformers

    from trainwright.core.params import Lora
    from trainwright.engine import adapters, prediction

    config = transformers.BertConfig(
        vocab_size=13, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    base, folder, weights = (tmp_path / name for name in ("base", "model", "weights"))
    transformers.BertModel(config).save_pretrained(base)
    labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    auto_class = "AutoModelForSequenceClassification"
    model, new = prediction.load_base(auto_class, base, base, labels)
    model.config.save_pretrained(folder)
    trained = adapters.add(model, new, Lora())
    for name, weight in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    trained.save_pretrained(weights)
    adapters.keep(weights, folder, "folder:elsewhere")
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "a", "text", "."]
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    code = heads.HEADS["SequenceClassification"].usage(adapted=True)
    names: dict[str, Any] = {}
    exec(code.replace(heads.FOLDER, str(folder)).replace(heads.BASE, str(base)), names)
    expected = adapters.load(auto_class, folder, base)(**names["inputs"]).logits[0]
    torch.testing.assert_close(names["logits"], expected)


def test_an_adapter_and_a_teacher_are_told_by_page_and_card(classification: facts.Facts) -> None:
    training = {**classification.params["training"], "adapter": "lora", "teacher": "pipeline:large"}
    adapted = replace(classification, params={**classification.params, "training": training})
    html, text = page.render(adapted), card.card(adapted)
    for words in ("LoRA of rank 8, alpha 16, dropout 0, to be laid over the base model", "pipeline:large, its prob"):
        assert words in html and words in text
        assert words not in page.render(classification)
    assert "PeftModel.from_pretrained" in text
    merged = {**training, "lora": {**training["lora"], "merge": True}}
    assert "PeftModel" not in card.card(replace(adapted, params={**adapted.params, "training": merged}))


def test_a_model_from_scratch_says_what_it_was_to_be(language_model: facts.Facts) -> None:
    sizes = {"family": "gpt2", "layers": 4, "heads": 2, "width": 128, "positions": 256, "tokenizer": "bpe"}
    html = page.render(replace(language_model, base={**language_model.base, "scratch": {**sizes, "vocabulary": 1500}}))
    assert "none: from scratch" in html
    assert "gpt2, 4 layers, 2 heads, width 128, 256 positions" in html
    assert "bpe, at most 1,500 tokens, trained on the train split" in html
    assert "revision</dt><dd>unknown" not in html


def test_one_slice_is_not_said_to_be_missing(classification: facts.Facts) -> None:
    only = {"test": {"count": 3, "accuracy": {"value": 1.0, "low": 0.0, "high": 2.0}}}
    slices = [{"by": "length", "value": "under 50", "count": 3, "accuracy": 1.0}]
    assert "All test rows are in one slice" in page.render(
        replace(classification, metrics={"test": {**only["test"], "slices": slices}})
    )
    assert "All test rows are in one slice" not in page.render(replace(classification, metrics=only))


def test_the_hubs_names_of_scores_are_used(classification: facts.Facts) -> None:
    written = {result.metric_type: result.metric_value for result in card.metadata(classification).eval_results}
    assert written == {"accuracy": 88.8, "f1": 85.8, "matthews_correlation": 76.8, "ece": 3.4}
    assert "calibration" not in card.card(classification).split("Not computed:")[1].splitlines()[0]


def test_a_unit_that_no_split_states_is_points() -> None:
    assert wording.kind({"test": {"f1": score(1, 1)}}, "f1") == {"unit": "points", "better": "higher"}


def test_a_score_that_has_no_value_is_told_apart_from_one_that_nobody_computed():
    nothing = {"value": None, "low": None, "high": None}
    metrics = {"test": {"count": 3, "f1": nothing, "HasAns": {"count": 0, "f1": None}}, "validation": {"count": 2}}
    rows = {(row["split"], row["group"]): row["cells"][0]["words"] for row in results.score_rows(metrics, ["f1"])}
    assert rows["test", ""] == rows["test", "HasAns"] == "undefined"
    assert rows["validation", ""] == "not computed"
