"""Sources of every form give the same rows; what is wrong with a file or a row is said by its place."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainwright import sources
from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source
from trainwright.tasks.classification import rows as classification
from trainwright.tasks.qa import rows

CONTEXT = "Ann met Bob in Rome. Bob left."
ROW = {"id": "a", "title": "T", "context": CONTEXT, "question": "Whom?", "answer": "Bob in Rome", "answer_start": 8}
Table = tuple[pa.Table, list[Fault]]


def squad(*questions: dict[str, Any], context: str = CONTEXT) -> dict[str, Any]:
    return {"data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def question(start: Any = 8, text: Any = "Bob in Rome", **more: Any) -> dict[str, Any]:
    return {"id": "a", "question": "Whom?", "answers": [{"text": text, "answer_start": start}], **more}


def read(folder: Path, name: str, content: str | bytes, **section: Any) -> Table:
    """The rows and faults of one file."""
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    form = section.pop("format", name.removesuffix(".gz").rsplit(".", maxsplit=1)[-1])
    source = Source(uri=name, format="squad" if form == "json" else form, **section)
    return rows.from_source(sources.read(source, folder, rows.COLUMNS), name)


def refused(call: Callable[[], Any]) -> Fault:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value.faults[0]


def only(result: Table) -> Fault:
    """The single fault of a reading that left its row out."""
    table, faults = result
    assert table.num_rows == 0
    (fault,) = faults
    assert fault.remedy
    return fault


# One content in every form


def in_every_form(folder: Path) -> dict[str, Table]:
    lists = {"text": ["Bob in Rome"], "answer_start": [8]}
    flat = pa.Table.from_pylist([ROW])
    pq.write_table(flat, folder / "flat.parquet")
    nested = pa.Table.from_pylist([{**{k: ROW[k] for k in ("id", "title", "context", "question")}, "answers": lists}])
    pq.write_table(nested, folder / "nested.parquet")
    hub_form = {"id": "a", "title": "T", "context": CONTEXT, "question": "Whom?", "answers": lists}
    header, cells = ",".join(ROW), ",".join(str(value) for value in ROW.values())
    document = json.dumps({"version": "1.1", **squad(question())})
    return {
        "squad": read(folder, "a.json", document),
        "squad, packed": read(folder, "a.json.gz", gzip.compress(document.encode())),
        "squad with a byte order mark": read(folder, "bom.json", b"\xef\xbb\xbf" + document.encode()),
        "csv": read(folder, "a.csv", f"{header}\n{cells}\n"),
        "csv with a byte order mark": read(folder, "bom.csv", b"\xef\xbb\xbf" + f"{header}\r\n{cells}\r\n".encode()),
        "tsv": read(folder, "a.tsv", f"{header}\n{cells}\n".replace(",", "\t")),
        "jsonl, plain columns": read(folder, "a.jsonl", json.dumps(ROW)),
        "jsonl, the Hub's form": read(folder, "b.jsonl", json.dumps(hub_form) + "\n\n"),
        "parquet, plain columns": read(folder, "flat.parquet", (folder / "flat.parquet").read_bytes()),
        "parquet, the Hub's form": read(folder, "nested.parquet", (folder / "nested.parquet").read_bytes()),
    }


def test_every_form_of_one_row_gives_the_same_row(tmp_path: Path) -> None:
    expected = {
        "id": "a",
        "group": "T",
        "split": None,
        "parent": None,
        "title": "T",
        "context": CONTEXT,
        "question": "Whom?",
        "answer_start": [8],
        "answer_text": ["Bob in Rome"],
    }
    for form, (table, faults) in in_every_form(tmp_path).items():
        found = table.drop_columns("place")
        assert (form, found.to_pylist(), faults) == (form, [expected], [])
        assert found.schema == rows.SCHEMA


WORDS = ("NA", "null", "None", "01", "nan", "true", "1e5", "2020-01-01")


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_text_that_looks_like_nothing_or_a_number_stays_text(tmp_path: Path, form: str) -> None:
    records = [{"context": f"{word} x {n}", "question": word, "answer": word} for n, word in enumerate(WORDS)]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
        content: str | bytes = (tmp_path / "a.parquet").read_bytes()
    elif form == "jsonl":
        content = "\n".join(json.dumps(record) for record in records)
    elif form == "json":
        paragraphs = [
            {"context": r["context"], "qas": [{"question": r["question"], "answers": [{"text": r["answer"]}]}]}
            for r in records
        ]
        content = json.dumps({"data": [{"paragraphs": paragraphs}]})
    else:
        mark = "," if form == "csv" else "\t"
        content = "\n".join([mark.join(records[0]), *(mark.join(record.values()) for record in records)])
    table, faults = read(tmp_path, f"a.{form}", content)
    assert faults == []
    assert table.column("question").to_pylist() == list(WORDS)
    assert table.column("answer_text").to_pylist() == [[word] for word in WORDS]


def test_columns_are_mapped_by_name(tmp_path: Path) -> None:
    content = "passage,query,span\nAnn met Bob.,Whom?,Bob\n"
    columns = {"context": "passage", "question": "query", "answer": "span"}
    table, _ = read(tmp_path, "a.csv", content, columns=columns)
    assert table.select(["context", "question", "answer_start"]).to_pylist() == [
        {"context": "Ann met Bob.", "question": "Whom?", "answer_start": [8]}
    ]


def test_columns_can_change_places(tmp_path: Path) -> None:
    content = "context,question,answer\nWhom?,Ann met Bob.,Bob\n"
    table, _ = read(tmp_path, "a.csv", content, columns={"context": "question", "question": "context"})
    assert table.column("context").to_pylist() == ["Ann met Bob."]


def test_a_file_without_a_header_has_its_names_from_params_yaml(tmp_path: Path) -> None:
    names = ["id", "context", "question", "answer", "more"]
    found, faults = read(tmp_path, "a.csv", "1,Bob in Rome,Who?,Bob,x\n2,Ann,Who?,Ann,y\n", header=names)
    assert (found.column("id").to_pylist(), faults) == (["1", "2"], [])
    fault = refused(lambda: read(tmp_path, "b.csv", "1,Bob in Rome\n", header=names))
    assert (fault.row, fault.reason) == ("line 1", "the record has 2 cells, the header 5")
    fault = refused(lambda: read(tmp_path, "c.csv", "1,2\n", header=["id", "id"]))
    assert (fault.row, fault.reason) == ("", "the header names 'id' twice (columns 1 and 2)")


def test_a_quote_is_text_in_tsv_and_where_a_source_says_so(tmp_path: Path) -> None:
    content = 'id\tcontext\tquestion\tanswer\n1\t"Bob" in Rome\t"Who?\tRome\n'
    found, faults = read(tmp_path, "a.tsv", content)
    assert read(tmp_path, "a.csv", content.replace("\t", ","), quoted=False) == (found, faults)
    assert (found.column("context").to_pylist(), found.column("question").to_pylist()) == (['"Bob" in Rome'], ['"Who?'])
    assert faults == []
    assert "source.quoted: false" in refused(lambda: read(tmp_path, "b.tsv", content, quoted=True)).remedy
    for more in ({"header": ["a"]}, {"quoted": False}, {"delimiter": ";"}):
        with pytest.raises(ValidationError, match="are for csv and tsv"):
            Source(uri="a.jsonl", format="jsonl", **more)  # type: ignore[arg-type]


def test_texts_of_several_columns_are_joined(tmp_path: Path) -> None:
    """In every form; where one of them has no text, the row has none."""
    columns = {"text": ["word", "sentence1"], "text_b": "sentence2"}
    sentences = {"sentence1": ["By the bank.", "b"], "sentence2": ["A bank fails.", "c"]}
    table = pa.table({"word": ["bank", None], **sentences, "label": ["0", "1"]})
    pq.write_table(table.set_column(0, "word", table["word"].dictionary_encode()), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    for form in ("parquet", "jsonl"):
        source = Source(uri=f"a.{form}", format=form, columns=columns)  # type: ignore[arg-type]
        found = sources.read(source, tmp_path, classification.COLUMNS)
        assert found["text"].to_pylist() == ["bank: By the bank.", None]
        _, faults = classification.from_source(found, f"a.{form}")
        assert [(fault.field, fault.row) for fault in faults] == [("text", found["place"][1].as_py())]


def test_columns_are_joined_only_where_each_is_there_and_a_text_is_wanted(tmp_path: Path) -> None:
    content = "word,question,answer\na,b,a\n"
    missing = refused(lambda: read(tmp_path, "a.csv", content, columns={"context": ["word", "sentense"]}))
    assert (missing.reason, missing.field) == ("there is no column 'sentense'", "source.columns.context")
    starts = {"answer_start": ["word", "answer"]}
    numbers = refused(lambda: read(tmp_path, "a.csv", content, columns=starts))
    assert (numbers.file, numbers.reason) == ("params.yaml", "columns are joined where a text is wanted")


def test_files_of_a_folder_become_the_declared_splits(tmp_path: Path) -> None:
    header = "id,context,question,answer\n"
    (tmp_path / "tr.csv").write_text(header + "1,Ann met Bob.,Whom?,Bob\n2,Ann met Bob.,Who?,Ann\n")
    (tmp_path / "dev.csv").write_text(header + "3,Cid sat.,Who?,\n")
    source = Source(uri=".", format="csv", splits={"train": "tr.csv", "validation": "dev.csv"})
    table, faults = rows.from_source(sources.read(source, tmp_path, rows.COLUMNS), ".")
    assert table.column("split").to_pylist() == ["train", "train"]
    assert [fault.row for fault in faults] == ["dev.csv, line 2"]


def test_a_folder_without_declared_splits_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name, id_ in (("b", "2"), ("a", "1")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**ROW, "id": id_}))
    table = sources.read(Source(uri=".", format="jsonl"), tmp_path, rows.COLUMNS)
    assert table.column("id").to_pylist() == ["1", "2"]


@pytest.mark.parametrize(("what", "reason"), [("folder", "it is a folder"), ("link", "it is a link to nothing")])
def test_what_is_no_file_among_those_of_a_folder_is_named(tmp_path: Path, what: str, reason: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    if what == "folder":
        (tmp_path / "b.jsonl").mkdir()
    else:
        (tmp_path / "b.jsonl").symlink_to("gone.jsonl")
    fault = refused(lambda: sources.read(Source(uri=".", format="jsonl"), tmp_path, rows.COLUMNS))
    assert (fault.file, fault.reason) == ("b.jsonl", reason)


def test_a_column_may_declare_the_split_of_each_row(tmp_path: Path) -> None:
    lines = [json.dumps({**ROW, "id": name, "split": name}) for name in ("train", "validation", "test", "dev")]
    table, faults = read(tmp_path, "a.jsonl", "\n".join(lines))
    assert table.column("split").to_pylist() == ["train", "validation", "test"]
    assert [(fault.row, fault.field) for fault in faults] == [("line 4", "split")]


def test_places_are_the_lines_of_the_file(tmp_path: Path) -> None:
    content = 'context,question,answer\n"Ann\nmet\nBob.",Whom?,Bob\n\nAnn met Bob.,,Bob\n'
    _, faults = read(tmp_path, "a.csv", content)
    assert [(fault.row, fault.field) for fault in faults] == [("line 6", "question")]


def test_a_cell_may_be_longer_than_pythons_reader_allows_by_default(tmp_path: Path) -> None:
    context = "Ann met Bob." + " And so on." * 20_000
    table, faults = read(tmp_path, "a.csv", f"context,question,answer\n{context},Whom?,Bob\n")
    assert (table.column("context").to_pylist(), faults) == ([context], [])


# Cells, quotes and delimiters as people have them


def labelled(path: Path, content: str, **source: Any) -> Table:
    """The rows and faults of a file of texts with a label each."""
    path.write_bytes(content.encode())
    form = path.suffix.removeprefix(".")
    table = sources.read(Source(uri=path.name, format=form, **source), path.parent, classification.COLUMNS)  # type: ignore[arg-type]
    return classification.from_source(table, path.name)


PROSE = 'text,label\n"Dear Ann,\nthanks, I come\n\nBob",ham\n"Hello,\nyou",spam\n' + "x,ham\ny,spam\n" * 9


@pytest.mark.parametrize("last", [5, 6, 7, 120])
@pytest.mark.parametrize(("form", "mark"), [("csv", ","), ("tsv", "\t"), ("csv", ";")])
def test_a_cell_that_swallows_records_is_refused_with_both_lines(
    tmp_path: Path, form: str, mark: str, last: int
) -> None:
    quotes = {4: ('"', ""), last: ("", '"')}
    texts = [f"Sold lot {n}.".join(quotes.get(n, ("", ""))) for n in range(200)]
    lines = [f"{text}{mark}{('even', 'odd')[n % 2]}" for n, text in enumerate(texts)]
    content = "\n".join([f"text{mark}label", *lines])
    fault = refused(lambda: labelled(tmp_path / f"a.{form}", content, quoted=True))
    assert (fault.row, fault.field) == ("line 6", "text")
    assert fault.reason == f"a quote opens here and closes on line {last + 2}, and the lines between are records"
    assert "source.quoted: false" in fault.remedy
    found, faults = labelled(tmp_path / f"b.{form}", content, quoted=False)
    assert (found.num_rows, faults) == (200, [])


def test_a_header_may_not_swallow_records_either(tmp_path: Path) -> None:
    fault = refused(lambda: labelled(tmp_path / "a.csv", '"text,label\na b,x\nc d,y\ne f",x\ng,y\n'))
    assert (fault.row, "closes on line 4" in fault.reason) == ("line 1", True)


def test_a_text_of_several_lines_is_one_cell_though_it_has_commas(tmp_path: Path) -> None:
    found, faults = labelled(tmp_path / "a.csv", PROSE)
    assert (found.num_rows, faults) == (20, [])
    assert found["text"].to_pylist()[:2] == ["Dear Ann,\nthanks, I come\n\nBob", "Hello,\nyou"]
    for text in ("It cost 1,000 each\nor more", "你好,世界\n再见,朋友\n完", "a,b\nc,d"):
        content = PROSE + f'"{text}",ham\n'
        assert labelled(tmp_path / "b.csv", content)[0]["text"].to_pylist()[-1] == text
    excel = "text,label\r\n" + '"a,ham\nb,ham\nc",ham\r\n' * 2  # a break that ends no record
    assert labelled(tmp_path / "c.csv", excel)[0].num_rows == 2


@pytest.mark.parametrize("form", ["csv", "tsv"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_plain_delimiter_is_found_out(tmp_path: Path, form: str, mark: str) -> None:
    content = f"text{mark}label\nHello there{mark}x\nGood, bye.{mark}y\n"
    content = content.replace("Good, bye.", '"Good, bye."') if mark == "," and form == "csv" else content
    content = content.replace("Good, bye.", "Bye.") if mark == "," and form == "tsv" else content
    found, faults = labelled(tmp_path / f"a.{form}", content)
    assert (found["label"].to_pylist(), faults) == (["x", "y"], [])
    content = f'"text"{mark}"label"\n"Hello{mark} there"{mark}"x"\n'
    assert labelled(tmp_path / f"b.{form}", content, quoted=True)[0]["label"].to_pylist() == ["x"]


def test_a_delimiter_that_is_not_plain_is_named_by_the_setting(tmp_path: Path) -> None:
    content = "text;label\na;b;x\nc;y\n"
    fault = refused(lambda: labelled(tmp_path / "a.csv", content))
    assert (fault.field, 'source.delimiter: ";"' in fault.remedy) == ("source.delimiter", True)
    fault = refused(lambda: labelled(tmp_path / "a.csv", content, delimiter=";"))
    assert (fault.row, fault.reason) == ("line 2", "the record has 3 cells, the header 2")
    found, _ = labelled(tmp_path / "a.csv", "text:label\na:x\n", delimiter=":")
    assert found["label"].to_pylist() == ["x"]
    found, _ = labelled(tmp_path / "a.csv", "a;x\nb;y\n", header=["text", "label"])
    assert found["label"].to_pylist() == ["x", "y"]
    for wrong in ("||", "a", '"', "\n", ""):
        with pytest.raises(ValidationError, match="one character"):
            Source(uri="a.csv", format="csv", delimiter=wrong)


def test_a_file_of_one_column_keeps_what_looks_like_a_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\none; two\nthree | four; five\n")
    table = sources.read(Source(uri="a.csv", format="csv"), tmp_path, {"text": (pa.string(),)})
    assert table["text"].to_pylist() == ["one; two", "three | four; five"]


def test_an_empty_file_among_others_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    (tmp_path / "b.csv").write_text("v2,v1\nhello,ham\n")
    source = Source(uri=".", format="csv", columns={"text": "v2", "label": "v1"})
    assert sources.read(source, tmp_path, classification.COLUMNS)["text"].to_pylist() == ["hello"]
    alone = source.model_copy(update={"uri": "a.csv"})
    assert refused(lambda: sources.read(alone, tmp_path, classification.COLUMNS)).reason == "holds no rows"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "more", "place"),
    [
        (["text,label", "a,x", "", "b,y"], {}, 4),
        (["text,label,,,", "a,x,,,", "b,y", ",,,,"], {}, 3),  # as Excel leaves them
        (["text,label", "a,x,,", "b,y,,"], {}, 3),
        ([",text,label", "0,a,x", "1,b,y"], {}, 3),  # an index, as pandas writes it
        (["sep=;", "text;label", "a;x", "b;y"], {}, 4),
        (["text,label", "a,x", "b,y"], {"header": ["text", "label"]}, 3),
        (["Text , LABEL", "a,x", "b,y"], {"header": ["text", "label"]}, 3),
    ],
)
def test_files_as_spreadsheets_save_them_are_read(
    tmp_path: Path, lines: list[str], more: dict[str, Any], place: int, end: str
) -> None:
    found, faults = labelled(tmp_path / "a.csv", end.join([*lines, ""]), **more)
    assert (found["text"].to_pylist(), found["label"].to_pylist(), faults) == (["a", "b"], ["x", "y"], [])
    assert found["place"].to_pylist()[-1] == f"line {place}"


def test_a_column_without_a_name_is_named_by_its_position(tmp_path: Path) -> None:
    found, (fault,) = labelled(tmp_path / "a.csv", "label,text,,\nx,a,,\ny,b,rest of it,\n")
    assert (found["text"].to_pylist(), fault.row, fault.field) == (["a"], "line 3", "column 3")
    assert "the header has no name for the column" in fault.reason
    fault = refused(lambda: labelled(tmp_path / "b.csv", ",label,body\n0,x,a\n"))
    assert "column 1 (without a name), label, body" in fault.remedy


def test_a_header_in_another_order_than_the_setting_is_refused(tmp_path: Path) -> None:
    fault = refused(lambda: labelled(tmp_path / "a.csv", "label,text\nx,a\n", header=["text", "label"]))
    assert (fault.row, fault.field) == ("line 1", "source.header")
    fault = refused(lambda: labelled(tmp_path / "a.csv", "sentence,Label\na,x\n", header=["text", "label"]))
    assert (fault.row, fault.field) == ("line 1", "source.header")
    own = {"header": ["spam", "text"], "columns": {"label": "spam"}}  # a class may have its column's name
    assert labelled(tmp_path / "a.csv", "spam,a\nham,b\n", **own)[0]["label"].to_pylist() == ["spam", "ham"]
    quoted = refused(lambda: labelled(tmp_path / "a.tsv", '"text"\t"label"\n"a"\t"x"\n'))
    assert (quoted.field, quoted.remedy) == ("source.quoted", "Write `source.quoted: true`.")


# Wrong files


@pytest.mark.parametrize(
    ("content", "row", "reason"),
    [
        ('{"data": [}', "line 1, column 11", "not JSON: Expecting value"),
        ('{"data":\n [1 2]}', "line 2, column 5", "not JSON: Expecting ',' delimiter"),
        ('{"data": [\0]}', "line 1, column 11", "not JSON: a NUL character"),
        ('{"data": [],\n"x": {"b": 1, "b": 2}}', "line 2, column 6", "the key 'b' stands twice in one object"),
        ('{"data": [{"x": NaN}]}', "line 1, column 11", "NaN is not JSON"),
        ('{"data": [{"x": -Infinity}]}', "line 1, column 11", "-Infinity is not JSON"),
        ('{"data": ' + "[" * 100_000, "line 1", "nested too deeply to be read"),
        ('{"data": ' + "1" * 5_000 + "}", "line 1", "not readable JSON"),
        ("", "line 1, column 1", "not JSON: Expecting value"),
        ("[]", "", "here stands a list, not an object"),
        ("{}", "", "there is no 'data'"),
        ('{"data": {}}', "", "'data' is an object, not a list"),
        ('{"data": [5]}', "data[0]", "here stands a number, not an object"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "data[0].paragraphs[0]", "there is no 'context'"),
        ('{"data": [{"paragraphs": [{"context": 5, "qas": []}]}]}', "data[0].paragraphs[0]", "'context' is a number"),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [null]}]}]}',
            "data[0].paragraphs[0].qas[0]",
            "here stands",
        ),
        ('{"data": []}', "", "holds no rows"),
    ],
)
def test_a_file_that_is_not_squad_json_is_refused_by_place(tmp_path: Path, content: str, row: str, reason: str) -> None:
    fault = refused(lambda: read(tmp_path, "a.json", content))
    assert (fault.file, fault.row) == ("a.json", row)
    assert fault.reason.startswith(reason)


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.tsv", "a.jsonl"])
def test_a_byte_that_is_not_utf_8_is_named_by_position(tmp_path: Path, name: str) -> None:
    fault = refused(lambda: read(tmp_path, name, b'{"a"\n: "caf\xe9"}'))
    assert (fault.row, fault.reason) == ("line 2", "not UTF-8 at byte 11 (0xe9)")


def test_utf_16_is_recognized(tmp_path: Path) -> None:
    fault = refused(lambda: read(tmp_path, "a.csv", "context,question\n".encode("utf-16")))
    assert "UTF-16" in fault.reason
    assert fault.remedy == "Save the file as UTF-8."


def test_a_gzip_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(squad(question())).encode())
    assert refused(lambda: read(tmp_path, "a.json.gz", packed[:-12])).reason == "the gzip file is cut off"
    assert refused(lambda: read(tmp_path, "b.json.gz", b"{}")).reason == "not a whole gzip file"


def zipped(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_gzip_and_zip_files_are_read_under_any_name(tmp_path: Path) -> None:
    content = f"{','.join(ROW)}\n{','.join(map(str, ROW.values()))}\n".encode()
    expected, _ = read(tmp_path, "a.csv", content)
    members = {"a.csv": content, "__MACOSX/._a.csv": b"x", "folder/": b""}
    for packed in (gzip.compress(content), zipped(**{"a.csv": content}), zipped(**members)):
        table, faults = read(tmp_path, "b.csv", packed)
        assert (table, faults) == (expected, [])
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    assert read(tmp_path, "b.parquet", gzip.compress(whole)) == read(tmp_path, "a.parquet", whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped(**{"a.csv": b"x", "b.csv": b"y"}), "the zip file holds 2 files ('a.csv', 'b.csv')"),
        (zipped(**{".DS_Store": b"x"}), "the zip file is empty"),
        (zipped(**{"a.csv": b"x" * 99})[:-30], "not a whole zip file (File is not a zip file)"),
        (zipped(**{"[Content_Types].xml": b"", "xl/a.xml": b""}), "it is an Office file (a workbook of Excel, say)"),
        (bz2.compress(b"x"), "it is a bzip2 file"),
        (lzma.compress(b"x"), "it is an xz file"),
        (b"\x28\xb5\x2f\xfd....", "it is a Zstandard file"),
        (b"PAR1....PAR1", "it is a Parquet file, not text"),
        (gzip.compress(b"PAR1....PAR1"), "it is a Parquet file, not text"),
        ("context,question\n".encode("utf-16-le"), "not UTF-8: every other byte is 0, as in UTF-16"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",  # packed bytes hold the time
)
def test_a_file_of_another_form_is_named_for_what_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.json"):
        fault = refused(lambda name=name: read(tmp_path, name, content))  # type: ignore[misc]
        assert (fault.file, fault.reason[: len(reason)]) == (name, reason)
        assert fault.remedy


def test_hidden_files_of_a_folder_are_passed_over(tmp_path: Path) -> None:
    for name in (".DS_Store", "._a.csv", "~$a.csv", "Thumbs.db", ".hidden.csv"):
        (tmp_path / name).write_bytes(b"\0\1\2")
    for name in ("a.csv", "B.CSV"):
        (tmp_path / name).write_text("context,question,answer\nAnn.,Who?,Ann\n")
    table = sources.read(Source(uri=".", format="csv"), tmp_path, rows.COLUMNS)
    assert table["place"].to_pylist() == ["B.CSV, line 2", "a.csv, line 2"]


def test_a_parquet_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()[:-5]
    assert refused(lambda: read(tmp_path, "a.parquet", content)).reason.startswith("not a whole Parquet file")


def test_a_column_of_parquet_that_is_there_twice_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW])
    pq.write_table(table.append_column("question", table["question"]), tmp_path / "twice.parquet")
    fault = refused(lambda: read(tmp_path, "a.parquet", (tmp_path / "twice.parquet").read_bytes()))
    assert (fault.field, fault.reason) == ("question", "2 columns are called 'question'")


@pytest.mark.parametrize(
    ("content", "row", "reason"),
    [
        ("context,question,answer\na,b,c\na,b\n", "line 3", "the record has 2 cells, the header 3"),
        (
            'context,question,answer\na,b,c\na,"b,c\nd,e,f\n',
            "line 3",
            "a quote opens here and is never closed (the file ends on line 4)",
        ),
        (
            'context,question,answer\n"a,b,c\na,"b",c\n',
            "line 2",
            "a quote closes within a cell on line 3 (',' expected after '\"')",
        ),
        ("context;question;answer\na;b;c\nd;e\n", "line 1", "the header is one cell, which holds a semicolon"),
        ("context,context,answer\na,b,c\n", "line 1", "the header names 'context' twice (columns 1 and 2)"),
        ("context,question,answer\n", "", "holds no rows"),
        ("", "", "holds no rows"),
    ],
)
def test_a_broken_csv_file_is_refused_by_line(tmp_path: Path, content: str, row: str, reason: str) -> None:
    fault = refused(lambda: read(tmp_path, "a.csv", content))
    assert (fault.row, fault.reason) == (row, reason)


def test_a_repeated_name_among_very_many_is_found_in_linear_time(tmp_path: Path) -> None:
    """Comparing each with each would be 10^9 steps."""
    names = [f"c{n}" for n in range(50_000)]
    fault = refused(lambda: read(tmp_path, "a.csv", ",".join([*names, names[-1]]) + "\n"))
    assert fault.reason == "the header names 'c49999' twice (columns 50000 and 50001)"
    keys = ", ".join(f'"{name}": 0' for name in [*names, names[-1]])
    fault = refused(lambda: read(tmp_path, "a.jsonl", f"{{{keys}}}"))
    assert fault.reason.startswith("the key 'c49999' stands twice")
    fault = refused(lambda: read(tmp_path, "b.csv", ",".join(names) + "\n" + ",".join(names) + "\n"))
    assert (fault.reason, len(fault.remedy) < 1_000) == ("there is no column 'context'", True)


@pytest.mark.parametrize(
    ("content", "row", "reason"),
    [
        ('{"context": "a"}\n{"context": }', "line 2, column 13", "not JSON: Expecting value"),
        ('{"context": "a"}\n[]', "line 2", "the line is not an object"),
        ('{"context": "a"}\n{"a": 1, "a": 2}', "line 2, column 1", "the key 'a' stands twice"),
        ('{"context": "a", "n": NaN}', "line 1, column 1", "NaN is not JSON"),
        ("\n\n", "", "holds no rows"),
    ],
)
def test_a_broken_json_lines_file_is_refused_by_line(tmp_path: Path, content: str, row: str, reason: str) -> None:
    fault = refused(lambda: read(tmp_path, "a.jsonl", content))
    assert fault.row == row
    assert fault.reason.startswith(reason)


def test_a_missing_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    fault = refused(lambda: read(tmp_path, "a.csv", "contxt,question,answer\na,b,a\n"))
    assert fault.reason == "there is no column 'context'"
    assert fault.remedy.startswith("Did you mean `contxt`?")
    fault = refused(lambda: read(tmp_path, "b.jsonl", '{"context": "a", "question": "b", "anwsers": []}'))
    assert fault.remedy.startswith("Did you mean `anwsers`?")


def test_a_mapping_to_or_from_an_unknown_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    content = "passage,question,answer\na,b,a\n"
    to = refused(lambda: read(tmp_path, "a.csv", content, columns={"context": "pasage"}))
    assert (to.reason, to.remedy) == ("there is no column 'pasage'", "Did you mean `passage`?")
    of = refused(lambda: read(tmp_path, "a.csv", content, columns={"contxt": "passage"}))
    assert (of.file, of.field, of.remedy) == ("params.yaml", "source.columns.contxt", "Did you mean `context`?")


def test_a_missing_file_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("x")
    fault = refused(lambda: sources.read(Source(uri="trian.csv", format="csv"), tmp_path, rows.COLUMNS))
    assert (fault.file, fault.remedy) == ("trian.csv", "Did you mean `train.csv`?")


def test_an_address_is_not_taken_for_a_file(tmp_path: Path) -> None:
    fault = refused(lambda: sources.read(Source(uri="https://x.org/a.csv", format="csv"), tmp_path, rows.COLUMNS))
    assert fault.remedy.startswith("Download it")


def test_a_column_of_numbers_is_not_taken_for_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"context": [1], "question": ["q"], "answer": ["a"]}), tmp_path / "n.parquet")
    fault = refused(lambda: read(tmp_path, "n.parquet", (tmp_path / "n.parquet").read_bytes()))
    assert (fault.field, fault.reason) == ("context", "the column holds a whole number, not text")


# Wrong rows


@pytest.mark.parametrize(
    ("asked", "field", "reason", "remedy"),
    [
        (
            question(9),
            "answer_start",
            "answer_start 9 fits when counted in characters from 1",
            "Count characters: here it is 8.",
        ),
        (question(0, "Bob"), "answer_start", "the answer does not stand at answer_start 0", "occurs more than once"),
        (question(-3), "answer_start", "answer_start -3 is negative", "Count characters from 0."),
        (question(10**12), "answer_start", "answer_start 1000000000000 lies past the end", "The answer stands at 8."),
        (question(25), "answer_start", "the answer does not stand at answer_start 25", "The answer stands at 8."),
        (question(8, "Cid"), "answer_start", "the answer is not in its context", "Mend the answer"),
        (question(None, "Cid"), "answer_start", "the answer is not in its context", "Mend the answer"),
        (question(None, "Bob"), "answer_start", "there is no answer_start, and the answer occurs more", "Give"),
        (question(8, " "), "answers", "an answer has no text", "Give the text"),
        (question(8, None), "answers", "an answer has no text", "Give the text"),
        (question("8"), "answers", "does not have the form [{text: text, answer_start: a whole number}, …]", "Mend"),
        (question(8.5), "answers", "does not have the form", "Mend"),
        (question(10**30), "answers", "does not have the form", "Mend"),
        (question(8, 5), "answers", "does not have the form", "Mend"),
        (question(question=" \u3000\t"), "question", "the question is empty", "Mend or remove"),
        (question(question=5), "question", "is a number, not text", "Mend"),
        (question(question=None), "question", "the question is empty", "Mend"),
        (question(question="a\0b"), "question", "the question holds a NUL character", "Mend"),
        (question(question="a\ud83d"), "question", "holds half of a surrogate pair (\\ud83d)", "Mend"),
        (question(id=["a"]), "id", "is a list, not text", "Mend"),
        (question(answers=[]), "answers", "there is no answer, and nothing says", "Give an answer"),
        (question(answers=None), "answers", "there is no answer, and nothing says", "Give an answer"),
        (question(is_impossible=True), "answers", "answers are given, but is_impossible", "Remove the answers"),
        (question(is_impossible="no"), "is_impossible", "is text, not true or false", "Mend"),
        (question(answers=[], is_impossible=False), "answers", "there is no answer, and nothing says", "Give"),
    ],
)
def test_a_row_error_names_place_field_reason_and_remedy(
    tmp_path: Path, asked: dict[str, Any], field: str, reason: str, remedy: str
) -> None:
    fault = only(read(tmp_path, "a.json", json.dumps(squad(asked))))
    assert (fault.file, fault.row, fault.field) == ("a.json", "data[0].paragraphs[0].qas[0]", field)
    assert fault.reason.startswith(reason)
    assert remedy in fault.remedy


@pytest.mark.parametrize("context", ["", " \n "])
def test_an_empty_context_is_a_row_error(tmp_path: Path, context: str) -> None:
    fault = only(read(tmp_path, "a.json", json.dumps(squad(question(), context=context))))
    assert (fault.field, fault.reason) == ("context", "the context is empty")


@pytest.mark.parametrize(
    ("unit", "start"), [("UTF-16 units", len("😀 Ann met ") + 1), ("UTF-8 bytes", len("😀 Ann met ".encode()))]
)
def test_an_offset_counted_in_other_units_past_an_emoji_is_recognized(tmp_path: Path, unit: str, start: int) -> None:
    fault = only(read(tmp_path, "a.json", json.dumps(squad(question(start, "Bob"), context="😀 Ann met Bob."))))
    assert fault.reason == f"answer_start {start} fits when counted in {unit}"
    assert fault.remedy == "Count characters: here it is 10."


def test_a_message_never_repeats_the_text_of_a_row(tmp_path: Path) -> None:
    secret = "Ann lives at 5 Elm Road."
    asked = [question(3, "Elm Road", id="1"), question(3, "Oak Road", id="2"), question(id="3", question=secret + "\0")]
    _, faults = read(tmp_path, "a.json", json.dumps(squad(*asked, context=secret)))
    assert len(faults) == 3
    assert not any(word in str(fault) for fault in faults for word in ("Ann", "Elm", "Oak"))


def test_of_rows_with_one_id_the_first_stays_and_the_other_names_both_places(tmp_path: Path) -> None:
    lines = [json.dumps({**ROW, "id": id_}) for id_ in ("x", "y", "x")]
    table, faults = read(tmp_path, "a.jsonl", "\n".join(lines))
    assert table.column("id").to_pylist() == ["x", "y"]
    assert [(fault.row, fault.id, fault.reason) for fault in faults] == [
        ("line 3", "x", "the id is already that of line 1")
    ]


def test_a_bad_row_leaves_the_others_in(tmp_path: Path) -> None:
    asked = [question(id="1"), question(9, id="2"), question(id="3")]
    table, faults = read(tmp_path, "a.json", json.dumps(squad(*asked)))
    assert table.column("id").to_pylist() == ["1", "3"]
    assert [fault.id for fault in faults] == ["2"]


def test_wrong_cells_of_a_csv_file_are_row_errors(tmp_path: Path) -> None:
    header = "context,question,answer,answer_start,is_impossible\n"
    lines = [
        "Ann.,Who?,Ann,zero,",
        "Ann.,Who?,Ann,0,perhaps",
        "Ann.,Who?,,,TRUE",
        "Ann.,Who?,,,",
        "Ann.,Who?,Ann, 0 ,no",
    ]
    table, faults = read(tmp_path, "a.csv", header + "\n".join(lines))
    assert table.column("answer_text").to_pylist() == [[], ["Ann"]]
    assert [(fault.row, fault.field) for fault in faults] == [
        ("line 2", "answer_start"),
        ("line 3", "is_impossible"),
        ("line 5", "answers"),
    ]


STARTS = (8.0, 8.5, float("nan"), float("inf"), None)
NOT_WHOLE = ("is a number with a fraction, not a whole number", "is NaN or infinity, not a whole number")


def test_a_whole_float_is_a_whole_number_and_no_other(tmp_path: Path) -> None:
    plain = {"context": CONTEXT, "answer": "Bob in Rome"}
    records = [{**plain, "question": str(n), "answer_start": start} for n, start in enumerate(STARTS)]
    lines = [
        f"{CONTEXT},{r['question']},Bob in Rome,{'' if r['answer_start'] is None else r['answer_start']}"
        for r in records
    ]
    table, faults = read(tmp_path, "a.csv", "\n".join(["context,question,answer,answer_start", *lines]))
    assert table["answer_start"].to_pylist() == [[8], [8]]
    assert [fault.reason for fault in faults] == ["is not a whole number", NOT_WHOLE[1], NOT_WHOLE[1]]
    written = json.dumps(records[3]).replace("Infinity", "1e999")
    jsonl = "\n".join([*(json.dumps(records[n]) for n in (0, 1, 4)), written])
    table, faults = read(tmp_path, "a.jsonl", jsonl)
    assert table["answer_start"].to_pylist() == [[8], [8]]
    assert [(fault.row, fault.reason) for fault in faults] == [("line 2", NOT_WHOLE[0]), ("line 4", NOT_WHOLE[1])]
    for kind in (pa.float64(), pa.float32()):
        for taken in ([0, 4], [4, 0, 1], [0, 2], [0, 3]):
            chosen = pa.Table.from_pylist([records[n] for n in taken])
            starts = chosen["answer_start"].cast(kind)
            pq.write_table(chosen.set_column(3, "answer_start", starts), tmp_path / "a.parquet")
            content = (tmp_path / "a.parquet").read_bytes()
            if taken == [0, 4]:
                assert read(tmp_path, "a.parquet", content)[0]["answer_start"].to_pylist() == [[8], [8]]
            else:
                fault = refused(lambda content=content: read(tmp_path, "a.parquet", content))  # type: ignore[misc]
                found = (fault.row, fault.field, fault.reason)
                assert found == (f"row {len(taken)}", "answer_start", NOT_WHOLE[taken[-1] != 1])


def test_texts_and_starts_of_different_number_are_a_row_error(tmp_path: Path) -> None:
    record = {"context": CONTEXT, "question": "q", "answers": {"text": ["Ann", "Bob"], "answer_start": [0]}}
    fault = only(read(tmp_path, "a.jsonl", json.dumps(record)))
    assert fault.reason == "text and answer_start differ in length"


# What rows are


def test_empty_lists_of_answers_mean_unanswerable_where_nothing_else_is_said(tmp_path: Path) -> None:
    record = {"context": CONTEXT, "question": "q", "answers": {"text": [], "answer_start": []}}
    table, faults = read(tmp_path, "a.jsonl", json.dumps(record))
    assert faults == []
    assert rows.stratum(table).to_pylist() == ["unanswerable"]


def test_rows_of_one_context_stand_together(tmp_path: Path) -> None:
    contexts = ["One is here.", "Two is here.", "One is here.", "Three is here.", "Two is here."]
    lines = [
        json.dumps({"id": str(n), "context": c, "question": "q", "answer": "here"}) for n, c in enumerate(contexts)
    ]
    table, _ = read(tmp_path, "a.jsonl", "\n\n".join(lines))
    assert table.column("id").to_pylist() == ["0", "2", "1", "4", "3"]
    assert table.column("place").to_pylist() == [f"line {line}" for line in (1, 5, 3, 9, 7)]


def test_one_context_in_two_paragraphs_is_one_group_even_without_a_title(tmp_path: Path) -> None:
    document = squad(question(id="1"))
    document["data"] += squad(question(id="2"))["data"]
    for article in document["data"]:
        del article["title"]
    table, faults = read(tmp_path, "a.json", json.dumps(document))
    assert faults == []
    assert table.column("group")[0] == table.column("group")[1]


def test_a_missing_id_is_a_hash_of_the_content(tmp_path: Path) -> None:
    records = [{"context": CONTEXT, "question": q, "answer": "Ann"} for q in ("Who?", "Whom?", "Who?")]
    first, _ = read(tmp_path, "a.jsonl", "\n".join(json.dumps(record) for record in records))
    again, _ = read(tmp_path, "b.jsonl", "\n".join(json.dumps(record) for record in reversed(records)))
    ids = first.column("id").to_pylist()
    assert len(set(ids)) == 3
    assert ids[2] == f"{ids[0]}-2"
    assert sorted(again.column("id").to_pylist()) == sorted(ids)


def test_numbers_serve_as_ids(tmp_path: Path) -> None:
    table, _ = read(tmp_path, "a.jsonl", json.dumps({**ROW, "id": 17}))
    assert table.column("id").to_pylist() == ["17"]


def test_questions_to_be_answered_need_no_answers(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(squad({"id": "a", "question": "Who?"})))
    table = sources.read(Source(uri="a.json", format="squad"), tmp_path, rows.COLUMNS)
    asked, faults = rows.from_source(table, "a.json", answered=False)
    assert (asked.num_rows, asked.column("answer_text").to_pylist(), faults) == (1, [[]], [])


TEXT = st.text(st.sampled_from("ab é😀\u0301字\n"), min_size=1, max_size=30)


@given(st.lists(st.tuples(TEXT, TEXT, st.integers(-3, 35)), min_size=1, max_size=30))
def test_a_span_stands_where_python_finds_it(cases: list[tuple[str, str, int]]) -> None:
    contexts = pa.array([context for context, _, _ in cases])
    texts = pa.array([text for _, text, _ in cases])
    starts = [start for _, _, start in cases]
    expected = [start >= 0 and context[start : start + len(text)] == text for context, text, start in cases]
    found = rows.stands(contexts, pa.array(range(len(cases))).to_numpy(), pa.array(starts).to_numpy(), texts)
    assert found.tolist() == expected


def test_categorical_columns_of_parquet_are_text(tmp_path):
    columns = {"context": [CONTEXT] * 2, "question": ["Whom?", "Who left?"], "answer": ["Bob in Rome", "Ann"]}
    pq.write_table(pa.table({k: pa.array(v).dictionary_encode() for k, v in columns.items()}), tmp_path / "t.parquet")
    table = sources.read(Source(uri="t.parquet", format="parquet"), tmp_path, rows.COLUMNS)
    found, faults = rows.from_source(table, "t.parquet")
    assert faults == []
    assert found["question"].to_pylist() == columns["question"]
    assert found["answer_start"].to_pylist() == [[8], [0]]


def test_a_key_written_twice_deep_down_is_refused_in_words(tmp_path):
    deep = "[" * 900 + '{"a": 1, "a": 2}' + "]" * 900
    (tmp_path / "deep.json").write_text(deep)
    with pytest.raises(InputError, match=r"deep\.json"):
        sources.read(Source(uri="deep.json", format="squad"), tmp_path, rows.COLUMNS)
