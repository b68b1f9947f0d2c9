"""A tokenizer and template as a base brings them; nothing here needs weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.data.tokenizer import Tokenizer
from tests.tiny import make_tiny_base


@pytest.fixture(scope="session")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_base(folder, hidden=8, layers=1)
    return folder


@pytest.fixture
def base(_tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint folder's tokenizer and template, to be changed as a test likes."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((_tiny / name).read_bytes())
    return folder


@pytest.fixture
def configure(base: Path) -> Callable[..., None]:
    """`configure(pad_token=None, …)` changes tokenizer_config.json; None takes a key away."""

    def configure(**changes: Any) -> None:
        path = base / "tokenizer_config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))

    return configure


@pytest.fixture
def tokenizer(base: Path) -> Tokenizer:
    return Tokenizer.from_base(base)
