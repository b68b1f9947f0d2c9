from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbuild.errors import DocumentError, Where
from dlmbuild.io import text as module
from dlmbuild.io.text import decode_text, read_text


def test_one_kind_of_newline_and_no_mark() -> None:
    assert decode_text(b"\xef\xbb\xbfa\r\nb\rc\n\r\n", "x") == "a\nb\nc\n\n"
    assert decode_text("\ufeff\ufeffa\u2028b\x85".encode(), "x") == "\ufeffa\u2028b\x85"


@pytest.mark.parametrize(
    ("data", "line", "col", "what", "why"),
    [
        (b"ab\xff", 1, 3, "byte 0xff is not UTF-8 text", "invalid start byte"),
        (b"\xef\xbb\xbfab\xff", 1, 3, "byte 0xff is not UTF-8 text", "invalid start byte"),
        (b"\r\n\r\rx\xc3", 4, 2, "byte 0xc3 is not UTF-8 text", "unexpected end of data"),
        ("ä😀".encode() + b"\x80", 1, 3, "byte 0x80 is not UTF-8 text", "invalid start byte"),
        ("x".encode("utf-16"), 1, 1, "byte 0xff is not UTF-8 text", "the file looks like UTF-16"),
        (b"\n\n\0", 3, 1, "NUL byte in a text file", "a document is text; this looks like a binary file"),
    ],
)
def test_what_is_not_text(data: bytes, line: int, col: int, what: str, why: str) -> None:
    with pytest.raises(DocumentError) as caught:
        decode_text(data, "x.dlm")
    error = caught.value
    assert (error.where, error.what, error.why) == (Where("x.dlm", line, col), what, why)


@given(st.binary())
def test_text_or_an_error(data: bytes) -> None:
    try:
        assert "\r" not in decode_text(data, "x")
    except DocumentError as error:
        assert error.where and error.where.line and error.where.col


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    with pytest.raises(DocumentError, match="cannot be read"):
        read_text(path)
    with pytest.raises(DocumentError, match="not a plain file"):
        read_text(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="not a plain file"):
        read_text(tmp_path / "pipe")
    path.write_text("four")
    assert read_text(path) == "four"
    monkeypatch.setattr(module, "MAX_BYTES", 3)
    with pytest.raises(DocumentError, match="has 4 bytes"):
        read_text(path)
