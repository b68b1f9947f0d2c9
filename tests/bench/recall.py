"""How many of the handbook's questions a built model answers with the right fact.

    python tests/bench/recall.py [--base | --export QUANT]

Prints JSON with the answers that miss. Decoding is greedy; an answer is right if it holds the question's key fact, a
pattern in tests/samples/handbook_keys.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from dlmbuild.cli import prompt

KEYS = Path(__file__).parent.parent / "samples" / "handbook_keys.json"


def recall(document: str, words: list[str], edited: Mapping[str, str] | None = None) -> dict[str, object]:
    """Ask every question with the options `words` of `dlm prompt`; `edited` has the key facts of edited answers."""
    keys = {**json.loads(KEYS.read_text("utf-8")), **(edited or {})}
    parser = argparse.ArgumentParser()
    prompt.add_arguments(parser)
    given = prompt.answers(document, list(keys), parser.parse_args([document, *words, "--max-tokens", "40"]))
    missed = {q: a for (q, key), a in zip(keys.items(), given, strict=True) if not re.search(key, a, re.IGNORECASE)}
    return {"right": len(keys) - len(missed), "of": len(keys), "missed": missed}


if __name__ == "__main__":
    print(json.dumps(recall("examples/handbook/handbook.dlm", sys.argv[1:]), indent=2, ensure_ascii=False))
