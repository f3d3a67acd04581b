"""Manifests of downloaded data sets, and caches, whatever is in them."""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tfs_datasets import hub_download, local_files
from tfs_datasets.commands import datasets
from tfs_datasets.config import HubConfig, TextConfig
from tfs_datasets.hub import Request
from tfs_datasets.hub_reading import need_reader, read_rows
from tfs_datasets.hub_store import HubFile, HubSet, Wanted, all_sets, find_set, write_manifest
from tfs_datasets.hub_stream import HubStream
from tfs_datasets.text import TextFiles

from tfs_core.errors import DataError, NewerFormatError

COMMIT = "0123456789" * 4
FILE = {"path": "a.csv", "size": 6, "algorithm": "sha256", "checksum": "0" * 64}
DEEP = "[" * 100_000
WANTED = Wanted("o/name")

needs_pipes = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX named pipes")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of a downloaded data set with one file."""
    root = tmp_path / "datasets" / "hub"
    files = root / "o--name" / COMMIT / "files"
    files.mkdir(parents=True)
    (files / "a.csv").write_bytes(b"text\nx")
    hub_set = HubSet("o/name", "default", COMMIT, "csv", {}, {"train": [HubFile(**FILE)]}, files)  # type: ignore[arg-type]
    write_manifest(hub_set, WANTED)
    return root


def manifest_in(root: Path) -> Path:
    return root / "o--name" / COMMIT / "default.json"


def listed(root: Path) -> str:
    """Return what `tfs datasets list` prints about downloads."""
    said = CliRunner().invoke(datasets, ["list", "--assets", str(root.parents[1])], catch_exceptions=False)
    return said.output.partition("Downloaded to ")[2]


def within_a_minute(function: Callable[[], Any]) -> Any:
    """Return the result of a function, which fails the test instead of blocking it."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(60)
    assert results, "it is blocked, or raised an exception"
    return results[0]


def test_intact_manifest_is_found_and_listed(root: Path) -> None:
    found = find_set(root, WANTED)
    assert found is not None
    assert found.damage() == ""
    assert "o/name (default) at 01234567: train; 0.0 MB" in listed(root)


@pytest.mark.parametrize(
    "change",
    [
        *[{"splits": 7}, {"splits": {"train": []}}, {"splits": {"train": [{}]}}, {"splits": {"train": ["a.csv"]}}],
        *[{"splits": {"train": [{**FILE, **odd}]}} for odd in ({"size": "x"}, {"size": -1}, {"checksum": None})],
        *[{"splits": {"train": [{**FILE, "path": odd}]}} for odd in ("../x", "/x", "", "a\0b", 7)],
        *[{"splits": {"train": [{**FILE, "algorithm": "md5"}]}}, {"path": 7}, {"commit": 7}, {"commit": "0" * 40}],
        *[{"config": ["default"]}, {"config": "other"}, {"options": []}, {"kind": None}, {"revisions": "main"}],
        *[{"downloaded_at": "now"}, {"is_default": 1}, {"format_version": "1"}],
    ],
)
def test_manifest_with_odd_values_is_not_used_and_listed_as_damaged(change: dict[str, Any], root: Path) -> None:
    place = manifest_in(root)
    place.write_text(json.dumps(json.loads(place.read_text(encoding="utf-8")) | change), "utf-8")
    assert find_set(root, WANTED) is None
    assert all_sets(root) == []
    assert f"{place} is damaged: " in listed(root)


@pytest.mark.parametrize("content", [DEEP, "", "[]", '{"format_version": 1, "splits": {}}', '{"size": NaN}'])
def test_manifest_that_is_no_such_json_is_listed_as_damaged(content: str, root: Path) -> None:
    manifest_in(root).write_text(content, "utf-8")
    assert f"{manifest_in(root)} is damaged: " in listed(root)


@needs_pipes
@pytest.mark.parametrize("kind", ["pipe", "endless", "cycle", "folder"])
def test_manifest_that_is_a_special_file_is_not_read(kind: str, root: Path) -> None:
    place = manifest_in(root)
    place.unlink()
    make = {"pipe": os.mkfifo, "folder": os.mkdir}
    make[kind](place) if kind in make else place.symlink_to("/dev/zero" if kind == "endless" else place.name)
    assert f"{place} " in within_a_minute(lambda: listed(root))


def test_further_keys_of_a_manifest_are_ignored(root: Path) -> None:
    place = manifest_in(root)
    values = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps({**values, "x": 1, "splits": {"train": [{**FILE, "x": 1}]}}), "utf-8")
    assert find_set(root, WANTED) is not None


def test_manifest_of_another_data_set_in_the_folder_is_not_used(root: Path) -> None:
    place = manifest_in(root)
    place.write_text(place.read_text(encoding="utf-8").replace("o/name", "../../x"), "utf-8")
    assert find_set(root, WANTED) is None


def test_damaged_manifest_is_replaced_by_a_download(root: Path) -> None:
    found = find_set(root, WANTED)
    assert found is not None
    manifest_in(root).write_text(DEEP, "utf-8")
    write_manifest(found, WANTED)
    assert find_set(root, WANTED) == found


def test_manifest_of_a_newer_tfs_is_refused_and_not_replaced(root: Path) -> None:
    found = find_set(root, WANTED)
    assert found is not None
    place = manifest_in(root)
    newer = json.dumps({"format_version": 2})
    place.write_text(newer, "utf-8")
    with pytest.raises(NewerFormatError, match="upgrade tfs"):
        find_set(root, WANTED)
    with pytest.raises(NewerFormatError, match="upgrade tfs"):
        write_manifest(found, WANTED)
    assert place.read_text(encoding="utf-8") == newer
    assert "upgrade tfs" in listed(root)


def test_damaged_manifest_is_named_when_the_hub_is_needed(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    manifest_in(root).write_text(DEEP, "utf-8")
    request = Request.of(HubConfig(path="o/name"), tmp_path)
    with pytest.raises(
        DataError, match=r"o/name: .*default\.json is damaged: it is nested too deeply, and the network"
    ):
        request.check_reachable(offline=True)


def test_file_with_a_very_long_name_is_missing(root: Path) -> None:
    place = manifest_in(root)
    place.write_text(place.read_text(encoding="utf-8").replace("a.csv", "a" * 5000), "utf-8")
    (found,) = all_sets(root)
    assert found.damage().endswith(" is missing")


def test_pickles_are_not_read(root: Path) -> None:
    with pytest.raises(DataError, match="o/name: its files are pickles, which can run any code"):
        need_reader(HubSet("o/name", "default", COMMIT, "pandas", {}, {}, root))


def test_option_that_is_not_of_the_reader_is_refused(root: Path) -> None:
    pytest.importorskip("datasets")
    outside = root / "made"
    odd = HubSet("o/name", "default", COMMIT, "csv", {"cache_dir": str(outside)}, {}, root)
    with pytest.raises(DataError, match="o/name: its option 'cache_dir' is not one of the reader of csv files"):
        list(read_rows(odd, [root / "o--name" / COMMIT / "files" / "a.csv"]))
    assert not outside.exists()


@pytest.mark.parametrize("start", [(1,), (1, 2, 3)])
def test_position_of_another_kind_of_stream_is_refused(start: tuple[int, ...], root: Path) -> None:
    pytest.importorskip("datasets")
    found = find_set(root, WANTED)
    assert found is not None
    stream = HubStream(found, {"train": "train"}, ("text",), HubConfig(path="o/name", streaming=True))
    with pytest.raises(DataError, match="is no position in it"):
        next(stream.stream("train", start))


@needs_pipes
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_special_file_in_place_of_an_unfinished_download_is_replaced(
    kind: str, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("datasets")
    part = root / "o--name" / COMMIT / "files" / "b.csv.part"
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    os.mkfifo(part) if kind == "pipe" else part.symlink_to(outside)
    monkeypatch.setattr(hub_download, "_download_rest", lambda _set, _file, part: part.write_bytes(b"x"))
    file = HubFile("b.csv", 1, "sha256", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    hub_set = HubSet("o/name", "default", COMMIT, "csv", {}, {"train": [file]}, part.parent)
    within_a_minute(lambda: hub_download.fetch(hub_set, file, None, report=print) or True)
    assert (part.parent / "b.csv").read_bytes() == b"x"
    assert outside.read_bytes() == b""


# The cached hashes of big local files


@pytest.mark.parametrize("content", [DEEP, "", "[]", "{}", '{"state": 7, "sha256": "x"}', '{"state": [], "sha256": 7}'])
def test_damaged_cache_of_hashes_is_made_again(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = fingerprint_with_cache(tmp_path, monkeypatch)
    (cached,) = (tmp_path / "datasets" / "hashes").iterdir()
    intact = cached.read_bytes()
    cached.write_text(content, "utf-8")
    assert fingerprint_with_cache(tmp_path, monkeypatch) == fingerprint
    assert cached.read_bytes() == intact


@needs_pipes
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_special_file_in_the_cache_of_hashes_is_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = fingerprint_with_cache(tmp_path, monkeypatch)
    (cached,) = (tmp_path / "datasets" / "hashes").iterdir()
    cached.unlink()
    os.mkfifo(cached) if kind == "pipe" else cached.symlink_to("/dev/zero")
    assert within_a_minute(lambda: fingerprint_with_cache(tmp_path, monkeypatch)) == fingerprint
    assert cached.is_file()
    assert not cached.is_symlink()


def fingerprint_with_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the fingerprint of a local file whose hash is cached."""
    monkeypatch.setattr(local_files, "BIG_FILE", 1)
    monkeypatch.setattr(local_files, "SETTLED_NANOSECONDS", -1)
    (folder / "a.txt").exists() or (folder / "a.txt").write_text("one", "utf-8")
    return TextFiles(TextConfig(path=folder / "a.txt"), assets=folder).fingerprint()


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + "/y", "a\0b"], ids=["file", "folder", "null"])
def test_path_that_cannot_exist_is_explained(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="text: there is no f"):
        TextFiles(TextConfig(path=tmp_path / name), assets=tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are no UTF-8")
def test_file_whose_name_is_no_utf8_has_a_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_text("one", "utf-8")
    assert TextFiles(TextConfig(path=path), assets=tmp_path).fingerprint()


@pytest.mark.parametrize("name", ["A" * 97, "o/" + "A" * 97, "A" * 100_000], ids=["name", "second", "huge"])
def test_names_longer_than_the_hubs_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="path must be the name of a data set on the Hub"):
        HubConfig(path=name)
