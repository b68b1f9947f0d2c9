from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dlmbuild.io.digest import sha256_bytes
from dlmbuild.io.statcache import StatCache


@pytest.fixture
def cache(tmp_path: Path) -> StatCache:
    (tmp_path / "home").mkdir()
    return StatCache(tmp_path / "home" / "stat.sqlite")


def settle() -> None:
    """Wait until a file that was just written is clearly in the past."""
    time.sleep(0.03)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    settle()
    return path


def test_reads_once(cache: StatCache, tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"content")
    assert cache.digest(file) == sha256_bytes(b"content")
    assert cache.bytes_hashed == 7
    assert cache.digest(file) == sha256_bytes(b"content")
    assert cache.bytes_hashed == 7


def test_remembers_between_processes(cache: StatCache, tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"content")
    cache.digest(file)
    again = StatCache(tmp_path / "home" / "stat.sqlite")
    assert again.digest(file) == sha256_bytes(b"content")
    assert again.bytes_hashed == 0


def test_a_touched_file_is_read_again_and_is_the_same(cache: StatCache, tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"content")
    before = cache.digest(file)
    os.utime(file, (1, 1))
    assert cache.digest(file) == before
    assert cache.bytes_hashed == 14


def test_a_rewrite_that_restores_size_and_mtime_is_seen(cache: StatCache, tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"content")
    cache.digest(file)
    stat = file.stat()
    file.write_bytes(b"CONTENT")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_mtime_ns == stat.st_mtime_ns and file.stat().st_size == stat.st_size
    assert cache.digest(file) == sha256_bytes(b"CONTENT")


def test_a_file_put_in_the_place_of_another_is_seen(cache: StatCache, tmp_path: Path) -> None:
    file, other = write(tmp_path / "file", b"content"), write(tmp_path / "other", b"CONTENT")
    cache.digest(file)
    stat = file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(file)
    assert cache.digest(file) == sha256_bytes(b"CONTENT")


def test_a_file_written_in_this_instant_is_not_believed_later(cache: StatCache, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    os.utime(file, ns=(0, time.time_ns() + 10**12))  # its times never lie in the past
    assert cache.digest(file) == sha256_bytes(b"content")
    assert cache.digest(file) == sha256_bytes(b"content")
    assert cache.bytes_hashed == 14


def test_a_file_that_changes_while_it_is_read_is_read_again(
    cache: StatCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "file", b"content")
    reads = []

    def changing(path: Path) -> str:
        data = path.read_bytes()
        reads.append(data)
        if len(reads) == 1:
            write(path, b"longer content")
        return sha256_bytes(data)

    monkeypatch.setattr("dlmbuild.io.statcache.sha256_file", changing)
    assert cache.digest(file) == sha256_bytes(b"longer content")
    assert reads == [b"content", b"longer content"]


def test_hard_links_share_a_row(cache: StatCache, tmp_path: Path) -> None:
    file, link = write(tmp_path / "file", b"content"), tmp_path / "link"
    os.link(file, link)
    settle()
    cache.digest(file)
    assert cache.digest(link) == sha256_bytes(b"content")
    assert cache.bytes_hashed == 7


def test_remember_spares_the_reading(cache: StatCache, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    cache.remember(file, sha256_bytes(b"content"))
    assert cache.digest(file) == sha256_bytes(b"content")
    assert cache.bytes_hashed == 0


@pytest.mark.parametrize("name", ["missing", "folder"])
def test_what_is_no_readable_file(cache: StatCache, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        cache.digest(tmp_path / name)


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut", "scribbled"])
def test_a_damaged_cache_only_costs_hashing(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "stat.sqlite"
    files = [tmp_path / f"{n}" for n in range(200)]
    for file in files:
        file.write_text(f"content {file.name}")
    settle()
    first = StatCache(place)
    for file in files:
        first.digest(file)
    first._db.close()  # type: ignore[union-attr]  # its log is folded into the file
    whole = place.read_bytes()
    assert len(whole) >= 8192
    if damage == "scribbled":  # the header stays; every page after it is noise
        whole = whole[:100] + bytes(255 - b for b in whole[100:])
    place.write_bytes({"garbage": b"no database" * 99, "empty": b"", "cut": whole[:5000]}.get(damage, whole))
    damaged = StatCache(place)
    for file in files * 2:
        assert damaged.digest(file) == sha256_bytes(file.read_bytes())
    assert damaged.bytes_hashed == sum(file.stat().st_size for file in files)


def test_a_cache_damaged_under_a_running_build(cache: StatCache, tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"content")
    cache.digest(file)
    for part in (tmp_path / "home").iterdir():
        part.unlink()
    assert cache.digest(file) == sha256_bytes(b"content")


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file stands where the folder should be")
    file = write(tmp_path / "file", b"content")
    cache = StatCache(tmp_path / "home" / "stat.sqlite")
    assert cache.digest(file) == cache.digest(file) == sha256_bytes(b"content")
    cache.remember(file, "0" * 64)


def test_a_full_disk_does_not_stop_a_build(cache: StatCache, tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"content")
    cache.digest(file)

    class Full:
        def execute(self, *_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    cache._db = Full()  # type: ignore[assignment]
    assert cache.digest(file) == sha256_bytes(b"content")


def test_threads_share_one(cache: StatCache, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}", f"content {n}".encode()) for n in range(8)]
    wrong: list[object] = []

    def work() -> None:
        try:
            for _ in range(20):
                wrong.extend(f for f in files if cache.digest(f) != sha256_bytes(f.read_bytes()))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_processes_share_one(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    for n in range(5):
        write(tmp_path / f"{n}.txt", f"content {n}".encode())
    script = (
        "import sys; from pathlib import Path; from dlmbuild.io.statcache import StatCache\n"
        "folder = Path(sys.argv[1]); cache = StatCache(folder / 'home' / 'stat.sqlite')\n"
        "for _ in range(30):\n"
        "    for file in sorted(folder.glob('*.txt')): cache.digest(file)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(4)
    ]
    assert [(process.communicate()[1], process.returncode) for process in running] == [(b"", 0)] * 4
    after = StatCache(tmp_path / "home" / "stat.sqlite")
    for file in tmp_path.glob("*.txt"):
        assert after.digest(file) == sha256_bytes(file.read_bytes())
    assert after.bytes_hashed == 0


def test_times_that_no_clock_shows_yet(cache: StatCache, tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"a")
    for seconds in (13_569_465_600, -13_569_465_600):  # the years 2400 and 1540
        os.utime(path, (seconds, seconds))
        assert cache.digest(path) == cache.digest(path) == sha256_bytes(b"a")
