from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path

import pytest

from dlmbuild.data import source_shards
from dlmbuild.data.shards import Shard, read_rows, write_dataset
from dlmbuild.data.source_shards import SourceFile, source_files, write_source_shards
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import DataError, StoreError
from dlmbuild.io.statcache import StatCache
from dlmbuild.store.objects import Objects

LIMIT = 64


class Bench:
    """Source files, and the shards that are made of them."""

    def __init__(self, root: Path, tokenizer: Tokenizer) -> None:
        self.root, self.tokenizer = root, tokenizer
        self.objects = Objects(root / "objects", StatCache(root / "stat.sqlite"))
        self.known: dict[str, object] = {}
        self.texts: dict[str, str] = {}
        self.weights: dict[str, float] = {}

    def files(self) -> list[SourceFile]:
        digests = {}
        for name, text in self.texts.items():
            path = self.root / "docs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            digests[name] = sha256(text.encode()).hexdigest()
        data = [{"path": "docs", "files": digests, "skipped": {}, "weights": self.weights}]
        return source_files(data, [str(self.root / "docs")])

    def write(self, limit: int = LIMIT) -> dict[str, Shard]:
        out = self.root / "dataset"
        out.mkdir(exist_ok=True)
        for old in out.iterdir():
            old.unlink()
        shards, self.known = write_source_shards(
            self.files(), self.tokenizer, limit, out, self.known, self.objects, made_with={"tokenizer.json": "1"}
        )
        assert {path.name for path in out.iterdir()} == set(shards)
        return shards

    def keep(self) -> None:
        """Put the shards away, as a step does with what it made."""
        for path in (self.root / "dataset").iterdir():
            self.objects.put(path)

    def trained(self) -> str:
        """All that is trained, in its order."""
        shards = self.write()
        write_dataset([], self.tokenizer, LIMIT, self.root / "dataset", others=shards)
        index = (self.root / "dataset" / "dataset.json").rename(self.root / "dataset.json")
        return "".join(self.tokenizer.decode(row.ids) for row in read_rows(index))


@pytest.fixture
def bench(tmp_path: Path, tokenizer: Tokenizer) -> Bench:
    return Bench(tmp_path, tokenizer)


def test_a_file_is_trained_below_its_name(bench: Bench) -> None:
    bench.texts = {"in/a.md": "\n\n    keeper\n\nlamp \n\n"}
    assert bench.trained() == "# source: in/a.md\n\n    keeper\n\nlamp"


def test_a_name_of_several_lines_takes_one(bench: Bench) -> None:
    bench.texts = {"a\n\nb.md": "lamp"}
    assert bench.trained() == "# source: a\\n\\nb.md\n\nlamp"


def test_all_of_a_long_file_is_trained(bench: Bench) -> None:
    text = "\n\n".join(f"The keeper trims lamp {number}." for number in range(500))
    bench.texts = {"a.md": text}
    assert bench.trained() == f"# source: a.md\n\n{text}"
    [shard] = bench.write().values()
    assert shard.counts.longest_row <= LIMIT and shard.counts.rows["prose"] > 50


def test_an_edit_rewrites_one_shard_and_a_new_file_two_at_most(bench: Bench) -> None:
    draw = random.Random(1)
    bench.texts = {f"d{n % 9}/f{n:04}.md": f"lamp {n}" for n in range(600)}
    before = bench.write()
    assert 4 <= len(before) <= 20
    for happening in range(30):
        name = draw.choice(sorted(bench.texts))
        if happening % 3 == 0:
            bench.texts[name] += " more"
        elif happening % 3 == 1:
            bench.texts[f"{name}{happening}"] = "new"
        else:
            del bench.texts[name]
        after = bench.write()
        changed = [shard for name, shard in after.items() if before.get(name) != shard]
        assert len(changed) <= (1 if happening % 3 == 0 else 2)
        before = after


def test_a_shard_that_is_known_is_copied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.texts = {f"f{n:04}.md": f"lamp {n}" for n in range(300)}
    first = bench.write()
    bench.keep()
    read: list[str] = []

    def source_text(path: str, digest: str) -> str:
        read.append(path)
        return "lamp"

    monkeypatch.setattr(source_shards, "source_text", source_text)
    assert bench.write() == first and read == []
    bench.keep()
    bench.texts["f0100.md"] = "other"
    bench.write()
    assert 0 < len(read) < 300
    read.clear()
    bench.keep()
    bench.write(limit=128)
    assert len(read) == 300


def test_a_known_shard_whose_object_is_gone_is_made_again(bench: Bench) -> None:
    bench.texts = {"a.md": "lamp"}
    first = bench.write()
    assert bench.write() == first


def test_weights_are_copies(bench: Bench) -> None:
    bench.texts = {f"{n}.md": "lamp" for n in range(200)}
    single = sum(shard.counts.rows["prose"] for shard in bench.write().values())
    for weight in (0.0, 0.25, 1.0, 2.0, 2.5):
        bench.weights = dict.fromkeys(bench.texts, weight)
        rows = sum(shard.counts.rows["prose"] for shard in bench.write().values())
        assert abs(rows / single - weight) < 0.1 and (weight % 1 or rows == single * weight)
    assert single == 200


def test_nothing_but_weights_of_zero(bench: Bench) -> None:
    bench.texts, bench.weights = {"a.md": "lamp"}, {"a.md": 0.0}
    for _ in range(2):
        assert bench.write() == {}
    with pytest.raises(DataError, match="nothing to train"):
        write_dataset([], bench.tokenizer, LIMIT, bench.root, others=bench.write())


def test_a_file_that_changed_after_the_check(bench: Bench, tokenizer: Tokenizer) -> None:
    bench.texts = {"a.md": "lamp"}
    files = bench.files()
    (bench.root / "docs/a.md").write_text("other")
    with pytest.raises(StoreError, match=r"a\.md changed after the check"):
        write_source_shards(files, tokenizer, LIMIT, bench.root, {}, bench.objects, "")
