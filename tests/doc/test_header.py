from __future__ import annotations

import subprocess
import sys

import pytest

from dlmbuild.doc.header import Header, read_header
from dlmbuild.errors import InvalidDocument


def test_header(head: str) -> None:
    assert read_header(head.encode(), "handbook.dlm") == Header("01HZX3Q5J8K9M2N4P6R8T0V2W4", "smollm2-135m", "Q4_K_M")
    other = head.replace("base_model", "export: {default_quant: F16}\nbase_model")
    assert read_header(other.encode() + b"::wrong\n", "handbook.dlm").default_quant == "F16"


@pytest.mark.parametrize(
    ("data", "path", "what"),
    [
        (b"", "a.dlm", "a.dlm:1:1: the file is empty"),
        (b"---\n\xff", "a.dlm", "a.dlm:2:1: byte 0xff is not UTF-8 text"),
        (b"---\nx: 1\n---\n", "train.dlm", 'train.dlm: a document cannot be called "train"'),
    ],
)
def test_mistakes(data: bytes, path: str, what: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_header(data, path)
    assert str(caught.value).startswith(what)


def test_importing_stays_light() -> None:
    program = (
        "import dlmbuild.doc.document, dlmbuild.doc.header, sys; print(*{'pydantic', 'ruamel.yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
