"""Ingestion reads the pinned source, sets bad rows apart up to a share, and takes the same rows for the same limit."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import ingestion as stage
from trainwright import pins
from trainwright.core import params, process
from trainwright.core.errors import InputError
from trainwright.core.layout import Layout
from trainwright.core.params import Source
from trainwright.tasks.qa import rows

ROOT = Path(__file__).parent.parent


def run(root: Path, limit: int | None = None, max_bad_share: float = 0.01) -> process.Run:
    """A run over `root`/a.jsonl, pinned as it is."""
    pipeline = params.load(ROOT / "params.yaml").pipeline("sample-qa")
    ingestion = pipeline.ingestion.model_copy(update={"limit": limit, "max_bad_share": max_bad_share})
    source = Source(uri="a.jsonl", format="jsonl")
    pipeline = pipeline.model_copy(update={"source": source, "ingestion": ingestion})
    layout = Layout(root, "sample-qa")
    pins.refresh(layout, pipeline)
    return process.Run(layout, pipeline)


def write(root: Path, count: int, bad: int = 0) -> None:
    record = {"title": "T", "context": "Ann met Bob.", "question": "Whom?"}
    lines = [json.dumps({**record, "id": str(n), "answer": "Cid" if n < bad else "Bob"}) for n in range(count)]
    (root / "a.jsonl").write_text("\n".join(lines))


def test_ingestion_writes_the_rows_in_the_tasks_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 3)
    stage.main(run(tmp_path))
    table = pq.read_table(tmp_path / "data/sample-qa/ingestion/rows.parquet")
    assert table.schema.equals(rows.SCHEMA)
    assert table.column("id").to_pylist() == ["0", "1", "2"]
    assert (tmp_path / "data/sample-qa/ingestion/quarantine.jsonl").read_text() == ""
    assert capsys.readouterr().out == "ingestion: 3 rows read, 0 in quarantine\n"


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path, 50)
    path = tmp_path / "data/sample-qa/ingestion/rows.parquet"
    stage.main(run(tmp_path))
    first = path.read_bytes()
    stage.main(run(tmp_path))
    assert path.read_bytes() == first


@pytest.mark.parametrize("limit", [None, 20])
def test_every_row_s_place_in_the_source_is_kept(tmp_path: Path, limit: int | None) -> None:
    write(tmp_path, 100, bad=3)
    with (tmp_path / "a.jsonl").open("a") as file:  # an id that is there already
        file.write("\n" + json.dumps({"context": "Bob.", "question": "Who?", "answer": "Bob", "id": "50"}))
    stage.main(run(tmp_path, limit, max_bad_share=0.1))
    folder = tmp_path / "data/sample-qa/ingestion"
    ids = pq.read_table(folder / "rows.parquet")["id"].to_pylist()
    places = pq.read_table(folder / "places.parquet").to_pylist()
    assert len(ids) == (limit or 97)
    assert places == [{"id": id, "place": f"line {int(id) + 1}"} for id in ids]


def test_rows_that_a_task_puts_in_another_order_keep_their_places(tmp_path: Path) -> None:
    contexts = [f"Ann met Bob {n % 3}." for n in range(9)]
    records = [{"id": str(n), "context": c, "question": f"{n}?", "answer": "Bob"} for n, c in enumerate(contexts)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    stage.main(run(tmp_path))
    places = pq.read_table(tmp_path / "data/sample-qa/ingestion/places.parquet").to_pylist()
    assert [row["id"] for row in places[:4]] == ["0", "3", "6", "1"]
    assert all(row["place"] == f"line {int(row['id']) + 1}" for row in places)


def test_few_bad_rows_go_to_quarantine(tmp_path: Path) -> None:
    write(tmp_path, 100, bad=1)
    stage.main(run(tmp_path))
    assert pq.read_table(tmp_path / "data/sample-qa/ingestion/rows.parquet").num_rows == 99
    (kept,) = (tmp_path / "data/sample-qa/ingestion/quarantine.jsonl").read_text().splitlines()
    assert json.loads(kept) == {
        "file": "a.jsonl",
        "reason": "the answer is not in its context",
        "remedy": "Mend the answer.",
        "row": "line 1",
        "field": "answer_start",
        "id": "0",
    }


def test_too_many_bad_rows_stop_it_and_leave_the_old_output(tmp_path: Path) -> None:
    write(tmp_path, 100)
    stage.main(run(tmp_path))
    path = tmp_path / "data/sample-qa/ingestion/rows.parquet"
    before = path.read_bytes()
    write(tmp_path, 100, bad=2)
    with pytest.raises(InputError) as caught:
        stage.main(run(tmp_path))
    assert [fault.row for fault in caught.value.faults] == ["line 1", "line 2", ""]
    assert "2 of 100 rows are bad" in caught.value.faults[-1].reason
    assert len((tmp_path / ".trainwright/quarantine/sample-qa/ingestion.jsonl").read_text().splitlines()) == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize(("count", "said"), [(1, "only 1 row of it can be used"), (2, "only 2 rows of it")])
def test_fewer_rows_than_splits_stop_it_at_once(tmp_path: Path, count: int, said: str) -> None:
    write(tmp_path, count)
    with pytest.raises(InputError) as caught:
        stage.main(run(tmp_path))
    assert str(caught.value).startswith(f"a.jsonl: {said}")
    assert "at least 3" in caught.value.faults[0].remedy
    assert not (tmp_path / "data/sample-qa/ingestion").exists()


def test_a_source_whose_good_rows_are_too_few_stops_it_though_it_may_be_bad_throughout(tmp_path: Path) -> None:
    write(tmp_path, 3, bad=2)
    with pytest.raises(InputError, match="only 1 row of it can be used"):
        stage.main(run(tmp_path, max_bad_share=1.0))


def test_a_limit_under_the_number_of_splits_is_a_wrong_parameter(tmp_path: Path) -> None:
    write(tmp_path, 9)
    with pytest.raises(InputError) as caught:
        stage.main(run(tmp_path, limit=2))
    assert (caught.value.faults[0].file, caught.value.faults[0].field) == ("params.yaml", "ingestion.limit")


def test_other_bytes_than_the_pins_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, 3)
    pinned = run(tmp_path)
    write(tmp_path, 4)
    with pytest.raises(InputError, match="not those of the pin"):
        stage.main(pinned)
    assert not (tmp_path / "data/sample-qa/ingestion").exists()


def test_the_process_ends_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "stages.ingestion", "sample-qa"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("data/sample-qa/source.json: the source has no pin yet. Run `trainwright refresh")
    assert "Traceback" not in ended.stderr
    assert json.loads((tmp_path / ".trainwright/failures/sample-qa/ingestion.json").read_text())["exit_code"] == 2


# limit


def table(groups: list[tuple[str, str | None]]) -> pa.Table:
    """A row for every (group, split)."""
    ids = [str(n) for n in range(len(groups))]
    columns: dict[str, Any] = {
        "id": ids,
        "group": [group for group, _ in groups],
        "split": pa.array([split for _, split in groups], pa.string()),
        "context": [f"About {group}." for group, _ in groups],
        "question": [f"What, {id_}?" for id_ in ids],
    }
    return pa.table(columns)


GROUPS = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.sampled_from([None, "train", "validation", "test"])),
    min_size=1,
    max_size=60,
)


@given(GROUPS, st.integers(1, 70), st.randoms(use_true_random=False))
def test_a_limit_takes_the_same_rows_in_whatever_order_they_come(
    groups: list[tuple[str, str | None]], limit: int, order: random.Random
) -> None:
    whole = table(groups)
    shuffled = list(range(len(groups)))
    order.shuffle(shuffled)
    taken = stage.ingestion(whole, limit, rows.IDENTITY)
    again = stage.ingestion(whole.take(pa.array(shuffled)), limit, rows.IDENTITY)
    assert taken.num_rows == min(limit, len(groups))
    assert set(taken.column("id").to_pylist()) == set(again.column("id").to_pylist())
    assert taken.column("id").to_pylist() == sorted(taken.column("id").to_pylist(), key=int)


@given(GROUPS, st.integers(1, 70))
def test_a_limit_is_spread_over_groups_and_keeps_the_proportions_of_splits(
    groups: list[tuple[str, str | None]], limit: int
) -> None:
    taken = stage.ingestion(table(groups), limit, rows.IDENTITY)
    for split in {split for _, split in groups}:
        mine = [group for group, of in groups if of == split]
        got = [row["group"] for row in taken.select(["group", "split"]).to_pylist() if row["split"] == split]
        assert abs(len(got) - min(1.0, limit / len(groups)) * len(mine)) < 1
        for group in set(mine):  # none gives a row more than another that still has one to give
            most = max((got.count(other) for other in set(mine)), default=0)
            assert got.count(group) >= min(mine.count(group), most - 1)


def test_a_larger_limit_keeps_the_rows_of_a_smaller_one() -> None:
    whole = table([(f"g{n % 7}", None) for n in range(200)])
    small = set(stage.ingestion(whole, 20, rows.IDENTITY).column("id").to_pylist())
    assert small < set(stage.ingestion(whole, 60, rows.IDENTITY).column("id").to_pylist())


@given(GROUPS, st.integers(3, 70), st.sets(st.integers(0, 69)))
def test_a_limit_takes_the_frozen_test_rows_first(
    groups: list[tuple[str, str | None]], limit: int, frozen: set[int]
) -> None:
    kept = frozenset(str(n) for n in sorted(frozen)[: limit - 2])
    taken = set(stage.ingestion(table(groups), limit, rows.IDENTITY, kept).column("id").to_pylist())
    assert {row for row in kept if int(row) < len(groups)} <= taken
    assert len(taken) == min(limit, len(groups))


def test_frozen_test_rows_of_the_sample_change_nothing_until_the_source_grows() -> None:
    groups: list[tuple[str, str | None]] = [(f"g{n % 7}", None) for n in range(60)]
    before = stage.ingestion(table(groups), 20, rows.IDENTITY)
    kept = frozenset(before.column("id").to_pylist()[::4])
    assert stage.ingestion(table(groups), 20, rows.IDENTITY, kept).equals(before)
    grown = table([*groups, *((f"h{n}", None) for n in range(200))])
    assert not kept <= set(stage.ingestion(grown, 20, rows.IDENTITY).column("id").to_pylist())
    assert kept <= set(stage.ingestion(grown, 20, rows.IDENTITY, kept).column("id").to_pylist())


def test_a_limit_without_room_beside_the_frozen_test_rows_is_refused() -> None:
    with pytest.raises(InputError, match="beside the 9 test rows of the version in use") as caught:
        stage.ingestion(table([("a", None)] * 30), 10, rows.IDENTITY, frozenset(map(str, range(9))))
    assert caught.value.faults[0].field == "ingestion.limit" and "Raise it to 11" in caught.value.faults[0].remedy


def test_without_a_limit_every_row_is_kept() -> None:
    whole = table([("a", None)] * 5)
    assert stage.ingestion(whole, None, rows.IDENTITY).equals(whole)


@pytest.mark.parametrize(
    ("context", "answer", "start"),
    [
        ("They know it.", "no", None),
        ("They know no one.", "no", 10),
        ("No, no-one knows.", "no", 4),
        ("Room 15 is shut.", "5", None),
        ("Room 15 or 5.", "5", 11),
        ("It costs 3.5 or 1,500.", "5", None),
        ("It weighs 5kg.", "5", 10),
        ("Das Ärzte\u0308haus.", "Ärzte", None),
        ("Ann's cat.", "Ann", 0),
        ("Она знает.", "на", None),
        ("他住在北京市。", "北京", 3),
        ("彼は東京に2010年からいる。", "2010", 5),
        ("서울은 크다.", "서울", 0),
    ],
)
def test_an_answer_without_an_offset_is_found_as_whole_words(context: str, answer: str, start: int | None) -> None:
    source = pa.table({"context": [context], "question": ["Which?"], "answer": [answer], "place": ["line 1"]})
    found, faults = rows.from_source(source, "f")
    assert found["answer_start"].to_pylist() == ([] if start is None else [[start]])
    assert all("stands only inside a word" in fault.reason for fault in faults)
    assert len(faults) == (start is None)
