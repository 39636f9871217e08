"""Declared splits stay; others are made by group, and no row moves when others come or go."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.splitting import splitting, told
from trainwright.core import tasks
from trainwright.core.params import Splitting
from trainwright.rows import tables
from trainwright.splits import assign, declared_splits, places

QA = tasks.load("qa", "rows")
THIRDS = Splitting(train=0.5, validation=0.25, test=0.25)
group_names = st.text(alphabet="abcdefgh", min_size=1, max_size=4)


def qa_rows(
    groups: list[str],
    splits: list[str | None] | None = None,
    parents: list[str | None] | None = None,
    contexts: list[str] | None = None,
) -> Any:
    count = len(groups)
    columns: dict[str, list[Any]] = {
        "id": [f"r{i}" for i in range(count)],
        "group": groups,
        "split": splits or [None] * count,
        "parent": parents or [None] * count,
        "title": groups,
        "context": contexts or [f"Iron rusts in {group}." for group in groups],
        "question": [f"Question {i}?" for i in range(count)],
        "answer_start": [[]] * count,
        "answer_text": [[]] * count,
    }
    return pa.table(columns, schema=QA.SCHEMA)


def numbers_of(rows: pa.Table, params: Splitting = THIRDS) -> Any:
    return places([rows], params, QA.MAIN)


def by_split(rows: pa.Table, params: Splitting = THIRDS) -> dict[str, list[str]]:
    """The ids of the rows of each split."""
    parts = splitting(rows, numbers_of(rows, params), params, declared_splits([rows["split"]]))
    return {name: part["id"].to_pylist() for name, part in parts.items()}


@given(st.lists(group_names, max_size=30))
def test_every_row_is_in_one_split_and_so_is_every_group(groups: list[str]) -> None:
    rows = qa_rows(groups)
    parts = splitting(rows, numbers_of(rows), THIRDS, set())
    ids = [row for part in parts.values() for row in part["id"].to_pylist()]
    assert sorted(ids) == sorted(rows["id"].to_pylist())
    found = [group for part in parts.values() for group in set(part["group"].to_pylist())]
    assert len(found) == len(set(groups))


@given(st.lists(group_names, max_size=20), st.lists(group_names, max_size=20))
def test_a_row_never_moves_when_others_come_or_go(groups: list[str], more: list[str]) -> None:
    before, after = (
        assign(rows, numbers_of(rows), THIRDS, set()).to_pylist() for rows in (qa_rows(groups), qa_rows(more + groups))
    )
    assert after[len(more) :] == before


def test_shares_are_met_over_many_groups() -> None:
    parts = by_split(qa_rows([f"group {i}" for i in range(4000)]))
    assert len(parts["train"]) == pytest.approx(2000, abs=120)
    assert len(parts["validation"]) == pytest.approx(1000, abs=120)
    assert len(parts["test"]) == pytest.approx(1000, abs=120)


def test_another_salt_splits_otherwise() -> None:
    rows = qa_rows([f"group {i}" for i in range(50)])
    assert by_split(rows) == by_split(rows)
    assert by_split(rows) != by_split(rows, THIRDS.model_copy(update={"salt": "2"}))


def test_splits_that_a_source_declares_whole_stay_as_they_are() -> None:
    splits = [tables.SPLITS[i % 3] for i in range(60)]
    rows = qa_rows([f"group {i}" for i in range(60)], splits)
    parts = splitting(rows, numbers_of(rows), THIRDS, set(tables.SPLITS))
    for name, part in parts.items():
        assert part["split"].to_pylist() == [name] * 20


@pytest.mark.parametrize(("declared", "missing"), [("validation", "test"), ("test", "validation")])
def test_a_split_that_the_source_leaves_out_is_made_of_whole_groups_of_train(declared: str, missing: str) -> None:
    groups = [f"group {i // 2}" for i in range(400)]
    splits: list[str | None] = ["train"] * 300 + [declared] * 100
    rows = qa_rows(groups, splits)
    parts = splitting(rows, numbers_of(rows), THIRDS, declared_splits([rows["split"]]))
    assert parts[declared]["id"].to_pylist() == rows["id"].to_pylist()[300:]
    assert set(parts[missing]["split"].to_pylist()) == {"train"}
    assert parts[missing].num_rows == pytest.approx(75, abs=30)
    assert not set(parts[missing]["group"].to_pylist()) & set(parts["train"]["group"].to_pylist())


def test_a_row_declared_train_goes_where_it_would_go_undeclared_when_a_split_is_missing() -> None:
    groups = [f"group {i}" for i in range(200)]
    undeclared, train = by_split(qa_rows(groups)), by_split(qa_rows(groups, ["train"] * 200))
    assert train == undeclared
    with_validation = by_split(qa_rows([*groups, "other"], ["train"] * 200 + ["validation"]))
    assert with_validation["test"] == undeclared["test"]
    assert with_validation["validation"] == ["r200"]


def test_children_follow_their_parent_and_stay_only_in_train() -> None:
    groups = [f"group {i // 2}" for i in range(200)]
    parents = [None if i % 2 == 0 else f"r{i - 1}" for i in range(200)]
    rows = qa_rows(groups, parents=parents)
    parts = by_split(rows)
    originals = by_split(rows.filter(rows["parent"].is_null()))
    assert parts["validation"] == originals["validation"]
    assert parts["test"] == originals["test"]
    assert len(parts["train"]) == 2 * len(originals["train"])


def test_a_split_without_rows_is_an_empty_table_of_the_same_form() -> None:
    rows = qa_rows(["only"])
    parts = splitting(rows, numbers_of(rows), THIRDS, set())
    assert sorted(part.num_rows for part in parts.values()) == [0, 0, 1]
    assert all(part.schema.equals(QA.SCHEMA) for part in parts.values())


def test_rows_of_one_context_are_in_one_split_whatever_their_titles() -> None:
    rows = qa_rows([f"title {i}" for i in range(200)], contexts=[f"context {i // 2}" for i in range(200)])
    parts = splitting(rows, numbers_of(rows), THIRDS, set())
    found = [context for part in parts.values() for context in set(part["context"].to_pylist())]
    assert len(found) == 100
    assert all(part.num_rows for part in parts.values())


def test_a_new_row_that_shares_a_test_text_goes_to_test() -> None:
    old = qa_rows([f"title {i}" for i in range(40)], contexts=[f"context {i}" for i in range(40)])
    test = set(by_split(old)["test"])
    new = qa_rows(
        [f"title {i % 40 if i < 40 else i}" for i in range(80)], contexts=[f"context {i % 40}" for i in range(80)]
    )
    after = set(by_split(new)["test"])
    assert test <= after
    assert {f"r{int(row[1:]) + 40}" for row in test} <= after


def test_rows_are_connected_from_one_batch_to_another() -> None:
    rows = qa_rows([f"title {i}" for i in range(40)], contexts=[f"context {i % 20}" for i in range(40)])
    batches = [rows.slice(start, 7) for start in range(0, 40, 7)]
    assert places(batches, THIRDS, QA.MAIN).tolist() == numbers_of(rows).tolist()


def test_splitting_by_text_leaves_groups_out_and_children_with_their_parents() -> None:
    parents = [None if i % 4 < 2 else f"r{i - 2}" for i in range(400)]
    contexts = [f"context {i // 4}" if i % 4 < 2 else f"noise {i}" for i in range(400)]
    params = Splitting(by="text", train=0.5, validation=0.25, test=0.25)
    found = numbers_of(qa_rows(["Not available"] * 400, parents=parents, contexts=contexts), params)
    assert len(set(found.tolist())) == 100
    assert (found.reshape(100, 4) == found[::4, None]).all()
    assert 10 < (found[::4] < 0.25).sum() < 40


def test_the_main_text_is_the_first_column_that_is_not_blank() -> None:
    rows = pa.table({"context": ["a", " ", "b", ""], "question": ["q", "a", "q", "c"]})
    found = tables.main_text_hash(rows, ("context", "question")).tolist()
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_the_kinds_of_rows_are_told_where_there_are_several() -> None:
    kinds = {"train": Counter(spam=1, ham=3), "validation": Counter(ham=2), "test": Counter()}
    assert told(kinds) == ["train: 4 rows (75.0% ham, 25.0% spam)", "validation: 2 rows (100.0% ham)", "test: 0 rows"]
    assert told({"train": Counter(document=1200)}) == ["train: 1,200 rows"]
