"""What a model says and how well it foresees: greedy answers, and the loss on texts. What is right is scored elsewhere.

The base and the trained model are asked in transformers, the export in llama.cpp, many questions at a time. The loss is
not measured there: what the file makes of texts is compared token by token where it is exported (export/parity.py).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from dlmbuild.data.control import Piece
from dlmbuild.data.rows import Row, conversation
from dlmbuild.data.shards import distinct_rows
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.eval.report import Pairs
from dlmbuild.inference.generate import load_model, require_numbers
from dlmbuild.inference.libllama import LibLlama
from dlmbuild.inference.llama_cpp import LlamaCpp
from dlmbuild.inference.numbers import no_numbers
from dlmbuild.io.digest import readable_json
from dlmbuild.io.progress import Progress

KINDS = ("instruction", "prose")
_AT_ONCE = 32
_TOKENS_AT_ONCE = 4096
"""Of a batch of questions, their answers included: they are kept in memory, layer by layer."""
_LEAST_TOKENS = 24
_TOKENS_OF_A_KIND = 4096
"""The loss on a kind of rows is measured on about so many tokens of them."""
_ROWS_OF_A_KIND = 512
_LONGEST = 2048
"""Of a longer row only the beginning is measured: a probability for every token of the vocabulary takes memory."""


def measure_model(
    *,
    base: Path,
    general: Path,
    asked: Pairs,
    system_prompt: str | None,
    out: Path,
    progress: Progress,
    adapter: Path | None = None,
    **datasets: Path,
) -> dict[str, Any]:
    """Write what the base, with the adapter if one is given, answers and its mean loss (nats per learned token).

    To the file `out`: {"answers": [{"text", "stopped"}…] to `asked` and then to the questions in the file `general`,
    "loss": {kind: mean}} for rows of `datasets` (paths of dataset.json), for those held out of them and for the text in
    `general`, in fp32.
    Raises SmokeError where the model's outputs are no numbers.
    """
    import torch

    progress("loading torch and the model")
    torch.manual_seed(0)
    model = load_model(base, adapter)
    tokenizer = Tokenizer.from_base(base)
    known = json.loads(general.read_bytes())
    check = require_numbers(trained=adapter is not None)
    loss = {}
    for held, kind in product((False, True), KINDS):
        name = f"held-out {kind}" if held else kind
        progress(f"measuring the loss on {name}")
        if rows := list(_sample(datasets.values(), kind, held)):
            loss[name] = _loss(model, rows)
    loss["general"] = _loss(model, [Row("general", tuple(tokenizer.encode(known["text"])), 0)])
    if not all(value < float("inf") for value in loss.values()):
        raise no_numbers("the base" if adapter is None else "the trained model", trained=adapter is not None)
    both = [*asked, *_expected(known)]
    prompts = [tokenizer.encode_pieces(tokenizer.question(conversation(q, None, system_prompt))) for q, _ in both]
    limits = [_limit(len(tokenizer.encode(answer))) for _, answer in both]
    order = sorted(range(len(both)), key=lambda at: (-len(prompts[at]) - limits[at], at))
    answers: dict[int, dict[str, Any]] = {}
    while len(answers) < len(both):
        progress("asking", len(answers), len(both))
        longest = order[len(answers)]
        size = min(_AT_ONCE, max(_TOKENS_AT_ONCE // (len(prompts[longest]) + limits[longest]), 1))
        batch = order[len(answers) :][:size]
        width = max(len(prompts[at]) for at in batch)
        padded = torch.tensor([[tokenizer.pad_id] * (width - len(prompts[at])) + prompts[at] for at in batch])
        mask = torch.tensor([[0] * (width - len(prompts[at])) + [1] * len(prompts[at]) for at in batch])
        with torch.no_grad():
            made = model.generate(
                input_ids=padded,
                attention_mask=mask,
                max_new_tokens=max(limits[at] for at in batch),
                do_sample=False,
                pad_token_id=tokenizer.pad_id,
                eos_token_id=tokenizer.stop_ids,
                logits_processor=[check],
            )
        for at, ids in zip(batch, made[:, width:].tolist(), strict=True):
            said = ids[: limits[at]]
            end = next((n for n, token in enumerate(said) if token in tokenizer.stop_ids), None)
            answers[at] = {"text": tokenizer.decode(said[:end]).strip(), "stopped": end is not None}
    _write(out, [answers[at] for at in range(len(both))], loss)
    return {"answers": len(both)}


def measure_export(
    *, model: Path, general: Path, asked: Pairs, system_prompt: str | None, out: Path, progress: Progress
) -> dict[str, Any]:
    """Write what an exported GGUF answers in llama.cpp, as `measure_model` does, without losses."""
    progress("loading the model into llama.cpp")
    both = [*asked, *_expected(json.loads(general.read_bytes()))]
    server = LlamaCpp(model)
    prompts = [server.question(conversation(question, None, system_prompt)) for question, _ in both]
    limits = [_limit(len(server.tokenize([Piece(answer, False)]))) for _, answer in both]
    longest = max(map(sum, zip(map(len, prompts), limits, strict=True)))
    runtime = LibLlama(model, longest=longest, at_once=max(min(_AT_ONCE, _TOKENS_AT_ONCE // longest), 1))
    answers = []
    for number, (text, stopped) in enumerate(runtime.answers(prompts, limits)):
        progress("asking", number, len(both))
        answers.append({"text": text.strip(), "stopped": stopped})
    _write(out, answers, {})
    return {"answers": len(both)}


def _write(out: Path, answers: Sequence[dict[str, Any]], loss: dict[str, float]) -> None:
    rounded = {kind: round(value, 4) for kind, value in loss.items()}
    out.write_bytes(readable_json({"answers": answers, "loss": rounded}))


def _limit(expected: int) -> int:
    """How many tokens an answer may have: whoever has not come to an end in twice what is needed does not stop."""
    return max(2 * expected, _LEAST_TOKENS)


def _expected(known: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["question"], item["answers"][0]) for item in known["items"]]


def _sample(datasets: Iterable[Path], kind: str, held: bool) -> Iterator[Row]:
    """Rows of one kind, up to about `_TOKENS_OF_A_KIND`; an edited row leaves the choice of the others as it is."""
    rows = (
        (digest, row)
        for digest, row in distinct_rows(datasets, held=held, replayed=False)
        if row.kind == kind and row.given < _LONGEST - 1
    )
    tokens = 0
    for _, row in heapq.nsmallest(_ROWS_OF_A_KIND, rows):
        if tokens < _TOKENS_OF_A_KIND:
            yield Row(kind, row.ids[:_LONGEST], row.given)
            tokens += len(row.ids[:_LONGEST]) - row.given


def _loss(model: Any, rows: Sequence[Row]) -> float:
    """The mean negative log-likelihood of the learned tokens, each foreseen from those before it."""
    import torch

    total, tokens = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            logits = model(ids, logits_to_keep=len(row.learned) + 1).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, row.first :], reduction="sum").item()
        tokens += len(row.learned)
    return total / max(tokens, 1)
