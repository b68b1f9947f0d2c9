"""What a document's adapters were trained on before, as the graph asks and tells it (dlmbuild/replay/)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.build.reading import read_json
from dlmbuild.build.step import Archive
from dlmbuild.build.trained import Trained
from dlmbuild.errors import DataError
from dlmbuild.io.digest import canonical_json

if TYPE_CHECKING:  # what a document without a history never needs is imported where it is used
    from dlmbuild.data.rows import Row
    from dlmbuild.data.tokenizer import Tokenizer
    from dlmbuild.replay.history import History

TAUGHT = "history.json"
"""Among the shards of a dataset: the sections that its rows teach, where they are to be remembered."""
_SHOWN = 40
"""Characters of a section that are shown."""


def share(trained: Trained) -> float:
    """How much of what was deleted a document wants replayed: a share of its rows; 0 where it wants no history."""
    return float(read_json(trained.store.document)["training"].get("replay") or 0)


def index_file(trained: Trained) -> Path:
    """What decides which sections may be replayed, beside the document."""
    return trained.store.replay / "index.json"


def history(trained: Trained, archive: Archive) -> History:
    """The history of a document. Raises StoreError where it is damaged."""
    from dlmbuild.replay.history import History

    return History(trained.store.replay, lambda key: archive.records.load(key) is not None)


def deleted(trained: Trained, archive: Archive) -> dict[str, int]:
    """The sections that may be replayed to an adapter now, each with its age in versions of the document."""
    from dlmbuild.replay.delta import taught

    sections = trained.sections()
    if held := trained.plan().get("validation"):
        from dlmbuild.data.validation import split

        with suppress(DataError):  # which the dataset tells, with its place
            sections = split(sections, held).trained
    return history(trained, archive).ages(trained.name, taught(sections), _said(trained))


def offer(trained: Trained, archive: Archive, training: str) -> None:
    """Note, before a training with this key, what it is going to train. The lock is held."""
    _tell(trained, lambda sections: history(trained, archive).offer(trained.name, sections, _said(trained), training))


def keep(trained: Trained, archive: Archive) -> None:
    """Note that the adapter in place was trained on the dataset in place. The lock is held."""
    _tell(trained, lambda sections: history(trained, archive).keep(trained.name, sections, _said(trained)))


def describe(trained: Trained, archive: Archive) -> list[dict[str, Any]]:
    """The deleted sections that an adapter may be replayed, as of its last training: `section`, `age`, `begins`."""
    if not index_file(trained).exists():
        return []
    known = history(trained, archive)
    ages = sorted(known.state(trained.name).ages.items(), key=lambda one: (one[1], one[0]))
    return [{"section": name, "age": age, "begins": first_words(known.section(name))} for name, age in ages]


def write_taught(sections: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Leave what the rows of a dataset teach in its folder `out`."""
    from dlmbuild.replay.delta import taught

    (out / TAUGHT).write_bytes(canonical_json({"sections": taught(sections)}))


class Replay:
    """The rows of deleted sections that go into a dataset, and what is to be told of them."""

    def __init__(
        self, trained: Trained, archive: Archive, asked: Mapping[str, Any], held: Sequence[dict[str, Any]]
    ) -> None:
        """`asked` is what the key of the dataset says of replay, `held` what is held out of training."""
        self._trained, self._archive = trained, archive
        self._share, self._ages = asked.get("share", 0), asked.get("versions ago", {})
        self._held = held
        self.notes: dict[str, Any] = {}
        """For the record; empty where nothing was deleted."""
        self.words = ""

    def rows(self, beside: int, system_prompt: str | None, tokenizer: Tokenizer, sequence_len: int) -> list[Row]:
        """Those that go with so many rows of the document."""
        from dlmbuild.data.replayed import old_rows
        from dlmbuild.data.validation import texts
        from dlmbuild.replay.sampler import most, sample

        if not self._ages:
            return []
        known = history(self._trained, self._archive)
        said = {name: known.section(name) for name in self._ages}
        sections = [(name, said[name], age) for name, age in self._ages.items()]
        old, left = old_rows(sections, texts(self._held), system_prompt, tokenizer, sequence_len)
        drawn = sample([(one.row.digest, one.age) for one in old], most(self._share, beside))
        taken = dict.fromkeys(old[at].section for at in drawn)
        self.notes = {"sections": list(taken), "of_sections": len(said), "rows": len(drawn), "of_rows": len(old)}
        self.notes |= {"left_out": left} if left else {}
        shown = "".join(f"; {count} {why}" for why, count in left.items())
        named = ", ".join(first_words(said[name]) for name in taken)
        gone = "1 deleted section" if len(said) == 1 else f"{len(said)} deleted sections"
        self.words = f"replayed: {len(drawn)} of {len(old)} rows of {gone}{shown}" + f" ({named})" * bool(named)
        return [old[at].row for at in drawn]


def first_words(section: Mapping[str, Any]) -> str:
    """What a section begins with, in quotation marks."""
    return shortened(section["text"] if section["type"] == "prose" else section["pairs"][0]["question"])


def shortened(text: str) -> str:
    """The beginning of a text, in quotation marks."""
    line = " ".join(text.split())
    return f'"{line[:_SHOWN]}…"' if len(line) > _SHOWN else f'"{line}"'


def _tell(trained: Trained, told: Callable[[list[Mapping[str, Any]]], None]) -> None:
    path = trained.store.dataset.with_suffix("") / TAUGHT
    if share(trained) and path.exists():
        told(read_json(path)["sections"])


def _said(trained: Trained) -> set[str]:
    from dlmbuild.replay.delta import said_by

    return said_by(read_json(trained.store.document)["sections"])
