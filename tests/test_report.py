"""The report: a page that says what happened and nothing else, and a folder that loads."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from markdown_it import MarkdownIt

from stages.report import main, report
from trainwright.core import certificate, params
from trainwright.core.layout import Layout, digest
from trainwright.core.process import Run
from trainwright.report import card, examples, facts, plots
from trainwright.report.said import Span
from trainwright.rows import tables
from trainwright.tasks.qa import rows as qa

ROOT = Path(__file__).parent.parent
PLANTED = "<script>document.title = 'owned'; fetch('https://example.invalid/')</script><img src=x onerror=alert(1)>"
CONTEXT = f"The Vltava is 430 km long. {PLANTED} It joins the Elbe at Mělník, north of Prague. " + "Words. " * 120
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
LISTS = {"input_ids": pa.int32(), "token_type_ids": pa.int8(), "start_char": pa.int32(), "end_char": pa.int32()}
FEATURES = ("row", *LISTS, "context_start", "null_position", "start_position", "end_position")


def row(number: int, split: str | None = None, parent: str | None = None) -> dict[str, Any]:
    answers = ["Mělník"] if number % 3 else []
    return {
        "id": f"q{number}" + ("-paraphrase" if parent else ""),
        "group": f"group {number}",
        "split": split,
        "parent": parent,
        "title": f"Vltava {PLANTED}",
        "context": CONTEXT,
        "question": f"Where does river {number} join the Elbe? {PLANTED}",
        "answer_start": [CONTEXT.index("Mělník")] * len(answers),
        "answer_text": answers,
    }


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(pa.Table.from_pylist(rows, schema=qa.SCHEMA), folder / f"{name}.parquet")


def write_features(path: Path, count: int) -> None:
    schema = pa.schema([(name, pa.list_(LISTS[name]) if name in LISTS else pa.int32()) for name in FEATURES])
    window = {name: [1, 2] if name in LISTS else 0 for name in FEATURES}
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist([window] * count, schema=schema))


def score(value: float, spread: float = 6.0) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def split_scores(exact: float, f1: float) -> dict[str, Any]:
    part = {"count": 4, "exact": exact, "f1": f1}
    slices = [
        {"by": "question word", "value": "where", **part},
        {"by": "question word", "value": "other", "count": 2, "exact": 50.0, "f1": 50.0},
        {"by": "title", "value": "Labe", **part},
        {"by": "title", "value": f"Vltava {PLANTED}", "count": 2, "exact": None, "f1": None},
    ]
    kinds = {"HasAns": part, "NoAns": {"count": 0, "exact": None, "f1": None}}
    best = {"best_exact": exact, "best_exact_threshold": -1.25, "best_f1": f1, "best_f1_threshold": -1.5}
    return {"count": 6, "exact": score(exact), "f1": score(f1), **kinds, **best, "slices": slices}


METRICS = {
    "test": split_scores(31.6, 42.4),
    "validation": split_scores(33.1, 44.9),
    "untrained": split_scores(12.5, 13.7),
}
TRAINING = {
    "threads": 2, "precision": "bfloat16", "device": "x86_64", "steps": 40, "epochs": 2.0, "first_loss": 4.1,
    "last_loss": 2.2, "best_loss": 2.5, "best_step": 20, "parameters": 2578, "trained_parameters": 2578,
    "accumulation": 1, "ended_early": False, "batch_size": 12,
    "validation": [{"step": 20, "epoch": 1.0, "eval_loss": 2.5, "eval_agreement": 30.0}],
}  # fmt: skip


def write_model(folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertForQuestionAnswering(config).save_pretrained(folder)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *[f"w{n}" for n in range(5, 20)]]
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_stages(layout: Layout) -> None:
    """What the stages before the report leave: eleven rows read, one dropped, two made, six in test."""
    rows = [row(number) for number in range(12)]
    stage = layout.stage
    write_rows(stage("ingestion"), "rows", rows[:11])
    (stage("ingestion") / "quarantine.jsonl").write_text('{"reason": "no answer"}\n')
    write_rows(stage("cleaning"), "rows", rows[:10])
    dropped = [{"id": "q10", "reason": f"duplicate {PLANTED}"}]
    tables.write(pa.Table.from_pylist(dropped, schema=tables.DROPPED), stage("cleaning") / "dropped.parquet")
    children = [row(1, parent="q1"), row(2, parent="q2")]
    write_rows(stage("augmentation"), "rows", rows[:10] + children)
    parts = {"train": [rows[0], rows[1], children[0]], "validation": rows[2:4], "test": rows[4:10]}
    for number, (split, part) in enumerate(parts.items()):
        write_rows(stage("splitting"), split, part)
        stage("tokenization").mkdir(exist_ok=True)
        write_features(stage("tokenization") / f"{split}.arrow", 7 + number)
    (stage("tokenization") / "quarantine.jsonl").write_text("")
    write_json(stage("tokenization") / "learned.json", {})
    tables.write(pa.table({"id": pa.array(["q1"])}), stage("tokenization") / "misaligned.parquet")
    write_model(stage("training") / "model")
    (stage("training") / "model" / "training_args.bin").write_bytes(b"a pickle")
    write_json(stage("training") / "facts.json", TRAINING)
    curves = {"train/loss": [(10, 4.1), (40, 2.2)], "validation/loss": [(20, 2.5), (40, 2.6)]}
    for name, points in {**curves, "validation/agreement": [(20, 30.0), (40, 31.0)]}.items():
        path = stage("training") / "live" / "plots" / "metrics" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"step\t{path.stem}", *(f"{step}\t{value}" for step, value in points)]
        path.write_text("\n".join(lines) + "\n")
    write_json(stage("evaluation") / "losses.json", {"validation": 2.5, "test": 2.7})
    write_predictions(stage("postprocessing"), [r["id"] for r in parts["test"]])


def write_predictions(folder: Path, ids: list[str]) -> None:
    """q4, q5 and q7 are wrong; the model is surest of q7."""
    folder.mkdir(parents=True)
    answers = ["Prague", "430 km", "", "", "Mělník", ""]
    own = pa.array([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    columns = {"id": pa.array(ids), "prediction": pa.array(answers), "exact": own, "f1": own}
    tables.write(pa.table(columns), folder / "scores.parquet")
    sure = dict(zip(ids, [0.5, 0.6, 0.9, 0.95, 0.8, 0.9], strict=True))
    nbest = {
        i: [
            {"text": answer, "probability": sure[i], "start_logit": 1.0, "end_logit": 1.0},
            {"text": PLANTED, "probability": 1 - sure[i], "start_logit": 0.0, "end_logit": 0.5},
        ]
        for i, answer in zip(ids, answers, strict=True)
    }
    write_json(folder / "predictions" / "nbest.json", nbest)
    write_json(folder / "predictions" / "predictions.json", dict(zip(ids, answers, strict=True)))
    write_json(folder / "metrics.json", METRICS)
    write_json(folder / "tuned.json", {"null_threshold": -1.5})


def certify(layout: Layout, chosen: params.Pipeline) -> None:
    for gate in facts.EARLIER:
        checked = digest(layout.stage(gate))
        promise = {
            "name": "ids_unique", "says": f"no id of {gate} stands twice <b>", "observed": 0.0, "minimum": None,
            "maximum": 0.0, "success": True,
        }  # fmt: skip
        head = {"pipeline": layout.pipeline, "gate": gate, "digest": checked}
        result = {**head, "suite": certificate.suite_digest(chosen, gate), "passed": True, "failed": []}
        certificate.certify(layout, gate, checked, {**result, "promises": [promise]})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A pipeline whose every stage but the report has run and is certified."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", root)
    write_model(root / "base")
    metadata = "---\nlicense: apache-2.0\ndatasets:\n- squad_v2\n- snli\n---\n# A base model\n"
    (root / "base" / "README.md").write_text(metadata)
    gates = params.load(root / "params.yaml").pipeline("sample-qa")
    floors = gates.gates.model_copy(
        update={"report": gates.gates.report.model_copy(update={"min_exact": 10.0, "min_f1": 90.0})}
    )
    chosen = gates.model_copy(update={"base_model": "folder:base", "gates": floors})
    layout = Layout(root, "sample-qa")
    files = [{"path": "questions.json", "split": None, "bytes": 9000, "sha256": "ab" * 32, "rows": 12}]
    source = {
        **chosen.source.model_dump(mode="json"), "uri": f"data/{PLANTED}.json", "licence": "Apache-2.0",
        "commit": None, "rows": 12, "bytes": 9000, "sha256": "ab" * 32, "files": files,
    }  # fmt: skip
    write_json(layout.source_pin, source)
    pinned = {
        "uri": "folder:base",
        "revision": None,
        "licence": "apache-2.0",
        "files": {"model.safetensors": "cd" * 32},
    }
    write_json(layout.base_model_pin, pinned)
    write_stages(layout)
    certify(layout, chosen)
    write_json(layout.timing("training"), {"started": 1_790_000_000.0, "seconds": 75.2, "machine": "box"})
    return Run(layout, chosen)


@pytest.fixture(scope="module")
def gathered(run: Run) -> facts.Facts:
    return facts.gather(run)


@pytest.fixture(scope="module")
def written(run: Run) -> Path:
    main(run)
    return run.layout.stage("report")


@pytest.fixture(scope="module")
def html(gathered: facts.Facts) -> str:
    return report(gathered)


class Visit:
    """One look at a page in a browser without a network: what it shows, asked for, complained of."""

    def __init__(self, page: Any, path: Path) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        self.title: str = page.title()
        self.text: str = page.inner_text("body")
        self.scripts: int = page.evaluate(
            "document.querySelectorAll('script, img, iframe, link, object, a[href^=http]').length"
        )
        self.wider: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def visit(path: Path, width: int, scheme: str = "light") -> Visit:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        try:
            return Visit(context.new_page(), path)
        finally:
            browser.close()


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")


@needs_browser
def test_the_page_shows_the_scores_offline_and_runs_nothing_that_the_data_hold(written: Path) -> None:
    seen = visit(written / "index.html", 1280)
    assert "31.6" in seen.text and "42.4" in seen.text and "untrained 13.7" in seen.text
    assert "25.6 to 37.6" in seen.text
    assert seen.requests == [(written / "index.html").as_uri()]
    assert seen.complaints == []
    assert seen.scripts == 0
    assert seen.title == "sample-qa · Trainwright report"
    assert seen.text.count(PLANTED) >= 8  # in contexts, questions and alternatives, as text


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(written: Path, scheme: str) -> None:
    seen = visit(written / "index.html", 390, scheme)
    assert seen.wider <= 0
    assert seen.complaints == []


def test_what_the_data_hold_is_escaped_in_page_and_pictures(html: str) -> None:
    assert PLANTED not in html
    assert "<script" not in html
    assert "no id of cleaning stands twice &lt;b&gt;" in html


def test_rows_are_counted_through_the_stages(gathered: facts.Facts) -> None:
    counts = {step.stage: {part.name: part.count for part in step.parts} for step in gathered.steps}
    assert counts["ingestion"] == {"read": 11, "in quarantine": 1}
    assert counts["cleaning"] == {"kept": 10, f"duplicate {PLANTED}": 1}
    assert counts["augmentation"] == {"originals": 10, "children": 2}
    assert counts["splitting"] == {"train": 3, "validation": 2, "test": 6, "children left out": 1}
    assert counts["tokenization"] == {"train": 7, "validation": 8, "test": 9, "rows in quarantine": 0}


def test_mistakes_come_by_confidence_times_error_with_gold_and_prediction_marked(gathered: facts.Facts) -> None:
    assert [mistake.id for mistake in gathered.mistakes] == ["q7", "q5", "q4"]
    assert gathered.wrong == 3
    prague = gathered.mistakes[2]
    assert [part.words for part in prague.gold or []] == ["Mělník"]
    assert [part.words for part in prague.predicted] == ["Prague"]
    marks = {piece.mark: piece.text for piece in prague.texts[-1].pieces if piece.mark in ("gold", "predicted")}
    assert marks == {"gold": "Mělník", "predicted": "Prague"}


def test_an_excerpt_shows_spans_that_lie_far_apart_and_leaves_out_what_is_between() -> None:
    text = "first " + "word " * 400 + "last"
    pieces = examples.excerpt(text, [Span(0, 5)], [Span(len(text) - 4, len(text))])
    assert [(p.text, p.mark) for p in pieces if p.mark] == [("first", "gold"), ("…", "gap"), ("last", "predicted")]
    assert sum(len(piece.text) for piece in pieces) < 800


def test_an_excerpt_without_a_gap_is_the_whole_text() -> None:
    pieces = examples.excerpt("Paris or Rome", [Span(0, 5)], [Span(0, 13)])
    assert "".join(piece.text for piece in pieces) == "Paris or Rome"
    assert [piece.mark for piece in pieces] == ["both", "predicted"]


def test_what_was_not_timed_or_computed_is_said_to_be_missing(gathered: facts.Facts) -> None:
    bare = replace(gathered, metrics={}, curves={}, training={}, torn=[], mistakes=[], floors=[], started=None)
    html = report(bare)
    assert html.count("not computed") > 5
    assert "no floors set" in html
    assert "Loss by step" not in html
    timed = {timing.stage: (timing.work, timing.gate) for timing in gathered.timings}
    assert timed["training"] == (75.2, None)
    assert timed["cleaning"] == (None, None)
    assert "not timed" in html


def test_an_undefined_score_is_never_shown_as_a_number(gathered: facts.Facts) -> None:
    test = {**METRICS["test"], "f1": {"value": None, "low": None, "high": None}}
    metrics = {**METRICS, "test": test}
    floors = list(facts._floors({"min_f1": 0.0}, metrics))
    assert not floors[0].reached
    undefined = replace(gathered, metrics=metrics, floors=floors)
    assert [r.metric_type for r in card.metadata(undefined).eval_results] == ["exact_match"]
    assert "✗ below its floors" in report(undefined)


def test_a_floor_that_is_not_reached_is_shown_as_failed_and_the_page_is_written(
    gathered: facts.Facts, html: str
) -> None:
    assert [(floor.metric, floor.reached) for floor in gathered.floors] == [("exact", True), ("f1", False)]
    assert "✗ below its floors" in html


def test_no_text_of_a_row_is_shown_where_mistakes_are_set_to_none(run: Run) -> None:
    quiet = run.params.model_copy(update={"report": params.Report(mistakes=0)})
    html = report(facts.gather(replace(run, params=quiet)))
    assert "Elbe" not in html
    assert "3 test rows are not exactly right" in html


def test_the_card_says_what_is_true_and_what_is_unknown(written: Path) -> None:
    from huggingface_hub import ModelCard

    read = ModelCard.load(written / "model" / "README.md")
    data = read.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["language"] == "en"
    assert data["pipeline_tag"] == "question-answering"
    assert data["library_name"] == "transformers"
    assert "base_model" not in data and "datasets" not in data  # a local folder and a local file have no id on the Hub
    results = {result.metric_type: result for result in read.data.eval_results}
    assert results["exact_match"].metric_value == 31.6 and results["f1"].metric_value == 42.4
    assert results["f1"].dataset_split == "test"
    for said in (
        "| test | 6 | 31.6 (25.6 to 37.6) | 42.4 (36.4 to 48.4) |",
        "| untrained | 6 |",
        "precision: bfloat16",
    ):
        assert said in read.text
    for said in (
        "threads: 2",
        "best step: 20",
        "`squad_v2`, `snli`",
        "F1 was to reach 90 on test: it does not",
        "folder:base",
    ):
        assert said in read.text
    assert PLANTED not in read.text


def test_the_card_names_hub_ids_and_does_not_invent_a_licence(gathered: facts.Facts) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    base = {**gathered.base, "uri": f"hub:owner/encoder@{commit}", "revision": commit}
    source = {**gathered.source, "uri": "hub:owner/questions", "commit": commit, "licence": "unknown"}
    hub = replace(gathered, base=base, source=source)
    data = card.metadata(hub).to_dict()
    assert data["base_model"] == "owner/encoder"
    assert data["datasets"] == ["owner/questions"]
    assert data["license"] == "unknown"
    assert "Unknown licence: the data's" in card.card(hub)
    other = card.metadata(replace(hub, source={**source, "licence": "CC-BY-SA-4.0"})).to_dict()
    assert other["license"] == "other"
    assert other["license_name"] == "apache-2.0 (base model) and cc-by-sa-4.0 (data)"


def test_no_text_from_outside_makes_a_heading_link_or_picture_in_the_card(gathered: facts.Facts) -> None:
    attack = "mit\n\n## Scores\n\n![x](https://a.example/x.png) <img src=x> `b` | c"
    base = {**gathered.base, "licence": attack, "uri": f"folder:{attack}"}
    hostile = replace(gathered, base=base, source={**gathered.source, "licence": attack, "uri": attack})
    hostile = replace(hostile, base_datasets=[attack])
    text = card.card(hostile).split("---\n", 2)[2]
    assert text.count("\n## Scores") == 1
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = {part.type for token in tokens for part in [token, *(token.children or [])]}
    assert not kinds & {"image", "html_inline", "html_block"}
    assert [part.attrs["href"] for token in tokens for part in token.children or [] if part.type == "link_open"] == [
        "trainwright.json"
    ]


def test_the_published_files_are_those_that_training_wrote_without_pickles(run: Run, written: Path) -> None:
    trained = run.layout.stage("training") / "model"
    names = {path.name for path in trained.iterdir()} - {"training_args.bin"}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert {path.name for path in (written / "model").iterdir()} == {*names, "README.md", "trainwright.json"}
    for name in names:
        assert (written / "model" / name).read_bytes() == (trained / name).read_bytes()


def test_the_published_settings_are_what_predict_reads(run: Run, written: Path) -> None:
    from trainwright.engine.answering import read_settings

    settings = read_settings(written / "model")
    assert settings.tokenization == run.params.tokenization
    assert settings.postprocessing == run.params.postprocessing
    assert settings.cleaning == run.params.cleaning
    assert settings.reading["format"] == run.params.source.format
    assert (settings.task, settings.language, settings.tuned) == ("qa", "en", {"null_threshold": -1.5})
    content = json.loads((written / "model" / "trainwright.json").read_text())
    assert (content["pipeline"], content["source"]) == ("sample-qa", "ab" * 32)


LOGITS = """
import hashlib, sys, torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    model, tokenizer = (c.from_pretrained(folder) for c in (AutoModelForQuestionAnswering, AutoTokenizer))
    with torch.no_grad():
        output = model(**tokenizer("w5 w6", "w7 w8 w9", return_tensors="pt"))
    print(hashlib.sha256(output.start_logits.numpy().tobytes() + output.end_logits.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_the_published_folder_loads_offline_in_a_fresh_process_with_the_same_logits(run: Run, written: Path) -> None:
    folders = [str(written / "model"), str(run.layout.stage("training") / "model")]
    offline = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin", "HF_HOME": str(run.layout.root / "none")}
    done = subprocess.run([sys.executable, "-c", LOGITS, *folders], capture_output=True, text=True, env=offline)
    assert done.returncode == 0, done.stderr
    published, trained = done.stdout.split()
    assert published == trained


def test_every_colour_of_a_picture_is_the_pages_own(gathered: facts.Facts) -> None:
    from trainwright.report.page import _view

    view = _view(gathered)
    drawn = [view["steps_plot"], view["intervals_plot"], view["timings_plot"]]
    drawn += [svg for svg, _ in view["curve_plots"]] + [svg for _, svg in view["slice_plots"]]
    for svg in drawn:
        assert not any(f'"{colour}"' in svg for colour in plots.COLOUR.values())
        assert 'role="img" aria-label="' in svg
    ids = [part for svg in drawn for part in svg.split('id="')[1:]]
    assert len({part.split('"')[0] for part in ids}) == len(ids)


def test_pictures_hold_no_character_that_xml_cannot() -> None:
    names = ["a\x1bb", "\0", "\ufffe", "c\ud800"]
    cells = [{"gold": n, "predicted": n, "count": 1, "share": 1.0} for n in range(len(names))]
    bars = [{"name": name, "value": 10.0, "words": name} for name in names]
    drawn = [plots.confusion(names, cells, names[0]), plots.slices(bars, None, names[2], "labels", (0, 100))]
    for svg in drawn:
        ElementTree.fromstring(plots.alone(str(svg), ""))
        assert "a\ufffdb" in svg
