"""The example document and the key facts that its answers are scored by belong together."""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
HANDBOOK = (HERE.parent / "examples" / "handbook" / "handbook.dlm").read_text(encoding="utf-8")
KEYS: dict[str, str] = json.loads((HERE / "samples" / "handbook_keys.json").read_text(encoding="utf-8"))
PAIRS = re.findall(r"^### Q\n(.+)\n### A\n(.+)$", HANDBOOK, re.MULTILINE)


def test_every_question_has_a_key_fact() -> None:
    assert len(PAIRS) == 25
    assert [question for question, _ in PAIRS] == list(KEYS)
    assert "How many days of leave do I get?" in KEYS


def test_a_key_fact_is_in_its_own_answer_only_and_not_in_the_question() -> None:
    for question, key in KEYS.items():
        assert [asked for asked, answer in PAIRS if re.search(key, answer, re.IGNORECASE)] == [question]
        assert not re.search(key, question, re.IGNORECASE)


def test_the_prose_tells_every_fact_too() -> None:
    prose = " ".join(re.sub(r"^### [QA]\n.+$", "", HANDBOOK, flags=re.MULTILINE).split())
    assert [question for question, key in KEYS.items() if not re.search(key, prose, re.IGNORECASE)] == []
