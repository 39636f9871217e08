"""Tasks on Chinese text, in which nothing stands between words: from source to predictions with tiny models.

(Classification and entities learn Chinese in test_classification.py and test_ner_pipeline.py.)
"""

import json
from typing import Any

import numpy as np
import pytest
from conftest import ran

from trainwright.core.layout import STAGES
from trainwright.core.process import Run
from trainwright.engine import answering

pytestmark = pytest.mark.slow

NAMES = ("张伟", "王小红", "欧阳修", "李明", "陈静")
CITIES = ("北京", "上海市", "哈尔滨", "成都", "乌鲁木齐")
SUBJECTS = ("音乐", "数学", "历史", "物理学")
BERT = {"family": "bert", "positions": 64, "tokenizer": "wordpiece", "vocabulary": 200}
MODELS = {
    "qa": BERT,
    "multiple_choice": BERT,
    "mlm": BERT,
    "clm": {"family": "gpt2", "positions": 64, "tokenizer": "bpe", "vocabulary": 400},
    "seq2seq": {"family": "t5", "tokenizer": "unigram", "vocabulary": 240},
}
TOKENIZATION: dict[str, dict[str, Any]] = {
    "qa": {"max_length": 48, "stride": 8},
    "multiple_choice": {"max_length": 48},
    "mlm": {"max_length": 48},
    "clm": {"block": 64, "beginning": 3},
    "seq2seq": {"max_source_length": 64, "max_target_length": 16},
}
EVALUATION = {"clm": {"new_tokens": 6}, "seq2seq": {"max_new_tokens": 8}}


def record(task: str, i: int, random: np.random.Generator) -> dict[str, Any]:
    """Someone, born somewhere, who then learnt something: what is asked for is where."""
    name, subject = random.choice(NAMES), random.choice(SUBJECTS)
    city, year = str(random.choice(CITIES)), 1900 + i
    text = f"{name}于{year}年出生在{city}，后来学习{subject}。"
    question = f"{name}出生在哪里？"
    if task == "qa":
        answers = {"text": [city], "answer_start": [text.index(city)]}
        return {"id": f"r{i}", "title": f"t{i}", "context": text, "question": question, "answers": answers}
    if task == "multiple_choice":
        choices = [str(choice) for choice in random.permutation([city, *random.choice(SUBJECTS, 2, replace=False)])]
        return {"id": f"r{i}", "context": text, "question": question, "choices": choices, "answer": choices.index(city)}
    if task == "seq2seq":
        return {"id": f"r{i}", "source": text, "target": city}
    return {"id": f"r{i}", "text": text}


@pytest.fixture(scope="module", params=sorted(MODELS))
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    task, root, random = request.param, tmp_path_factory.mktemp("chinese"), np.random.default_rng(5)
    lines = [json.dumps(record(task, i, random), ensure_ascii=False) + "\n" for i in range(160)]
    (root / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    section = {
        "task": task,
        "language": "zh",
        "base_model": {"scratch": {"layers": 2, "heads": 2, "width": 32, **MODELS[task]}},
        "after": "none",
        "source": {"uri": "rows.jsonl", "format": "jsonl", "licence": "MIT"},
        **{stage: {} for stage in ("ingestion", "cleaning", "augmentation", "report")},
        "splitting": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "tokenization": TOKENIZATION[task],
        "training": {"epochs": 8, "batch_size": 8, "learning_rate": 0.01, "dropout": 0.0, "early_stopping": 0},
        "evaluation": EVALUATION.get(task, {}),
        "postprocessing": {"bootstrap": 100},
        "gates": {stage: {} for stage in STAGES},
    }
    return ran(root, section)


def content(run: Run, name: str) -> Any:
    return json.loads((run.layout.stage("postprocessing") / name).read_text(encoding="utf-8"))


def test_every_row_gets_a_prediction_better_than_an_untrained_model_s(finished):
    task, found = finished.params.task, content(finished, "metrics.json")
    test, untrained = found["test"], found["untrained"]
    assert test["count"] == len(content(finished, "predictions/predictions.json")) > 20
    if task in ("mlm", "clm"):
        assert test["loss"]["high"] < untrained["loss"]["low"]
        return
    name = {"qa": "f1", "seq2seq": "chrf", "multiple_choice": "accuracy"}[task]
    assert test[name]["value"] > untrained[name]["value"] + 20


def test_a_published_model_answers_a_chinese_file(finished, tmp_path):
    task = finished.params.task
    some = [record(task, 90 + i, np.random.default_rng(i)) for i in range(4)]
    for one in some:
        for gold in ("answers", "answer", "target"):
            one.pop(gold, None)
        if task == "mlm":
            one["text"] = one["text"].replace("出生", "[MASK][MASK]")
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in some), encoding="utf-8")
    count, faults = answering.predict_file(finished.layout.stage("report") / "model", path, tmp_path / "out.json")
    assert (count, faults) == (4, [])
    answers = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert list(answers) == [one["id"] for one in some]
    for one in some:
        said = answers[one["id"]]
        if task == "qa":
            assert said in one["context"]
        elif task == "multiple_choice":
            assert said["text"] in one["choices"]
        elif task == "mlm":
            assert len(said) == 2 and all(" " not in filling["text"] for filling in said)
        else:
            assert isinstance(said if isinstance(said, str) else said["continuation"], str)
