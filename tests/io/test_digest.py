from __future__ import annotations

from pathlib import Path

import pytest

from dlmbuild.io.digest import canonical_json, readable_json, sha256_bytes, sha256_file, sha256_json

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_sha256(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert sha256_bytes(b"") == sha256_file(file) == EMPTY
    file.write_bytes(b"abc" * 500_000)
    assert sha256_file(file) == sha256_bytes(b"abc" * 500_000)


def test_the_same_data_gives_the_same_bytes() -> None:
    one, other = {"b": [1, 2.5, None], "a": {"ä": True}}, {"a": {"ä": True}, "b": [1, 2.5, None]}
    assert canonical_json(one) == canonical_json(other) == '{"a":{"ä":true},"b":[1,2.5,null]}\n'.encode()
    assert readable_json(one) == readable_json(other)
    assert sha256_json(one) == sha256_json(other) == sha256_bytes(canonical_json(one))


def test_a_tuple_is_a_list_and_an_integer_is_no_float() -> None:
    assert sha256_json([(1, 2)]) == sha256_json([[1, 2]])
    assert sha256_json(1) != sha256_json(1.0)


@pytest.mark.parametrize("write", [canonical_json, readable_json])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}])
def test_what_json_cannot_say_is_refused(write: object, value: object) -> None:
    assert callable(write)
    with pytest.raises((ValueError, TypeError)):
        write([value])
