"""Build the sample corpus from the topic files that people edit.

    python data/sample/build.py            # writes squad.json and passages.jsonl
    python data/sample/build.py --check    # only checks; exit 2 names every problem

A topic file marks entities in place, `[Marie Curie](PER)`, and gives answers as text; this script
turns both into character offsets, so that no offset is ever written by hand. An answer is its first
occurrence in the passage unless written as `{text: iron, occurrence: 2}`.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

HERE = Path(__file__).parent
ENTITY = re.compile(r"\[([^\[\]]+)\]\((PER|LOC|ORG)\)")
WORDS_PER_PASSAGE = (60, 140)
WORDS_PER_ANSWER = (1, 12)


def unmark(marked: str) -> tuple[str, list[dict[str, Any]]]:
    """The passage without its marks, and the marked spans as character offsets into it."""
    text, entities, end = "", [], 0
    for match in ENTITY.finditer(marked):
        text += marked[end : match.start()]
        entities.append({"start": len(text), "end": len(text) + len(match[1]), "label": match[2]})
        text += match[1]
        end = match.end()
    return text + marked[end:], entities


def locate(answer: Any, text: str) -> dict[str, Any]:
    """One gold answer with its offset; occurrences are counted at word boundaries."""
    wanted, occurrence = (answer["text"], answer["occurrence"]) if isinstance(answer, dict) else (answer, 1)
    if not isinstance(wanted, str):
        raise ValueError(f"answer {wanted!r} is not text: quote it")
    starts = [m.start() for m in re.finditer(rf"(?<!\w){re.escape(wanted)}(?!\w)", text)]
    if len(starts) < occurrence:
        raise ValueError(f"answer {wanted!r} occurs {len(starts)} times, {occurrence} needed")
    if not WORDS_PER_ANSWER[0] <= len(wanted.split()) <= WORDS_PER_ANSWER[1]:
        raise ValueError(f"answer {wanted!r} has {len(wanted.split())} words")
    return {"text": wanted, "answer_start": starts[occurrence - 1]}


def question(entry: dict[str, Any], title: str, text: str, impossible: bool) -> dict[str, Any]:
    """One question in SQuAD 2.0 form; its id is a hash of title and question, so it survives edits elsewhere."""
    digest = hashlib.sha256(f"{title}\n{entry['q']}".encode()).hexdigest()[:16]
    if not entry["q"].strip().endswith("?"):
        raise ValueError(f"{entry['q']!r} does not end with a question mark")
    qa: dict[str, Any] = {"id": digest, "question": entry["q"].strip(), "is_impossible": impossible}
    if impossible:
        plausible = entry.get("plausible", [])
        return qa | {"answers": [], "plausible_answers": [locate(a, text) for a in plausible]}
    if not entry.get("a"):
        raise ValueError(f"{entry['q']!r} has no answer")
    return qa | {"answers": [locate(a, text) for a in entry["a"]]}


def read(path: Path, problems: list[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """A topic file as (SQuAD paragraph with its title, labelled passage) pairs."""
    topic = YAML(typ="safe").load(path)
    for passage in topic["passages"]:
        title = passage["title"]
        text, entities = unmark(" ".join(passage["text"].split()))
        if not WORDS_PER_PASSAGE[0] <= len(text.split()) <= WORDS_PER_PASSAGE[1]:
            problems.append(f"{path.name}: {title}: {len(text.split())} words")
        if re.search(r"[\[\]]", text):
            problems.append(f"{path.name}: {title}: a bracket that marks no entity")
        qas = []
        for key, impossible in (("questions", False), ("unanswerable", True)):
            for entry in passage.get(key) or []:
                try:
                    qas.append(question(entry, title, text, impossible))
                except (ValueError, KeyError) as error:
                    problems.append(f"{path.name}: {title}: {error}")
        yield (
            {"title": title, "paragraphs": [{"context": text, "qas": qas}]},
            {"title": title, "topic": topic["topic"], "text": text, "entities": entities},
        )


def build(folder: Path = HERE / "topics") -> tuple[str, str, list[str]]:
    """The text of squad.json, the text of passages.jsonl, and every problem found."""
    problems: list[str] = []
    pairs = [pair for path in sorted(folder.glob("*.yaml")) for pair in read(path, problems)]
    articles = [article for article, _ in pairs]
    for what, values in (
        ("title", [a["title"] for a in articles]),
        ("passage", [a["paragraphs"][0]["context"] for a in articles]),
        ("question id", [q["id"] for a in articles for q in a["paragraphs"][0]["qas"]]),
    ):
        problems += [f"{what} twice: {v[:60]}" for v in sorted({v for v in values if values.count(v) > 1})]
    squad = json.dumps({"version": "v2.0", "data": articles}, ensure_ascii=False, indent=1) + "\n"
    lines = "".join(json.dumps(passage, ensure_ascii=False) + "\n" for _, passage in pairs)
    return squad, lines, problems


def main() -> int:
    squad, passages, problems = build()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 2
    qas = [q for a in json.loads(squad)["data"] for q in a["paragraphs"][0]["qas"]]
    impossible = sum(q["is_impossible"] for q in qas)
    count = passages.count("\n")
    print(f"{count} passages, {len(qas) - impossible} answerable and {impossible} unanswerable questions")
    if "--check" not in sys.argv:
        (HERE / "squad.json").write_text(squad, encoding="utf-8")
        (HERE / "passages.jsonl").write_text(passages, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
