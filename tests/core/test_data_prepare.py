"""Token stores: prepared once, never stale, repaired after damage, and safe with concurrent processes."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfs_core.config.schema import Choice
from tfs_core.data.prepare import build_source, build_tokenizer, prepare_tokens
from tfs_core.errors import DataError, PluginError


class Documents:
    """A source of given documents."""

    description = "a test's documents"

    def __init__(self, train: Any, validation: list[str] | None = None) -> None:
        self.texts = {"train": train} | ({} if validation is None else {"validation": validation})

    def splits(self) -> Sequence[str]:
        return tuple(self.texts)

    def documents(self, split: str) -> Iterator[str]:
        yield from self.texts[split]

    def fingerprint(self) -> str:
        return repr(self.texts)


class Bytes:
    """A byte tokenizer that counts its calls."""

    vocab_size = 257
    end_of_text_id = 256
    version = "1"

    def __init__(self) -> None:
        self.calls = 0

    def encode_batch(self, texts: Sequence[str]) -> list[Any]:
        self.calls += 1
        return [list(text.encode()) for text in texts]

    def fingerprint(self) -> str:
        return self.version


TEXTS = [f"document {i}" for i in range(40)]


def test_prepared_tokens_are_the_documents_with_their_ends(tmp_path: Path) -> None:
    prepared = prepare_tokens(Documents(["ab", "", "c"], ["dé"]), Bytes(), assets=tmp_path)
    assert prepared.train.tokens.tolist() == [97, 98, 256, 99, 256]
    assert prepared.train.offsets.tolist() == [0, 3, 5]
    assert prepared.validation.tokens.tolist() == [100, 195, 169, 256]
    assert (prepared.train.n_bytes, prepared.validation.n_bytes) == (3, 3)
    assert prepared.info["empty_documents"] == 1


def test_prepared_tokens_are_described_in_tokens_json(tmp_path: Path) -> None:
    prepared = prepare_tokens(Documents(["ab", "c"], ["d"]), Bytes(), assets=tmp_path)
    info = json.loads((prepared.folder / "tokens.json").read_text(encoding="utf-8"))
    assert info == prepared.info
    assert (info["format_version"], info["dtype"], info["vocab_size"], info["end_of_text_id"]) == (
        1,
        "uint16",
        257,
        256,
    )
    assert info["description"] == "a test's documents"
    train = info["splits"]["train"]
    assert (train["documents"], train["tokens"], train["bytes"]) == (2, 5, 3)
    assert train["files"]["train.tokens.npy"] == (prepared.folder / "train.tokens.npy").stat().st_size


def test_long_documents_are_one_document_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfs_core.data.documents.PIECE_CHARACTERS", 10)
    monkeypatch.setattr("tfs_core.data.encoder.BATCH_CHARACTERS", 7)
    text = "one two three four five " * 9
    prepared = prepare_tokens(Documents([text], ["d"]), Bytes(), assets=tmp_path)
    assert prepared.train.tokens.tolist() == [*text.encode(), 256]
    assert prepared.train.documents == 1


def test_store_is_the_same_for_every_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfs_core.data.documents.PIECE_CHARACTERS", 10)
    monkeypatch.setattr("tfs_core.data.encoder.BATCH_CHARACTERS", 30)

    class Uneven(Bytes):
        """With several threads, the first batch is finished after a later one."""

        def __init__(self, threads: int) -> None:
            super().__init__()
            self.threads, self.overtaken = threads, threading.Event()
            self.finished: list[str] = []

        def encode_batch(self, texts: Sequence[str]) -> list[Any]:
            if texts[0] == TEXTS[0] and self.threads > 1:
                assert self.overtaken.wait(60)
            self.finished.append(texts[0])
            self.overtaken.set()
            return super().encode_batch(texts)

    texts = [*TEXTS, "", "one in many pieces " * 5, *TEXTS[1:]]
    stores = []
    for threads in (1, 2, 5):
        tokenizer = Uneven(threads)
        prepared = prepare_tokens(Documents(texts), tokenizer, assets=tmp_path / str(threads), threads=threads)
        assert (tokenizer.finished[0] == TEXTS[0]) == (threads == 1)
        stores.append(
            {file.name: file.read_bytes() for file in prepared.folder.iterdir() if file.name != "verified.json"}
        )
    assert stores[0] == stores[1] == stores[2]


def test_tokens_are_reused_when_nothing_changed(tmp_path: Path) -> None:
    first = prepare_tokens(Documents(TEXTS), Bytes(), assets=tmp_path)
    tokenizer = Bytes()
    second = prepare_tokens(Documents(TEXTS), tokenizer, assets=tmp_path)
    assert tokenizer.calls == 0
    assert first.folder == second.folder


class OtherBytes(Bytes):
    version = "2"


@pytest.mark.parametrize(
    ("source", "tokenizer", "options"),
    [
        (Documents([*TEXTS, "more"]), Bytes(), {}),
        (Documents(TEXTS), OtherBytes(), {}),
        (Documents(TEXTS), Bytes(), {"subset_size": 3}),
        (Documents(TEXTS), Bytes(), {"val_subset_size": 1}),
        (Documents(TEXTS), Bytes(), {"validation_fraction": 0.2}),
        (Documents(TEXTS, ["own"]), Bytes(), {}),
    ],
)
def test_tokens_are_never_stale(tmp_path: Path, source: Any, tokenizer: Any, options: dict[str, Any]) -> None:
    first = prepare_tokens(Documents(TEXTS), Bytes(), assets=tmp_path)
    second = prepare_tokens(source, tokenizer, assets=tmp_path, **options)
    assert tokenizer.calls > 0
    assert first.folder != second.folder


def test_validation_fraction_means_nothing_where_the_source_has_a_split(tmp_path: Path) -> None:
    source = Documents(["a"], ["b"])
    first = prepare_tokens(source, Bytes(), assets=tmp_path)
    assert prepare_tokens(source, Bytes(), assets=tmp_path, validation_fraction=0.5).folder == first.folder


@pytest.mark.parametrize("name", ["train.tokens.npy", "validation.offsets.npy", "tokens.json"])
def test_damaged_tokens_are_prepared_again(tmp_path: Path, name: str) -> None:
    first = prepare_tokens(Documents(TEXTS), Bytes(), assets=tmp_path)
    expected = first.train.tokens.tolist()
    folder = first.folder
    del first  # Windows cannot delete a mapped file
    (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    tokenizer = Bytes()
    second = prepare_tokens(Documents(TEXTS), tokenizer, assets=tmp_path)
    assert tokenizer.calls > 0
    assert second.train.tokens.tolist() == expected


def test_failure_leaves_no_partial_token_store(tmp_path: Path) -> None:
    class Failing(Documents):
        def documents(self, split: str) -> Iterator[str]:
            yield from TEXTS
            raise DataError("line 41 is bad")

    with pytest.raises(DataError, match="line 41"):
        prepare_tokens(Failing(TEXTS, ["own"]), Bytes(), assets=tmp_path)
    assert [entry.name for entry in (tmp_path / "tokens").iterdir() if entry.suffix != ".lock"] == []


RUN = """
from __future__ import annotations
import sys, time
from pathlib import Path
from tfs_core.data.prepare import prepare_tokens
{stand_ins}
class Slow(Documents):
    def documents(self, split):
        print("reading", flush=True)
        deadline = time.monotonic() + 60
        while not Path(sys.argv[1], "go-on").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield from self.texts[split]
tokenizer = Bytes()
prepared = prepare_tokens(Slow({texts}, ["own"]), tokenizer, assets=Path(sys.argv[1]), progress=print)
print("calls", tokenizer.calls, "tokens", prepared.train.n_tokens, flush=True)
"""


def start(assets: Path, says: str) -> "subprocess.Popen[str]":
    """Start a process that prepares tokens, and return it as soon as its output begins with `says`.

    The reader of the documents waits until the test creates the file `go-on`.
    """
    script = RUN.format(stand_ins=inspect.getsource(Documents) + inspect.getsource(Bytes), texts=TEXTS)
    process = subprocess.Popen([sys.executable, "-c", script, str(assets)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(says)
    return process


def test_two_concurrent_processes_prepare_the_same_tokens_once(tmp_path: Path) -> None:
    processes = [start(tmp_path, "reading"), start(tmp_path, "another process is preparing these tokens")]
    (tmp_path / "go-on").touch()
    first, second = (process.communicate(timeout=60)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    tokens = sum(len(text) + 1 for text in TEXTS)
    assert f"calls 1 tokens {tokens}" in first
    assert f"calls 0 tokens {tokens}" in second
    assert "reading" not in second


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")
def test_killed_preparation_is_repeated_by_the_next_process(tmp_path: Path) -> None:
    process = start(tmp_path, "reading")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    tokenizer = Bytes()
    prepared = prepare_tokens(Documents(TEXTS, ["own"]), tokenizer, assets=tmp_path)
    assert prepared.train.documents == len(TEXTS)
    assert tokenizer.calls == 1
    assert sorted(entry.suffix for entry in (tmp_path / "tokens").iterdir()) == ["", ".lock"]


def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfs_core.data.encoder.BATCH_CHARACTERS", 1 << 14)
    monkeypatch.setattr("tfs_core.data.documents.PIECE_CHARACTERS", 1 << 13)

    class Endless(Documents):
        """One large document, in parts, and a validation split."""

        def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
            for _ in range(self.texts["train"] if split == "train" else 1):
                yield "all work and no play " * 400, False
            yield "", True

    peaks = []
    for parts in (20, 160):
        tracemalloc.start()
        prepared = prepare_tokens(Endless(parts, []), Bytes(), assets=tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert prepared.train.n_tokens == parts * 8400 + 1
    assert peaks[1] < 2 * peaks[0]  # for eight times the text; thread timing changes the peak by some tenths


def test_empty_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a test's documents: there is no text in it"):
        prepare_tokens(Documents(["", ""]), Bytes(), assets=tmp_path)


def test_empty_split_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a test's documents: there is no text in its validation split"):
        prepare_tokens(Documents(["a"], [""]), Bytes(), assets=tmp_path)


@pytest.mark.parametrize("bad", [-1, 257, 256])
def test_id_that_no_text_may_give_is_an_error(tmp_path: Path, bad: int) -> None:
    class Wrong(Bytes):
        def encode_batch(self, texts: Sequence[str]) -> list[Any]:
            return [[1, bad] for _ in texts]

    with pytest.raises(DataError, match="bug in the tokenizer"):
        prepare_tokens(Documents(TEXTS), Wrong(), assets=tmp_path)


def test_ids_past_65536_are_stored_in_32_bits(tmp_path: Path) -> None:
    class Many(Bytes):
        vocab_size = 70_001
        end_of_text_id = 70_000

        def encode_batch(self, texts: Sequence[str]) -> list[Any]:
            return [np.array([69_999]) for _ in texts]

    prepared = prepare_tokens(Documents(["a"], ["b"]), Many(), assets=tmp_path)
    assert prepared.train.tokens.dtype == np.uint32
    assert prepared.train.tokens.tolist() == [69_999, 70_000]


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(DataError, match=r"tokens cannot be written there.*--assets"):
        prepare_tokens(Documents(TEXTS), Bytes(), assets=tmp_path)


def test_full_disk_is_an_error_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfs_core.data.store.os.fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        prepare_tokens(Documents(TEXTS), Bytes(), assets=tmp_path)
    assert [entry.suffix for entry in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_error_of_the_source_is_not_reported_as_a_disk_error(tmp_path: Path) -> None:
    class Unreachable(Documents):
        def documents(self, split: str) -> Iterator[str]:
            yield "a"
            raise ConnectionError("the line is dead")

    with pytest.raises(ConnectionError, match="the line is dead"):
        prepare_tokens(Unreachable(["a"], ["b"]), Bytes(), assets=tmp_path)


def test_progress_shows_documents_bytes_and_speed(tmp_path: Path) -> None:
    lines: list[str] = []
    prepare_tokens(Documents(TEXTS), Bytes(), assets=tmp_path, progress=lines.append)
    assert lines[-1].startswith("40 documents, 0.0 MB of text tokenized, ")
    assert lines[-1].endswith(" MB/s")


def test_empty_documents_are_told_each_time(tmp_path: Path) -> None:
    for _ in range(2):
        lines: list[str] = []
        prepare_tokens(Documents(["a", "", "b", ""], ["c"]), Bytes(), assets=tmp_path, progress=lines.append)
        assert lines[-1].endswith(": 2 empty documents left out")


def test_tokens_moved_to_another_assets_folder_are_reused(tmp_path: Path) -> None:
    prepare_tokens(Documents(TEXTS), Bytes(), assets=tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    tokenizer = Bytes()
    prepare_tokens(Documents(TEXTS), tokenizer, assets=tmp_path / "there")
    assert tokenizer.calls == 0


PLUGIN = """
@hookimpl
def tfs_datasets():
    return [Component(name="mine", summary="x", factory="my_data.parts:source", config="my_data.parts:Options")]
@hookimpl
def tfs_tokenizers():
    return [Component(name="plain", summary="x", factory="my_data.parts:tokenizer", loader="my_data.parts:load")]
"""
PARTS = """
from dataclasses import dataclass
@dataclass(frozen=True)
class Options:
    size: int = 7
def source(config, *, assets, offline):
    return ("source", config.size, assets, offline)
def tokenizer(config, *, assets, offline, documents):
    return ("tokenizer", config, assets, offline, documents)
"""


def test_components_are_built_through_the_registry(tmp_path: Path, install_plugin: Any) -> None:
    install_plugin("my-data", PLUGIN, parts=PARTS)
    assert build_source(Choice("mine"), assets=tmp_path, offline=True) == ("source", 7, tmp_path, True)
    built = build_tokenizer(Choice("my-data/plain"), assets=tmp_path, offline=False, documents=None)
    assert built == ("tokenizer", None, tmp_path, False, None)


def test_unknown_component_names_the_nearest(tmp_path: Path, install_plugin: Any) -> None:
    install_plugin("my-data", PLUGIN, parts=PARTS)
    with pytest.raises(PluginError, match="Did you mean 'mine'"):
        build_source(Choice("mime"), assets=tmp_path, offline=True)
