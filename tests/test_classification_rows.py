"""What a source may bring to classification, and what is said of each row that cannot be used."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from trainwright import sources
from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source
from trainwright.core.yaml_file import read_yaml
from trainwright.tasks.classification import rows
from trainwright.tasks.classification.params import IngestionGate

ROOT = Path(__file__).parent.parent


def read(path: Path, content: str, answered: bool = True, **source: object) -> tuple[pa.Table, list[Fault]]:
    path.write_text(content, encoding="utf-8")
    form = path.suffix.removeprefix(".")
    table = sources.read(Source.model_validate({"uri": path.name, "format": form, **source}), path.parent, rows.COLUMNS)
    return rows.from_source(table, path.name, answered)


def test_a_label_is_kept_as_it_is_written(tmp_path: Path) -> None:
    found, faults = read(tmp_path / "a.csv", "text,label\na,1\nb,01\nc,NA\nd, спам \ne,垃圾\n")
    assert faults == []
    assert found["label"].to_pylist() == ["1", "01", "NA", "спам", "垃圾"]
    assert found["text_b"].to_pylist() == [""] * 5


@pytest.mark.parametrize(("label", "expected"), [(3, "3"), (True, "true"), ("x", "x")])
def test_numbers_and_truth_values_of_json_are_labels_too(tmp_path: Path, label: object, expected: str) -> None:
    found, _ = read(tmp_path / "a.jsonl", json.dumps({"text": "a", "label": label}) + "\n")
    assert found["label"].to_pylist() == [expected]


def test_whole_numbers_are_one_label_however_they_are_written(tmp_path: Path) -> None:
    found, faults = read(tmp_path / "a.jsonl", '{"text": "a", "label": 1.0}\n{"text": "b", "label": 1}\n')
    assert (found["label"].to_pylist(), faults) == (["1", "1"], [])
    found, _ = read(tmp_path / "a.csv", "text,label\na,1.0\nb,1\nc,01\n")
    assert found["label"].to_pylist() == ["1", "1", "01"]
    found, _ = read(tmp_path / "b.jsonl", '{"text": "a", "labels": [1.0, 2]}\n')
    assert found["labels"].to_pylist() == [["1", "2"]]
    found, _ = read(tmp_path / "b.csv", "text,label\na,1.0\nb,1.1\n")  # versions, or marks
    assert found["label"].to_pylist() == ["1.0", "1.1"]
    for kind in (pa.float32(), pa.decimal128(3, 1)):
        pq.write_table(pa.table({"text": ["a"], "label": pa.array([1], kind)}), tmp_path / "a.parquet")
        table = sources.read(Source(uri="a.parquet", format="parquet"), tmp_path, rows.COLUMNS)
        assert rows.from_source(table, "a.parquet")[0]["label"].to_pylist() == ["1"]


def test_several_labels_come_as_a_list_or_parted_by_a_separator_and_are_the_same(tmp_path: Path) -> None:
    lists, _ = read(tmp_path / "a.jsonl", '{"text": "a", "labels": ["b", "a", "b"]}\n{"text": "c", "labels": []}\n')
    parted, _ = read(tmp_path / "a.csv", "text,labels\na, b ; a;b\nc,\n", separator=";")
    assert lists["labels"].to_pylist() == parted["labels"].to_pylist() == [["a", "b"], []]
    assert rows.stratum(lists).to_pylist() == ["a", "no label"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_columns_of_0_and_1_are_labels_by_their_names(tmp_path: Path, form: str) -> None:
    cells = {"toxic": [1, 0, 1], "rude": [1.0, 0.0, 0.0], "insult": [False, False, True]}
    table = pa.table({"text": ["a", "b", "c"], **cells})
    if form == "csv":
        (tmp_path / "a.csv").write_text("text,toxic,rude,insult\na,1,1.0,false\nb,0, 0 ,no\nc,1,0.0,True\n")
    elif form == "jsonl":
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        pq.write_table(table, tmp_path / "a.parquet")
    source = Source.model_validate({"uri": f"a.{form}", "format": form, "columns": {"labels": list(cells)}})
    found, faults = rows.from_source(sources.read(source, tmp_path, rows.COLUMNS), "a")
    assert (found["labels"].to_pylist(), faults) == ([["rude", "toxic"], [], ["insult", "toxic"]], [])


@pytest.mark.parametrize("cell", ["2", "-1", "", "x", "0.5"])
def test_a_cell_that_is_neither_0_nor_1_is_named_by_row_and_column(tmp_path: Path, cell: str) -> None:
    columns = {"labels": ["toxic", "rude"]}
    found, (fault,) = read(tmp_path / "a.csv", f"text,toxic,rude\na,0,1\nb,1,{cell}\n", columns=columns)
    assert found["labels"].to_pylist() == [["rude"]]
    assert (fault.row, fault.field, fault.reason) == ("line 3", "rude", "is neither 0 nor 1")
    with pytest.raises(InputError, match="columns of 0 and 1"):
        read(tmp_path / "b.csv", "text,toxic,rude\na,0,1\n")
    with pytest.raises(InputError, match="a label comes from one column"):
        read(tmp_path / "c.csv", "text,toxic,rude\na,0,1\n", columns={"label": ["toxic", "rude"]})


def test_labels_in_one_text_without_a_separator_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"source\.separator"):
        read(tmp_path / "a.csv", "text,labels\na,b;c\n")


def test_a_truth_value_is_no_number(tmp_path: Path) -> None:
    content = '{"text": "a", "value": 1.5}\n{"text": "b", "value": true}\n'
    found, (fault,) = read(tmp_path / "a.jsonl", content)
    assert (found["text"].to_pylist(), fault.row, fault.field) == (["a"], "line 2", "value")
    assert "is true or false, not a number" in fault.reason


def test_numbers_are_read_in_every_usual_form(tmp_path: Path) -> None:
    found, faults = read(tmp_path / "a.csv", "text,value\na,1\nb,-2.5\nc,1e3\nd, .5 \n")
    assert (found["value"].to_pylist(), faults) == ([1, -2.5, 1000, 0.5], [])
    pq.write_table(pa.table({"text": ["a"], "value": pa.array([1.5], pa.float32())}), tmp_path / "a.parquet")
    table = sources.read(Source(uri="a.parquet", format="parquet"), tmp_path, rows.COLUMNS)
    assert rows.from_source(table, "a.parquet")[0]["value"].to_pylist() == [1.5]


@pytest.mark.parametrize(
    ("header", "line", "field", "says"),
    [
        ("text,label", " ,x", "text", "the text is empty"),
        ("text,label", "a,", "label", "the label is missing"),
        ("text,label", "a\0b,x", "text", "NUL"),
        ("text,text_b,label", "a,,x", "text_b", "the text_b is empty"),
        ("text,value", "a,", "value", "the number is missing"),
        ("text,value", "a,many", "value", "is not a number"),
        ("text,value", 'a,"1,5"', "value", "is not a number"),
        ("text,value", "a,NaN", "value", "not a finite number"),
        ("text,value", "a,-inf", "value", "not a finite number"),
        ("text,value", "a,1e999", "value", "not a finite number"),
        ("text,label,split", "a,x,dev", "split", "there is no such split"),
        ("id,text,label", "r1,a,x", "id", "already that of line 2"),
    ],
)
def test_a_bad_row_is_left_out_with_its_place_field_and_reason(
    tmp_path: Path, header: str, line: str, field: str, says: str
) -> None:
    sound = {"id": "r1", "text": "good", "text_b": "too", "label": "x", "value": "2", "split": "train"}
    good = ",".join(sound[name] for name in header.split(","))
    found, (fault,) = read(tmp_path / "a.csv", f"{header}\n{good}\n{line}\n")
    assert (fault.file, fault.row, fault.field) == ("a.csv", "line 3", field)
    assert says in fault.reason
    assert fault.remedy
    assert found["text"].to_pylist() == ["good"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("sentence,label\na,x\n", "there is no column 'text'"),
        ("text,lable\na,x\n", "Did you mean `lable`"),
        ("text,label,value\na,x,1\n", "'label' and 'value'"),
    ],
)
def test_a_source_without_just_one_kind_of_label_is_refused(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path / "a.csv", content)


def test_rows_to_be_predicted_need_no_label(tmp_path: Path) -> None:
    found, faults = read(tmp_path / "a.csv", "text,value\na,1\nb,\n", answered=False)
    assert (found.num_rows, faults, found["value"].null_count) == (2, [], 2)
    with pytest.raises(InputError, match="there is no column 'text'"):
        read(tmp_path / "b.csv", "words\na\n", answered=False)


def test_rows_of_one_text_are_one_group_and_ids_come_of_the_content(tmp_path: Path) -> None:
    content = "text,text_b,label\na,b,x\na,c,y\nd,b,x\na,b,x\n"
    found, _ = read(tmp_path / "a.csv", content)
    groups = found["group"].to_pylist()
    assert groups[0] == groups[1] == groups[3] != groups[2]
    ids = found["id"].to_pylist()
    assert len(set(ids)) == 4
    assert ids[3] == f"{ids[0]}-2"
    assert read(tmp_path / "b.csv", content)[0].equals(found)


def test_the_recipe_on_the_sample_corpus_reads_one_of_sixteen_topics_for_each_passage() -> None:
    ((_, recipe),) = read_yaml(ROOT / "recipes" / "sample-topics.yaml").items()
    source = Source.model_validate(recipe["source"])
    found, faults = rows.from_source(sources.read(source, ROOT, rows.COLUMNS), source.uri)
    assert (found.num_rows, faults) == (128, [])
    first = found.slice(0, 1).to_pylist()[0]
    assert (first["id"], first["label"]) == ("Pantheon in Rome", "architecture")
    assert first["text"].startswith("Completed around AD 126")
    assert pc.value_counts(found["label"]).field("counts").to_pylist() == [8] * 16


UNSHOWN = ["a\x1bb", "a\0", "\x0ba", "a\nb", "a\x85", "a\u202eb", "a\u200b", "a\ufffe", "\uffff"]


@pytest.mark.parametrize("label", UNSHOWN)
@pytest.mark.parametrize("column", ["label", "labels"])
def test_a_label_with_a_hidden_character_is_refused_by_row_and_label(tmp_path: Path, label: str, column: str) -> None:
    lines = [{"text": t, column: v if column == "label" else [v]} for t, v in (("one", "good"), ("two", label))]
    found, (fault,) = read(tmp_path / "in.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert (found.num_rows, fault.row, fault.field) == (1, "line 2", column)
    assert re.search(r"the label '.+' holds the character U\+[0-9A-F]{4}, which cannot be shown", fault.reason)
    assert fault.reason.isprintable()
    with pytest.raises(ValueError, match="cannot be shown"):
        IngestionGate(labels=["good", label])


def test_joiners_of_scripts_and_emoji_may_stand_in_labels() -> None:
    assert IngestionGate(labels=["می\u200cروم", "👩\u200d🚀", " a b ", "北京"]).labels
