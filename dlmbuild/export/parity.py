"""Whether a GGUF is the model that was trained: the same tokens for the same text, the same choice at each position."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlmbuild.data.control import Piece
from dlmbuild.errors import SmokeError, Where
from dlmbuild.export.tensor_types import fallbacks
from dlmbuild.inference.libllama import LibLlama
from dlmbuild.io.digest import readable_json
from dlmbuild.io.gguf_file import read_header
from dlmbuild.io.progress import Progress

_LEAST_MASS = 1e-6
"""Probabilities are known to about that much: what is left of 1 is never taken to be less."""

_TIE = 0.01
"""Two log-probabilities that are closer are a tie: half-precision weights and activations cannot tell them apart."""


def compare(
    *,
    gguf: Path,
    reference: Path,
    report: str,
    least_agreement: float,
    out: Path,
    progress: Progress,
    lora: Path | None = None,
    quant: str = "",
    weighed: bool = False,
) -> dict[str, Any]:
    """Hold `gguf` (with `lora`) to reference.json, write the numbers to `out`/`report` and return them.

    Raises SmokeError where a text becomes other tokens, where the model says nothing, or where fewer than
    `least_agreement` (0…1) of the positions choose the same token as the trained model: with the place. Where the
    trained model's two best are a tie, either counts as its choice, and `ties` says how often the second was taken.
    With the file's `quant`, `tensors` says how many there are of each type, and how many took another than meant;
    `weighed` says whether an importance matrix decided how it is rounded.

    `kl` is the mean divergence (nats) of the file's next token from the trained model's, over the tokens that this one
    names as its likeliest and one more that stands for all others: the whole vocabulary's is no smaller. `mass` is the
    mean probability of those named. `perplexity` is that of the learned tokens of the document's own rows, in the file
    and in the trained model.
    """
    progress("loading the model into llama.cpp")
    made = json.loads(reference.read_bytes())
    probes, compared = made["probes"], made["compared"]
    runtime = LibLlama(gguf, lora=lora, longest=max(len(entry["ids"]) for entry in compared))
    for probe in probes:
        _same_tokens(runtime.tokenize(Piece(*piece) for piece in probe["pieces"]), probe, gguf.name)
    agreed, ties, first_difference = 0, 0, ""
    gaps: list[float] = []
    divergences: list[tuple[float, float]] = []
    own: list[tuple[float, float]] = []
    for done, entry in enumerate(compared):
        progress("comparing with the trained model", done, len(compared))
        ids, first, learned = entry["ids"], entry["first"], entry.get("own")
        choices = list(zip(entry["best"], entry["logprob"], strict=True))
        found = runtime.next_tokens(ids[: first + len(choices) - 1], first)
        for at, ((best, logprobs), logs) in enumerate(zip(choices, found, strict=True), first):
            chosen = int(logs.argmax())
            tied = chosen == best[1] and logprobs[0] - logprobs[1] < _TIE
            ties += tied
            if chosen == best[0] or tied:
                agreed += 1
            elif not first_difference:
                first_difference = f"token {at} of {entry['text']!r}"
            gaps.append(abs(float(logs[best[0]]) - logprobs[0]))
            divergences.append(_divergence(logprobs, logs[best].tolist()))
            if learned:
                own.append((float(logs[ids[at]]), learned[at - first]))
    total = len(gaps)
    agreement = agreed / total
    numbers: dict[str, Any] = {
        "texts_tokenized_alike": len(probes),
        "positions": total,
        "agreeing": agreed,
        "ties": ties,
        "agreement": round(agreement, 4),
        "mean_logprob_gap": round(_mean(gaps), 4),
        "kl": {
            "mean": round(max(0.0, _mean([kl for kl, _ in divergences])), 5),
            "mass": round(_mean([mass for _, mass in divergences]), 4),
            "positions": len(divergences),
        },
        "first_difference": first_difference,
    }
    if own:
        file, trained = (round(math.exp(-_mean(logs)), 4) for logs in zip(*own, strict=True))
        numbers["perplexity"] = {"file": file, "trained": trained, "tokens": len(own)}
    if agreement < least_agreement:
        raise SmokeError(
            f"{gguf.name} chooses the trained model's token at {agreed} of {total} positions "
            f"({agreement:.1%}, at least {least_agreement:.0%} are asked)",
            why=f"they part first at {first_difference}",
            do="this is not the model that was trained, so it was not exported; please report it with your document",
        )
    if quant:
        header = read_header(gguf)
        types = Counter(info.type for info in header.tensors.values())
        others = fallbacks(header, quant, Where(str(gguf)), weighed=weighed)
        numbers["tensors"] = {"types": dict(types), "fallbacks": len(others)}
    (out / report).write_bytes(readable_json(numbers))
    return numbers


def in_words(numbers: Mapping[str, Any]) -> str:
    """What `compare` found, on one line."""
    told = f"{numbers['agreement']:.1%} of choices are the trained model's, KL at least {numbers['kl']['mean']:.4f}"
    if perplexity := numbers.get("perplexity"):
        told += f", perplexity on its own rows {perplexity['file']:.2f} (trained {perplexity['trained']:.2f})"
    return told


def _divergence(wanted: Sequence[float], found: Sequence[float]) -> tuple[float, float]:
    """A lower bound of the KL divergence of `found` from `wanted`, and how probable the tokens are that it is of.

    Both are logs of the same tokens' probabilities; one more token stands for all others.
    """
    mass, other = (sum(map(math.exp, logs)) for logs in (wanted, found))
    rest, other_rest = max(1 - mass, _LEAST_MASS), max(1 - other, _LEAST_MASS)
    divergence = sum(math.exp(p) * (p - q) for p, q in zip(wanted, found, strict=True))
    return divergence + rest * math.log(rest / other_rest), mass


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / max(1, len(numbers))


def _same_tokens(found: list[int], probe: dict[str, Any], name: str) -> None:
    expected = probe["ids"]
    if found == expected:
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    raise SmokeError(
        f"llama.cpp reads {text_of(probe)!r} as other tokens than the model was trained on",
        why=f"from token {at + 1} on {name} gives {found[at : at + 3]}, the base's tokenizer {expected[at : at + 3]}",
        do="this base's tokenizer is not carried over faithfully, so nothing was exported; take another base",
    )


def text_of(probe: Mapping[str, Any]) -> str:
    """What a probe of reference.json spells."""
    return "".join(text for text, _ in probe["pieces"])
