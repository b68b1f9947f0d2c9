"""Hidden states of packed rows, kept for the next epoch and the next training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlmbuild.io.digest import sha256_json
from dlmbuild.train.kept import Kept
from dlmbuild.train.packing import Packed


class States:
    """States of rows of one base below one layer."""

    def __init__(self, about: Mapping[str, Any], width: int, dtype: str, kept: Kept) -> None:
        """`about` is all that they depend on beside the rows; they are of so many numbers for each token."""
        self._about, self._kept = sha256_json({**about, "width": width}), kept
        self._width, self._dtype = width, dtype

    def has(self, packed: Packed) -> bool:
        """Whether the states of packed rows are here, undamaged; then they count as used now."""
        return self._tensor(self._kept.used(self._name(packed)), packed) is not None

    def get(self, packed: Packed) -> Any:
        """The states of packed rows: a tensor of (tokens, width)."""
        found = self._tensor(self._kept.get(self._name(packed)), packed)
        assert found is not None, "nobody else removes files while a training needs them"
        return found

    def put(self, packed: Packed, states: Any) -> None:
        """Keep the states of packed rows."""
        import torch

        self._kept.put(self._name(packed), states.contiguous().view(torch.uint8).numpy().tobytes())

    def _tensor(self, numbers: bytes | None, packed: Packed) -> Any:
        import torch

        if numbers is None:
            return None
        flat = torch.frombuffer(bytearray(numbers), dtype=getattr(torch, self._dtype))
        tokens = len(packed.ids)
        return flat.view(tokens, self._width) if flat.numel() == tokens * self._width else None

    def _name(self, packed: Packed) -> str:
        return sha256_json([self._about, packed.ids, packed.places])
