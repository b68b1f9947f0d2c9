"""How many of the handbook's questions a built model answers with the right fact.

    python tests/bench/recall.py [--paraphrases] [--base | --export QUANT]

Prints JSON with the answers that miss. Decoding is greedy; an answer is right if it holds the question's key fact, a
pattern in tests/samples/handbook_keys.json. With --paraphrases each question is asked in three other ways, of which
none is trained: 75 say more than ten probes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from dlmbuild.cli import prompt

SAMPLES = Path(__file__).parent.parent / "samples"


def recall(
    document: str, words: list[str], edited: Mapping[str, str] | None = None, paraphrased: bool = False
) -> dict[str, object]:
    """Ask every question with the options `words` of `dlm prompt`; `edited` has the key facts of edited answers."""
    keys = {**json.loads((SAMPLES / "handbook_keys.json").read_text("utf-8")), **(edited or {})}
    if paraphrased:
        ways = json.loads((SAMPLES / "handbook_paraphrases.json").read_text("utf-8"))
        keys = {way: key for question, key in keys.items() for way in ways[question]}
    parser = argparse.ArgumentParser()
    prompt.add_arguments(parser)
    given = prompt.answers(document, list(keys), parser.parse_args([document, *words, "--max-tokens", "40"]))
    missed = {q: a for (q, key), a in zip(keys.items(), given, strict=True) if not re.search(key, a, re.IGNORECASE)}
    return {"right": len(keys) - len(missed), "of": len(keys), "missed": missed}


if __name__ == "__main__":
    options = [word for word in sys.argv[1:] if word != "--paraphrases"]
    found = recall("examples/handbook/handbook.dlm", options, paraphrased=len(options) < len(sys.argv) - 1)
    print(json.dumps(found, indent=2, ensure_ascii=False))
