"""Row tables are written and hashed the same everywhere, and read in pieces."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from trainwright.rows import tables

texts = st.lists(st.text(max_size=5), min_size=1, max_size=20)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "answer_start": [[1, 2], []]})
    tables.write(table, tmp_path / "one.parquet")
    tables.write(table, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert tables.read(tmp_path / "one.parquet").equals(table)


def test_a_table_written_in_pieces_is_read_whole_and_in_pieces(tmp_path: Path) -> None:
    table = pa.table({"n": np.arange(tables.BATCH * 2 + 5)})
    with tables.writer(tmp_path / "t.parquet", table.schema) as file:
        for start in range(0, table.num_rows, 7000):
            file.write_table(table.slice(start, 7000))
    assert tables.count(tmp_path / "t.parquet") == table.num_rows
    assert tables.read(tmp_path / "t.parquet").equals(table)
    pieces = list(tables.batches(tmp_path / "t.parquet"))
    assert max(piece.num_rows for piece in pieces) <= tables.BATCH
    assert pa.concat_tables(pieces).equals(table)


def test_hashes_are_the_same_for_ever() -> None:
    rows = pa.table({"context": ["Iron rusts.", None], "answer_start": [[0, 5], []]})
    assert tables.content_hash(rows, ["context"]).tolist() == [13883972958132032519, 15130194345511683234]
    assert tables.content_hash(rows, ["context", "answer_start"]).tolist() == [
        15860193419892858490,
        7407958503261300008,
    ]


@given(texts)
def test_a_row_has_its_hash_whoever_stands_beside_it(values: list[str]) -> None:
    whole = tables.content_hash(pa.table({"q": values}), ["q"])
    alone = [tables.content_hash(pa.table({"q": [value]}), ["q"])[0] for value in values]
    assert whole.tolist() == alone
    assert len(set(whole.tolist())) == len(set(values))


def test_columns_count_in_order() -> None:
    rows = pa.table({"a": ["x", "y"], "b": ["y", "x"]})
    first, second = tables.content_hash(rows, ["a", "b"])
    assert first != second
    assert tables.content_hash(rows, ["b", "a"]).tolist() == [second, first]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.text(max_size=3))
def test_a_draw_depends_on_the_hash_and_the_salt_alone(hashes: list[int], salt: str) -> None:
    drawn = tables.draw(np.array(hashes, dtype=np.uint64), salt)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert drawn.tolist() == [tables.draw(np.array([value], dtype=np.uint64), salt)[0] for value in hashes]


def test_draws_are_even_and_of_different_salts_unrelated() -> None:
    hashes = np.arange(20_000, dtype=np.uint64)
    one, two = tables.draw(hashes, "one"), tables.draw(hashes, "two")
    counts = np.histogram(one, bins=10, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 250
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
