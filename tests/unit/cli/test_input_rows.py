from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydsinfer.cli.formats import Format
from raydsinfer.cli.input_rows import InputRows
from raydsinfer.cli.inputs import open_input
from raydsinfer.cli.writers import open_writer


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_rows_of_several_files_by_number(tmp_path: Path, suffix: Format) -> None:
    (tmp_path / "in").mkdir()
    for part in range(3):
        with open(tmp_path / "in" / f"{part}.{suffix}", "wb") as stream:
            table = pa.table({"id": [10 * part + i for i in range(4)]})
            if suffix == "parquet":
                pq.write_table(table, stream, row_group_size=3)
            else:
                open_writer(suffix, stream, table.schema).write(table)
    rows = InputRows(open_input(str(tmp_path / "in"), None, tmp_path))
    assert [int(row["id"]) for row in rows.take([1, 3, 4, 11])] == [1, 3, 10, 23]
    assert [int(row["id"]) for row in rows.take([11])] == [23]
