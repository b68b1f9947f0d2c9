from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dlmbuild.errors import StoreError
from dlmbuild.store.objects import Objects
from dlmbuild.store.outputs import AdapterVersions, Files, Folder, Outputs

Put = Callable[[str], str]


def mismatch(place: Outputs, outputs: dict[str, str], objects: Objects) -> str:
    return place.mismatch(outputs, objects.cache)


class TestFiles:
    def test_published_files_are_as_the_record_says(self, objects: Objects, put: Put, tmp_path: Path) -> None:
        place = Files({"a": tmp_path / "x" / "a.json", "b": tmp_path / "y" / "b.gguf"})
        outputs = {"a": put("A"), "b": put("B")}
        assert list(place.targets.values()) == [tmp_path / "x" / "a.json", tmp_path / "y" / "b.gguf"]
        assert mismatch(place, outputs, objects) == f"{tmp_path / 'x' / 'a.json'} is missing"
        place.publish(outputs, objects)
        place.publish(outputs, objects)
        assert mismatch(place, outputs, objects) == ""
        assert (tmp_path / "y" / "b.gguf").read_text() == "B"

    def test_a_changed_file_is_named_and_mended(self, objects: Objects, put: Put, tmp_path: Path) -> None:
        place, outputs = Files({"a": tmp_path / "a", "b": tmp_path / "b"}), {"a": put("A"), "b": put("B")}
        place.publish(outputs, objects)
        untouched = (tmp_path / "a").stat()
        (tmp_path / "b").write_text("edited")
        assert mismatch(place, outputs, objects) == f"{tmp_path / 'b'} was changed after it was built"
        place.publish(outputs, objects)
        assert mismatch(place, outputs, objects) == ""
        assert (tmp_path / "a").stat() == untouched  # what is right is left alone

    def test_other_files_than_recorded(self, objects: Objects, put: Put, tmp_path: Path) -> None:
        assert mismatch(Files({"a": tmp_path / "a"}), {"b": put("B")}, objects)

    def test_a_folder_in_the_way(self, objects: Objects, put: Put, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        assert mismatch(Files({"a": tmp_path / "a"}), {"a": put("A")}, objects)


class TestFolder:
    def test_members_lie_beside_the_index(self, objects: Objects, put: Put, tmp_path: Path) -> None:
        place = Folder(tmp_path / "dataset.json", "dataset")
        outputs = {"dataset.json": put("index"), "rows.jsonl": put("rows")}
        assert list(place.targets.values()) == [tmp_path / "dataset.json"]
        place.publish(outputs, objects)
        assert (tmp_path / "dataset" / "rows.jsonl").read_text() == "rows"
        assert mismatch(place, outputs, objects) == ""
        (tmp_path / "dataset" / "rows.jsonl").unlink()
        assert mismatch(place, outputs, objects) == f"{tmp_path / 'dataset' / 'rows.jsonl'} is missing"

    def test_a_member_that_is_no_more_goes(self, objects: Objects, put: Put, tmp_path: Path) -> None:
        place = Folder(tmp_path / "dataset.json", "dataset")
        place.publish({"dataset.json": put("1"), "a.jsonl": put("a"), "b.jsonl": put("b")}, objects)
        place.publish({"dataset.json": put("2"), "b.jsonl": put("b")}, objects)
        assert [p.name for p in (tmp_path / "dataset").iterdir()] == ["b.jsonl"]

    def test_the_index_names_the_folder(self, objects: Objects, put: Put, tmp_path: Path) -> None:
        place = Folder(tmp_path / "base.json")
        old = {"base.json": put(json.dumps({"revision": "r1"})), "config.json": put("1")}
        new = {"base.json": put(json.dumps({"revision": "r2"})), "config.json": put("2")}
        place.publish(old, objects)
        place.publish(new, objects)
        assert (tmp_path / "r2" / "config.json").read_text() == "2"
        assert (tmp_path / "r1" / "config.json").read_text() == "1"  # another revision: somebody may still read it
        assert mismatch(place, new, objects) == ""
        assert "changed" in mismatch(place, old, objects)

    def test_the_index_comes_last(
        self, objects: Objects, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place, outputs = Folder(tmp_path / "dataset.json", "dataset"), {"dataset.json": put("1"), "a": put("a")}
        placed: list[str] = []
        monkeypatch.setattr(Objects, "place", lambda self, sha256, goal, linked: placed.append(goal.name))
        (tmp_path / "dataset").mkdir()
        place.publish(outputs, objects)
        assert placed == ["a", "dataset.json"]

    @pytest.mark.parametrize("revision", ["..", "../../x", "/etc", "", ".hidden", "a/b", "a b", "x\n"])
    def test_a_hostile_revision(self, objects: Objects, put: Put, tmp_path: Path, revision: str) -> None:
        outputs = {"base.json": put(json.dumps({"revision": revision})), "config.json": put("1")}
        home = tmp_path / "home"
        with pytest.raises(StoreError, match="cannot be the name of a folder"):
            Folder(home / "base.json").publish(outputs, objects)
        assert not home.exists()


class TestAdapterVersions:
    @pytest.fixture
    def place(self, tmp_path: Path) -> AdapterVersions:
        return AdapterVersions(tmp_path / "adapter")

    @pytest.fixture
    def adapter(self, put: Put) -> Callable[[str], dict[str, str]]:
        """`adapter("A")`: the outputs of a training that gave the weights A."""
        return lambda weights: {"adapter.json": put(f"about {weights}"), "weights": put(weights), "config": put("c")}

    def test_versions_count_and_the_pointer_follows(
        self, place: AdapterVersions, adapter: Callable[[str], dict[str, str]], objects: Objects
    ) -> None:
        first, second = adapter("A"), adapter("B")
        place.publish(first, objects)
        assert place.current() == place.root / "versions" / "v0001"
        place.publish(second, objects)
        assert place.current().name == "v0002"
        assert (place.root / "current.txt").read_text() == "versions/v0002\n"
        assert sorted(p.name for p in place.current().iterdir()) == ["config", "weights"]
        assert sorted(p.name for p in (place.root / "versions").iterdir()) == ["v0001", "v0002"]
        assert mismatch(place, second, objects) == ""
        assert mismatch(place, first, objects) != ""

    def test_an_adapter_that_is_there_is_pointed_to_again(
        self, place: AdapterVersions, adapter: Callable[[str], dict[str, str]], objects: Objects
    ) -> None:
        first, second = adapter("A"), adapter("B")
        for outputs in (first, second, first, first):
            place.publish(outputs, objects)
        assert place.current().name == "v0001"
        assert (place.root / "adapter.json").read_text() == "about A"
        assert mismatch(place, first, objects) == ""
        assert sorted(p.name for p in (place.root / "versions").iterdir()) == ["v0001", "v0002"]

    def test_a_corrupted_version_is_kept_and_replaced_by_a_sound_one(
        self, place: AdapterVersions, adapter: Callable[[str], dict[str, str]], objects: Objects
    ) -> None:
        outputs = adapter("A")
        place.publish(outputs, objects)
        weights = place.current() / "weights"
        weights.write_text("damaged")
        assert mismatch(place, outputs, objects) == f"{weights} was changed after it was built"
        place.publish(outputs, objects)
        assert mismatch(place, outputs, objects) == ""
        assert place.current().name == "v0002"
        assert weights.read_text() == "damaged"

    def test_a_kill_before_the_pointer_moves(
        self,
        place: AdapterVersions,
        adapter: Callable[[str], dict[str, str]],
        objects: Objects,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        first, second = adapter("A"), adapter("B")
        place.publish(first, objects)

        def kill(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("dlmbuild.store.outputs.write_atomic", kill)
            with pytest.raises(KeyboardInterrupt):
                place.publish(second, objects)
        assert place.current().name == "v0001"
        assert mismatch(place, second, objects) != ""
        place.publish(second, objects)
        assert place.current().name == "v0002"
        assert sorted(p.name for p in (place.root / "versions").iterdir()) == ["v0001", "v0002"]

    def test_what_a_kill_left_and_what_a_person_keeps_here(
        self, place: AdapterVersions, adapter: Callable[[str], dict[str, str]], objects: Objects
    ) -> None:
        versions = place.root / "versions"
        for name in (".1234.staging", "v0001.bak", "v0007 (copy)", "vendor", "v3", "v0004"):
            (versions / name).mkdir(parents=True)
        place.publish(adapter("A"), objects)
        assert place.current().name == "v0005"
        assert not (versions / ".1234.staging").exists()
        assert (versions / "v0001.bak").exists()

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"v0001",
            b"versions/",
            b"versions/../../x",
            b"/etc",
            b"versions/v0001/..",
            b"versions/v1",
            b"\xff\xfe",
            b"versions/v0001\nversions/v0002",
            "versions/v٠٠٠١".encode(),
        ],
    )
    def test_a_hostile_pointer(
        self, place: AdapterVersions, adapter: Callable[[str], dict[str, str]], objects: Objects, text: bytes
    ) -> None:
        outputs = adapter("A")
        place.publish(outputs, objects)
        (place.root / "current.txt").write_bytes(text)
        with pytest.raises(StoreError, match="names no adapter version"):
            place.current()
        assert "names no adapter version" in mismatch(place, outputs, objects)
        place.publish(outputs, objects)
        assert place.current().name == "v0001"

    def test_nothing_trained(self, place: AdapterVersions) -> None:
        with pytest.raises(StoreError, match="nothing has been trained yet"):
            place.current()
