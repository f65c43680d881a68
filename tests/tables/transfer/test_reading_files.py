from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagepipeline_dagster.tables.transfer.file_rows import FileRow, FileUnreadable, RowUnreadable
from imagepipeline_dagster.tables.transfer.reading_files import open_file


def rows_of(folder: Path, name: str, content: str | bytes) -> list[FileRow | RowUnreadable]:
    """Return the rows of a file with this content."""
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(open_file(file).rows())


def test_csv(tmp_path: Path) -> None:
    """Rows of a CSV file know the line that they begin on, and quoted fields stay whole."""
    content = '\ufeffa,b \r\n1,"x, ""y"""\r\n\r\n2,"two\nlines"\r\n3,last'
    assert rows_of(tmp_path, "x.CSV", content) == [
        FileRow("line 2", {"a": "1", "b": 'x, "y"'}),
        FileRow("line 4", {"a": "2", "b": "two\nlines"}),
        FileRow("line 6", {"a": "3", "b": "last"}),
    ]


def test_long_fields(tmp_path: Path) -> None:
    """A field may be longer than the csv module's own limit."""
    (row,) = rows_of(tmp_path, "x.csv", "a\n" + "x" * 200_000)
    assert isinstance(row, FileRow)
    assert len(str(row.values["a"])) == 200_000


def test_semicolons(tmp_path: Path) -> None:
    """A CSV file whose header has semicolons and no comma is separated by them."""
    assert rows_of(tmp_path, "x.csv", 'a;"b"\r\n1,5;"x;y"\r\n') == [
        FileRow("line 2", {"a": "1,5", "b": "x;y"})
    ]
    assert rows_of(tmp_path, "x.csv", "a,b;c\n1,2;3\n") == [
        FileRow("line 2", {"a": "1", "b;c": "2;3"})
    ]


def test_ragged_and_malformed_csv(tmp_path: Path) -> None:
    """A row of another length, or with stray quotes, is shown with its line; the rest is read."""
    found = rows_of(tmp_path, "x.csv", 'a,b\n1\n"x"y,2\n3,4\n5,6,7\n"open,8\n')
    assert found == [
        RowUnreadable("line 2", "has 1 fields where the header has 2", ("1",)),
        RowUnreadable(
            "line 3",
            "is not well-formed: ',' expected after '\"'; a quote within quotes is doubled, or "
            "--no-quotes says that quotes are text",
        ),
        FileRow("line 4", {"a": "3", "b": "4"}),
        RowUnreadable("line 5", "has 3 fields where the header has 2", ("5", "6", "7")),
        RowUnreadable(
            "line 6",
            "is not well-formed: unexpected end of data; a quote in it is never closed, or "
            "--no-quotes says that quotes are text",
        ),
    ]


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    """A file in another encoding is refused at the line where it shows, with likely encodings."""
    (row,) = rows_of(tmp_path, "x.csv", "a,b\n1,é\n".encode("latin-1"))
    assert isinstance(row, RowUnreadable)
    assert row.place == "line 2"
    assert row.problem.startswith("is not UTF-8 text (byte 0xe9 at position 3); save the file")
    assert "--encoding cp1252" in row.problem
    assert "would read …1,é…" in row.problem


def test_json_lines(tmp_path: Path) -> None:
    """Rows of a JSON Lines file keep their types, and lines that are no rows are shown."""
    content = '{"a": 1, "b": ["x"]}\n\n{"a": \n[1]\n{"c": null}\n'
    good, malformed, no_object, last = rows_of(tmp_path, "x.ndjson", content)
    assert good == FileRow("line 1", {"a": 1, "b": ["x"]})
    assert isinstance(malformed, RowUnreadable)
    assert malformed.place == "line 3"
    assert malformed.problem.startswith("is not JSON: ")
    assert no_object == RowUnreadable("line 4", 'is not a JSON object, like {"prompt": "…"}')
    assert last == FileRow("line 5", {"c": None})
    assert open_file(tmp_path / "x.ndjson").headers() == ("a", "b", "c")


def test_parquet(tmp_path: Path) -> None:
    """Rows of a Parquet file keep their types, whatever their number."""
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"n": list(range(4500)), "words": [["a"]] * 4500}), file)
    opened = open_file(file)
    assert opened.headers() == ("n", "words")
    rows = list(opened.rows())
    assert rows[0] == FileRow("row 1", {"n": 0, "words": ["a"]})
    assert rows[-1] == FileRow("row 4500", {"n": 4499, "words": ["a"]})


def test_no_such_file(tmp_path: Path) -> None:
    """A missing file and a folder are told apart."""
    with pytest.raises(FileUnreadable, match="is not there"):
        open_file(tmp_path / "x.csv")
    with pytest.raises(FileUnreadable, match="is not a file"):
        open_file(tmp_path)
