"""The gate: a small network that says which of a document's named adapters a question belongs to.

What it sees of a text is what the bare base makes of it a third of the way up, the mean of its hidden states: it tells
questions that it has not learned apart better than words, token embeddings or higher layers do (SmolLM2-135M, three
documents: 8 of 10, to 6 or 7). It learns from the questions that train one adapter alone, and from the prose of such,
and is measured on those that it has not learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import StoreError, TrainingError, Where
from dlmbuild.io.digest import readable_json, sha256_json
from dlmbuild.io.progress import Progress
from dlmbuild.train.determinism import make_deterministic
from dlmbuild.train.model import PLAIN, load_base

WEIGHTS, CONFIG = "gate.safetensors", "gate_config.json"
SURE = 0.6
"""How probable an adapter must be at least, to be taken for it."""
_FOLDS = 5
Texts = Sequence[Sequence[str]]
"""(adapter, text), again and again."""


class Choice(NamedTuple):
    """The adapter for a question."""

    adapter: str
    why: str
    """In words."""


@dataclass(frozen=True)
class Gate:
    """A gate that was trained, or that says why it could not be."""

    config: Mapping[str, Any]
    _weights: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Gate:
        """Read what `train_gate` wrote. Raises StoreError where that is damaged."""
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / CONFIG).read_bytes())
            weights = load_file(folder / WEIGHTS)
            if not config["cold"] and weights["out.weight"].shape[0] != len(config["adapters"]):
                raise ValueError("it was trained for other adapters")
            return cls(config, weights)
        except Exception as error:
            raise StoreError("the gate is damaged", where=Where(str(folder)), why=str(error), do="doit gate") from None

    def choose(self, model: Any, tokenizer: Tokenizer, question: str) -> Choice:
        """The adapter for a question; `model` is the bare base. Where it is not sure, it is the first one."""
        import torch

        names: list[str] = self.config["adapters"]
        if self.config["cold"]:
            return Choice(names[0], f"the first adapter: {self.config['cold']}")
        with torch.no_grad():
            found = _probable(self._weights, states_of(model, tokenizer, [question]))[0].tolist()
        best = max(range(len(names)), key=lambda at: found[at])
        if found[best] < SURE:
            return Choice(names[0], f"the first adapter: the gate is only {found[best]:.0%} sure of {names[best]}")
        return Choice(names[best], f"the gate is {found[best]:.0%} sure")


def train_gate(
    *,
    base: Path,
    adapters: Sequence[str],
    texts: Texts,
    probes: Texts,
    settings: Mapping[str, Any],
    base_identity: Mapping[str, Any],
    seed: int,
    threads: int,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train the gate of `adapters` and write it into the folder `out`; returns what there is to say of it.

    `probes` are only asked. `settings` are those of `training.gate`. An adapter with fewer texts than its
    `cold_start_floor` makes no gate: then `gate_config.json` says so under `cold`.
    """
    import torch
    from safetensors.torch import save

    count = {name: sum(adapter == name for adapter, _ in texts) for name in adapters}
    least, floor = min(adapters, key=lambda name: count[name]), settings["cold_start_floor"]
    told: dict[str, Any] = {"adapters": list(adapters), "texts": count, "settings": dict(settings), "cold": ""}
    told["base"] = dict(base_identity)
    weights: dict[str, Any] = {}
    if count[least] < floor:
        texts_there = f"{count[least]} text{'s' * (count[least] != 1)}"
        told["cold"] = f"{least} has {texts_there} to learn from, and the gate wants {floor} of each"
    else:
        progress("loading torch and the base")
        make_deterministic(seed, threads)
        tokenizer = Tokenizer.from_base(base)
        model = load_base(base, PLAIN, tokenizer.pad_id).eval()
        states = states_of(model, tokenizer, [text for _, text in texts], progress)
        labels = torch.tensor([adapters.index(adapter) for adapter, _ in texts])
        if count[least] > 1:  # else nothing of it would be left to learn from
            told["held_out"] = _held_out(states, labels, _folds(texts), settings, seed, progress)
        weights = _trained(states, labels, settings, seed)
        if probes:
            asked = states_of(model, tokenizer, [text for _, text in probes])
            wanted = torch.tensor([adapters.index(adapter) for adapter, _ in probes])
            told["probes"] = _right(_probable(weights, asked), wanted)
    (out / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
    (out / CONFIG).write_bytes(readable_json(told))
    return told


def states_of(model: Any, tokenizer: Tokenizer, texts: Sequence[str], progress: Progress | None = None) -> Any:
    """(texts, width): of each text the mean over its tokens of the hidden states a third of the way up the bare base.

    Without the first token, whose state says little: all others attend to it for want of something better.
    """
    import torch

    found = []
    config = model.config.get_text_config()
    layer = max(1, config.num_hidden_layers // 3)
    with torch.no_grad():
        for number, text in enumerate(texts):
            ids = torch.tensor([tokenizer.encode(f" {text}")[: config.max_position_embeddings]])
            states = model(input_ids=ids, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states
            found.append(states[layer][0, min(1, ids.shape[1] - 1) :].float().mean(dim=0))
            if progress:
                progress("reading the texts of the adapters", number + 1, len(texts))
    return torch.stack(found)


def _trained(states: Any, labels: Any, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The weights of a network that tells the texts of each adapter from those of the others."""
    import torch

    torch.manual_seed(seed)
    count = int(labels.max()) + 1
    hidden = torch.nn.Linear(states.shape[1], settings["hidden_proj_dim"])
    out = torch.nn.Linear(settings["hidden_proj_dim"], count)
    weights = {"mean": states.mean(dim=0)}
    weights |= {f"hidden.{name}": value for name, value in hidden.named_parameters()}
    weights |= {f"out.{name}": value for name, value in out.named_parameters()}
    optimizer = torch.optim.AdamW([*hidden.parameters(), *out.parameters()], lr=settings["lr"])
    # An adapter with few texts counts as much as one with many.
    of_each = len(labels) / (count * torch.bincount(labels, minlength=count).clamp_min(1))
    for _ in range(settings["steps"]):
        scores = _scores(weights, states)
        entropy = -(scores.softmax(-1) * scores.log_softmax(-1)).sum(-1).mean()
        loss = torch.nn.functional.cross_entropy(scores, labels, weight=of_each)
        loss = loss - settings["entropy_lambda"] * entropy
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = {name: value.detach().contiguous() for name, value in weights.items()}
    if not all(torch.isfinite(value).all() for value in found.values()):
        raise TrainingError("the gate came to no numbers", do="set training.gate.lr lower (half of it)")
    return found


def _scores(weights: Mapping[str, Any], states: Any) -> Any:
    import torch

    apart = states - weights["mean"]
    apart = torch.nn.functional.normalize(apart, dim=-1) * apart.shape[-1] ** 0.5
    linear, gelu = torch.nn.functional.linear, torch.nn.functional.gelu
    inner = gelu(linear(apart, weights["hidden.weight"], weights["hidden.bias"]))
    return linear(inner, weights["out.weight"], weights["out.bias"])


def _probable(weights: Mapping[str, Any], states: Any) -> Any:
    """(texts, adapters): how probable each adapter is."""
    return _scores(weights, states).softmax(-1)


def _folds(texts: Texts) -> list[int]:
    """In which part each text is held out: of every adapter about as many in each, and few edits move any."""
    found = [0] * len(texts)
    for adapter in {adapter for adapter, _ in texts}:
        of = [at for at, (name, _) in enumerate(texts) if name == adapter]
        for place, at in enumerate(sorted(of, key=lambda at: (sha256_json(list(texts[at])), at))):
            found[at] = place % _FOLDS
    return found


def _held_out(
    states: Any, labels: Any, folds: Sequence[int], settings: Mapping[str, Any], seed: int, progress: Progress
) -> dict[str, Any]:
    """How right gates are about the texts that they did not learn: one gate for each part of the texts."""
    import torch

    probable = torch.zeros(len(labels), int(labels.max()) + 1)
    of = torch.tensor(folds)
    for fold in sorted(set(folds)):
        progress("asking it what it has not learned", fold, _FOLDS)
        weights = _trained(states[of != fold], labels[of != fold], settings, seed)
        probable[of == fold] = _probable(weights, states[of == fold])
    return _right(probable, labels)


def _right(probable: Any, labels: Any) -> dict[str, Any]:
    """How many are right, and how many of those that it is sure of."""
    best, said = probable.max(dim=-1)
    right, sure = said == labels, best >= SURE
    return {
        "right": int(right.sum()),
        "of": len(labels),
        "sure": {"right": int((right & sure).sum()), "of": int(sure.sum())},
    }
