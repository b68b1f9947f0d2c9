"""Numbers of a configuration or of a file's metadata, checked as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlmbuild.errors import DlmError, Where


@dataclass(frozen=True, slots=True)
class Fields:
    """Numbers by name, checked as they are read."""

    data: dict[str, Any]
    where: Where
    error: type[DlmError]

    def count(self, key: str, most: int = (1 << 31) - 1) -> int:
        value = self.data.get(key)
        if type(value) is not int or not 1 <= value <= most:
            raise self.error(f"{key} is {value!r}", where=self.where, why=f"a whole number from 1 to {most} is needed")
        return value

    def size(self, key: str) -> float:
        value = self.data.get(key)
        if type(value) not in (int, float) or not 0 < value < 1e30:  # type: ignore[operator]
            raise self.error(f"{key} is {value!r}", where=self.where, why="a number above 0 is needed")
        return float(value)  # type: ignore[arg-type]

    def sizes(self, key: str, length: int) -> tuple[float, ...]:
        values = self.data.get(key)
        if not isinstance(values, list) or len(values) != length:
            raise self.error(f"{key} is no list of {length} numbers", where=self.where)
        return tuple(Fields({key: value}, self.where, self.error).size(key) for value in values)

    def require(self, key: str, wanted: Any, family: str) -> None:
        """Refuse a value other than `wanted`; None and nothing at all count as `wanted`."""
        if self.data.get(key) not in (None, wanted):
            raise self.error(
                f"{key} is {self.data[key]!r}",
                where=self.where,
                why=f"llama.cpp computes {family} with {wanted!r} here",
            )
