"""What a base says by itself to general questions, kept so that a training can hold the model to it.

The set is made once for each base: the base's own answers and continuations, and at each of their tokens the likeliest
next ones. Answers keep what it knows, continuations how it writes: with few of these the perplexity of general text
rises twice as far. While new facts are learned, a few of the texts go along in each step, and a term of the loss is the
Kullback-Leibler divergence from what the base says there (Li and Hoiem 2016, arXiv 1606.09282: learning without
forgetting; Hinton et al. 2015, arXiv 1503.02531: distillation). On SmolLM2-135M that keeps more than training on the
same texts does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import Row, conversation
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import TrainingError, Where
from dlmbuild.io.progress import Progress
from dlmbuild.train.determinism import make_deterministic, order_generator
from dlmbuild.train.packing import Packing, grouped

LIKELIEST = 128
"""Next tokens that are kept of each position; the rest counts as one."""
_SAID = 16
"""Tokens of a text at most: on SmolLM2-135M four texts of 16 in a step keep more than three of 32, in less time."""
_AT_ONCE = 80
"""Prompts. A step of decoding reads all weights: many prompts in a step cost little more than few."""
_TOKENS_AT_ONCE = 512
"""Of the texts, when it is asked for what comes next: all of a vocabulary is computed for each."""
_OF_A_GROUP = 8
"""Few, since the states of a whole group are read for one of its texts."""
_TEMPERATURE = 0.8
_SEED = 1


def make_retention_set(*, base: Path, threads: int, precision: str, out: Path, progress: Progress) -> dict[str, Any]:
    """Ask the model in the folder `base` and write what it says to the file `out`; returns counts of it.

    Safetensors: `ids` (all texts, one after the other), `lengths` and `given` (tokens of each text, and how many of
    them were given to the model), `next_ids` and `next_p` (positions, `LIKELIEST`): at each token that was not given.
    Weights are in fp32; with the `precision` bf16 products may be computed in that where it is faster.
    """
    import torch
    from safetensors.torch import save

    from dlmbuild.train.model import PLAIN, load_base

    progress("loading torch and the base")
    make_deterministic(_SEED, threads, precision)
    tokenizer = Tokenizer.from_base(base)
    model = load_base(base, PLAIN, tokenizer.pad_id).eval()
    questions = _questions(tokenizer, None)
    openings = [tokenizer.encode(text) for text in _asked()["openings"]]
    texts: list[tuple[list[int], int]] = []
    for at in range(0, len(questions), _AT_ONCE):
        progress("asking the base", at, len(questions))
        some = questions[at : at + _AT_ONCE]
        said = _said(model, tokenizer, some, _SAID, do_sample=False)
        texts += [(text, len(prompt)) for text, prompt in zip(said, some, strict=True)]
    progress("letting the base write", 0, 1)
    sampled = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": _TEMPERATURE}
    texts += [(text, 1) for text in _said(model, tokenizer, openings, _SAID, **sampled)]
    packing = Packing(model)
    rows = [Row("retention", tuple(text), given) for text, given in texts]
    ids, scores = [], []
    with torch.no_grad():
        for group in grouped([len(row.ids) for row in rows], _TOKENS_AT_ONCE if packing.shares else 0):
            progress("what it would say next", group[0], len(rows))
            logits = packing.logits(model, [rows[at] for at in group])
            best = logits.log_softmax(-1).topk(min(LIKELIEST, logits.shape[-1]), dim=-1)
            ids.append(best.indices.to(torch.int32))
            scores.append(best.values.exp())
    numbers = {
        "ids": torch.tensor([token for row, _ in texts for token in row], dtype=torch.int32),
        "lengths": torch.tensor([len(row) for row, _ in texts], dtype=torch.int32),
        "given": torch.tensor([given for _, given in texts], dtype=torch.int32),
        "next_ids": torch.cat(ids),
        "next_p": torch.cat(scores),
    }
    out.write_bytes(save(numbers))
    return {"texts": len(texts), "tokens": len(numbers["next_ids"])}


@dataclass(frozen=True)
class RetentionSet:
    """A set that was made, to be drawn from: which texts a step takes depends on its number and the seed alone."""

    rows: list[Row]
    _next: list[tuple[Any, Any]]
    """Of each text: (positions, `LIKELIEST`) ids, and how likely the base takes them to be."""
    _seed: int

    @classmethod
    def read(cls, path: Path, seed: int) -> RetentionSet:
        """Read a set that `make_retention_set` wrote. Raises TrainingError for a file that is none."""
        from safetensors.torch import load_file

        try:
            found = load_file(path)
            lengths, given = found["lengths"].tolist(), found["given"].tolist()
            texts = found["ids"].split(lengths)
            learned = [length - known for length, known in zip(lengths, given, strict=True)]
            rows = [Row("retention", tuple(ids.tolist()), known) for ids, known in zip(texts, given, strict=True)]
            both = zip(found["next_ids"].long().split(learned), found["next_p"].split(learned), strict=True)
            return cls(rows, list(both), seed)
        except Exception as error:
            raise TrainingError(
                "the base's own answers cannot be read", where=Where(str(path)), why=str(error), do="doit retention"
            ) from None

    def asked_after(self, system_prompt: str, tokenizer: Tokenizer) -> RetentionSet:
        """The same answers to the same questions, each after the system prompt of a document.

        With that the model will be asked. What is kept without it alone is lost with it: asked who wrote Romeo and
        Juliet, a model that answers questions about a library named a function of it. Raises TrainingError for a set
        of other questions.
        """
        before, after = (_questions(tokenizer, prompt) for prompt in (None, system_prompt))
        if any(list(row.ids[: row.given]) != ids for row, ids in zip(self.rows, before, strict=False)):
            why = "its first texts are no answers to the questions that are asked now"
            raise TrainingError("the base's own answers are to others", why=why, do="doit retention")
        asked = [
            replace(row, ids=(*ids, *row.ids[row.given :]), given=len(ids))
            for row, ids in zip(self.rows, after, strict=False)
        ]
        return replace(self, rows=[*asked, *self.rows[len(asked) :]])

    @property
    def groups(self) -> list[list[Row]]:
        """The texts as frozen layers compute them together: most begin alike, with what a template writes."""
        return [self.rows[at : at + _OF_A_GROUP] for at in range(0, len(self.rows), _OF_A_GROUP)]

    def drawn(self, step: int, count: int) -> list[int]:
        """The texts of a step, counted from 0: all of them in an order, `count` at a time, then all in another one."""
        import torch

        turn, at = divmod(step * count, len(self.rows))
        orders = [order_generator(self._seed, number) for number in (turn, turn + 1)]
        texts = [text for order in orders for text in torch.randperm(len(self.rows), generator=order).tolist()]
        return texts[at : at + count]

    def asked(self, text: int) -> Any:
        """The tokens whose probabilities are compared with those that the base gave them: (places, `LIKELIEST`)."""
        return self._next[text][0]

    def divergence(self, said: Any, text: int) -> Any:
        """How far a model is from what the base said, in nats, at each token of a text that the base said.

        `said` are the logarithms of the probabilities that the model gives to what was `asked`.
        """
        p = self._next[text][1].to(said.device)
        rest, said_rest = (1 - p.sum(-1)).clamp_min(1e-9), (1 - said.exp().sum(-1)).clamp_min(1e-9)
        return (p * (p.clamp_min(1e-9).log() - said)).sum(-1) + rest * (rest / said_rest).log()


def likely_rows(path: Path) -> list[Row]:
    """Rows of as many tokens as the texts of a set have, whatever these say; without a set the longest there may be.

    Read without torch.
    """
    from safetensors import SafetensorError, safe_open

    sizes = [(1 + _SAID, 1)]
    try:
        with safe_open(path, "numpy") as found:
            lengths, given = (found.get_tensor(name).tolist() for name in ("lengths", "given"))
        sizes = list(zip(lengths, given, strict=True))
    except (OSError, SafetensorError, ValueError):
        pass  # not made yet
    return [
        Row("retention", tuple(-(number << 20) - at for at in range(length)), known)
        for number, (length, known) in enumerate(sizes, 1)
    ]


def _asked() -> dict[str, list[str]]:
    asked: dict[str, list[str]] = json.loads(Path(__file__).with_suffix(".json").read_bytes())
    return asked


def _questions(tokenizer: Tokenizer, system_prompt: str | None) -> list[list[int]]:
    """The tokens of each question as it is asked."""
    return [
        tokenizer.encode_pieces(tokenizer.question(conversation(text, None, system_prompt)))
        for text in _asked()["questions"]
    ]


def _said(model: Any, tokenizer: Tokenizer, prompts: list[list[int]], most: int, **how: Any) -> list[list[int]]:
    """Each prompt with what the model says to it, at most so many tokens and up to the one that ends it."""
    import torch

    width = max(map(len, prompts))
    fill = [width - len(prompt) for prompt in prompts]
    with torch.no_grad():
        made = model.generate(
            input_ids=torch.tensor([[tokenizer.pad_id] * more + ids for more, ids in zip(fill, prompts, strict=True)]),
            attention_mask=torch.tensor([[0] * more + [1] * (width - more) for more in fill]),
            max_new_tokens=most,
            pad_token_id=tokenizer.pad_id,
            eos_token_id=tokenizer.stop_ids,
            use_cache=True,
            **how,
        )
    texts = []
    for prompt, ids in zip(prompts, made[:, width:].tolist(), strict=True):
        end = next((at for at, token in enumerate(ids) if token in tokenizer.stop_ids), len(ids))
        texts.append(prompt + ids[: end + 1])
    return texts
