"""Layers that a training leaves as they are give the same for a row each time: once is enough, over epochs and builds.

What comes out of the last of them is computed for each row with the other wordings of its question, never with what it
happens to share a batch with, and handed to the first trained layer in their place. The model goes on making its own
masks and positions, so nothing of it is known here but that a decoder has `layers`. Freezing lower layers: Howard and
Ruder 2018, arXiv 1801.06146; Lee et al. 2019, arXiv 1911.03090.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.errors import TrainingError
from dlmbuild.io.digest import sha256_json
from dlmbuild.io.progress import Progress
from dlmbuild.train.kept import Kept
from dlmbuild.train.packing import Packed, Packing

FREEZING = "computing what the frozen layers give"
"""Told with how many rows are done."""
_TOLERANCE = 2e-2
"""In logits, for a row in fp32 with and without its states kept; a wrong mask or position is off by more than 1."""


class FrozenPrefix:
    """The lowest `first` layers of a model, of which only what they give for each row is left."""

    def __init__(self, model: Any, first: int, about: Mapping[str, Any], kept: Kept, packing: Packing) -> None:
        """`about` is all that the states depend on beside the layer and a row's ids; their "dtype" among it."""
        self._model, self._first, self._packing = model, first, packing
        self._width, self._dtype = model.config.get_text_config().hidden_size, about["dtype"]
        self._about, self._kept = sha256_json({**about, "layer": first, "width": self._width}), kept
        self._places: dict[tuple[int, ...], tuple[str, list[int]]] = {}
        """Of each row: the name of what was computed of it with some others, and where its tokens are among theirs."""
        self.computed = 0
        """Rows whose states were not there yet."""

    def take_over(self, together: Sequence[Sequence[Row]], progress: Progress) -> None:
        """Compute what is missing for rows, those of each group together, and take the layers out of the model.

        Raises TrainingError for a model that computes something else over kept states than as a whole.
        """
        import torch

        decoder = self._model.get_decoder()
        groups = [[rows[at] for at in some] for rows in together for some in self._packing.groups(rows)]
        row = groups[0][0].ids
        whole = self._logits(row)
        done, total = 0, sum(map(len, groups))
        progress(FREEZING, done, total)
        with torch.no_grad():
            for rows in groups:
                done += len(rows)
                packed = Packed.of([row.ids for row in rows])
                name = sha256_json([self._about, packed.ids, packed.places])
                self._places |= {row.ids: (name, path) for row, path in zip(rows, packed.places, strict=True)}
                if self._kept.get(name) is None:
                    states = self._compute(decoder, packed).contiguous()
                    self._kept.put(name, states.view(torch.uint8).numpy().tobytes())
                    self.computed += len(rows)
                    progress(FREEZING, done, total)
        layers = list(decoder.layers)
        self._handover = _handover(layers[self._first - 1])
        passed = [_handover(layer) for layer in layers[: self._first - 1]]
        decoder.layers = torch.nn.ModuleList([*passed, self._handover, *layers[self._first :]])
        self._packing.announce = self.give
        self.give(Packed.of([row]), [row])
        apart = (self._logits(row) - whole).abs().max().item()
        if whole.dtype == torch.float32 and not apart <= _TOLERANCE:
            raise TrainingError(
                f"this base computes something else over kept states: logits are {apart:.2g} apart",
                why="its upper layers use more of the lower ones than what the last of them gives",
                do="set training.layers to all",
            )

    def give(self, packed: Packed, rows: Sequence[Sequence[int]]) -> None:
        """Say of which rows the next sequence consists. Raises TrainingError where somebody removed their states."""
        import torch

        together = torch.empty(len(packed.ids), self._width, dtype=getattr(torch, self._dtype))
        for path, ids in zip(packed.places, rows, strict=True):
            name, places = self._places[tuple(ids)]
            numbers = self._kept.get(name)
            if numbers is None:
                raise TrainingError(
                    "what the frozen layers give for a row was here as training began, and is gone or damaged",
                    why="a build with a smaller training.cache may have made room, or somebody emptied it",
                    do="build again: the training goes on from its last checkpoint",
                )
            states = torch.frombuffer(bytearray(numbers), dtype=together.dtype).view(-1, self._width)
            together[path] = states[places]
        self._handover.states = together[None].to(self._model.device)

    def _logits(self, ids: Sequence[int]) -> Any:
        import torch

        with torch.no_grad():
            return self._model(input_ids=torch.tensor([list(ids)], device=self._model.device), use_cache=False).logits

    def _compute(self, decoder: Any, packed: Packed) -> Any:
        import torch

        layers = decoder.layers
        last = _handover(layers[self._first])
        decoder.layers = torch.nn.ModuleList([*layers[: self._first], last])
        try:
            decoder(**self._packing.inputs(packed))
        finally:
            decoder.layers = layers
        return last.seen[0].cpu()


def _handover(layer: Any) -> Any:
    """A module in the place of `layer` that gives `states`, if there are any, and else what it is given."""
    import torch

    class Handover(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            # What a decoder asks its layers about themselves: their kind of attention, for example.
            for name, value in vars(layer).items():
                if isinstance(value, str | int | bool) and name != "training":
                    setattr(self, name, value)
            self.states: Any = None
            self.seen: Any = None

        def forward(self, hidden: Any, *_: Any, **__: Any) -> Any:
            self.seen = hidden.detach()
            return hidden if self.states is None else self.states

    return Handover()
