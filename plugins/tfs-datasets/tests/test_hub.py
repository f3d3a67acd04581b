"""Data sets of the Hub, on a local fake Hub: download, verification, lookup, and error messages."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tfs_datasets import hub_connection
from tfs_datasets.config import KnownHubConfig
from tfs_datasets.hub import Request
from tfs_datasets.hub_store import HubFile

from tfs_core import progress
from tfs_core.errors import DataError

STORIES = "datasets/roneneldan/TinyStories/data"
TRAIN, VALIDATION = f"{STORIES}/train-00000-of-00001.parquet", f"{STORIES}/validation-00000-of-00001.parquet"
CONFIGURATIONS = """---
configs:
- config_name: sample-10BT
  data_files:
  - {split: train, path: a/*.csv}
  sep: ";"
- config_name: other
  data_files: b/*.csv
---
"""


@pytest.fixture
def stories(hub: Any) -> Any:
    """Return a Hub with a short TinyStories."""
    write_parquet(hub.folder / TRAIN, [f"Once upon a time {i}. " + "The cat sat. " * i for i in range(60)])
    write_parquet(hub.folder / VALIDATION, ["The end.", None])
    return hub


def write_parquet(file: Path, texts: list[str | None], column: str = "text") -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({column: pyarrow.array(texts, pyarrow.string())}), file)


def write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8", newline="\n")


def body_requests(hub: Any) -> list[str | None]:
    """Return the Range header of every request for a data file."""
    return [request.range for request in hub.requests if request.method == "GET" and ".parquet" in request.path]


class TestDownload:
    """`tfs datasets download`."""

    def test_downloaded_set_is_found_without_a_network(self, stories: Any, tfs: Any, nowhere: str) -> None:
        said = tfs("datasets", "download", "tinystories", endpoint=stories.url)
        assert said.exit_code == 0, said.errors
        assert "splits   train, validation" in said.output
        assert "columns  text" in said.output
        assert "{name: tinystories}" in said.output
        shown = tfs("datasets", "preview", "tinystories", "--split", "validation", endpoint=nowhere)
        assert "--- document 1, 8 characters\nThe end.\n--- document 2, 0 characters" in shown.output
        listed = tfs("datasets", "list", endpoint=nowhere)
        assert "roneneldan/TinyStories (default)" in listed.output

    def test_second_download_verifies_and_requests_no_file(self, stories: Any, tfs: Any) -> None:
        tfs("datasets", "download", "tinystories", endpoint=stories.url)
        stories.requests.clear()
        said = tfs("datasets", "download", "tinystories", endpoint=stories.url)
        assert "already downloaded and verified: 2 files" in said.errors
        assert not body_requests(stories)

    def test_interrupted_download_is_continued(self, stories: Any, tfs: Any, tmp_path: Path) -> None:
        content = (stories.folder / TRAIN).read_bytes()
        tfs("datasets", "download", "tinystories", endpoint=stories.url)
        (here,) = (tmp_path / "assets").rglob("train-*.parquet")
        here.unlink()
        here.with_name(f"{here.name}.part").write_bytes(content[:100])
        stories.requests.clear()
        said = tfs("datasets", "download", "tinystories", endpoint=stories.url)
        assert said.exit_code == 0, said.errors
        assert body_requests(stories) == ["bytes=100-"]
        assert here.read_bytes() == content

    def test_file_is_continued_after_a_dropped_connection(self, stories: Any, tfs: Any, tmp_path: Path) -> None:
        stories.faults.dropped["train-"] = 1
        said = tfs("datasets", "download", "tinystories", endpoint=stories.url)
        assert said.exit_code == 0, said.errors
        assert len(body_requests(stories)) == 3  # two files, one of them in two requests
        assert "train-00000-of-00001.parquet of roneneldan/TinyStories: the connection to" in said.errors
        (here,) = (tmp_path / "assets").rglob("train-*.parquet")
        assert here.read_bytes() == (stories.folder / TRAIN).read_bytes()

    def test_busy_hub_is_retried(self, stories: Any, tfs: Any) -> None:
        stories.faults.unavailable |= {"/api/datasets": 1, "train-": 1, "README": 1}
        stories.faults.too_many["validation-"] = 1
        said = tfs("datasets", "download", "tinystories", endpoint=stories.url)
        assert said.exit_code == 0, said.errors
        assert f"{stories.url} is busy (HTTP 503). Trying again in 1 s." in said.errors
        assert "thrown while requesting" not in said.errors, "a warning of huggingface_hub"

    @pytest.mark.parametrize("kind", ["sha256", "git-sha1"])
    def test_wrong_bytes_are_downloaded_again(self, stories: Any, tfs: Any, tmp_path: Path, kind: str) -> None:
        file = TRAIN if kind == "sha256" else VALIDATION
        stories.faults.corrupted[Path(file).name] = 1
        said = tfs("datasets", "download", "tinystories", endpoint=stories.url)
        assert said.exit_code == 0, said.errors
        (line,) = [line for line in said.errors.splitlines() if "arrived with the wrong bytes" in line]
        assert f"its {kind} is" in line
        assert line.endswith("Downloading it again.")
        (here,) = (tmp_path / "assets").rglob(Path(file).name)
        assert here.read_bytes() == (stories.folder / file).read_bytes()

    def test_wrong_bytes_each_time_are_refused_and_not_kept(self, stories: Any, tfs: Any, tmp_path: Path) -> None:
        stories.faults.corrupted["train-"] = 99
        said = tfs("datasets", "download", "tinystories", endpoint=stories.url)
        assert said.exit_code == 1
        assert "It was downloaded 3 times, and deleted." in said.errors
        assert not list((tmp_path / "assets").rglob("train-*"))
        assert len([request for request in stories.requests if "train-" in request.path]) == 3

    def test_named_configuration_keeps_its_settings(self, hub: Any, tfs: Any) -> None:
        write(hub.folder / "datasets/o/several/README.md", CONFIGURATIONS)
        write(hub.folder / "datasets/o/several/a/x.csv", "text;n\none;1\ntwo;2\n")
        write(hub.folder / "datasets/o/several/b/x.csv", "text,n\nthree,3\n")
        said = tfs("datasets", "download", "o/several", "--config", "sample-10BT", endpoint=hub.url)
        assert "columns  text, n" in said.output
        assert "{name: hub, path: o/several, config: sample-10BT}" in said.output
        shown = tfs("datasets", "preview", "o/several", "--set", "config=sample-10BT", endpoint="http://127.0.0.1:9")
        assert "\none\n" in shown.output

    def test_output_is_where_folder_finds_it(self, stories: Any, tfs: Any, tmp_path: Path, nowhere: str) -> None:
        said = tfs("datasets", "download", "tinystories", "--output", "else", endpoint=stories.url)
        assert f"folder: {tmp_path / 'else'}" in said.output
        assert not (tmp_path / "assets" / "datasets").exists()
        shown = tfs("datasets", "preview", "tinystories", "--set", "folder=else", endpoint=nowhere)
        assert "Once upon a time 0" in shown.output

    def test_file_in_the_cache_is_copied(self, stories: Any, tfs: Any, tmp_path: Path) -> None:
        repository = load_repository(stories, "roneneldan/TinyStories")
        for file in (TRAIN, VALIDATION):
            name = file.removeprefix("datasets/roneneldan/TinyStories/")
            snapshot = tmp_path / "cache" / "datasets--roneneldan--TinyStories" / "snapshots" / repository.commit
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / name).write_bytes((stories.folder / file).read_bytes())
        said = tfs("datasets", "download", "tinystories", "--cache-dir", "cache", endpoint=stories.url)
        assert said.exit_code == 0, said.errors
        assert not body_requests(stories)

    def test_set_that_moved_on_stays_as_it_was_downloaded(self, stories: Any, tfs: Any, nowhere: str) -> None:
        tfs("datasets", "download", "tinystories", endpoint=stories.url)
        before = load_repository(stories, "roneneldan/TinyStories").commit
        write_parquet(stories.folder / TRAIN, ["Another story."])
        shown = tfs("datasets", "preview", "tinystories", endpoint=stories.url)
        assert "Once upon a time 0" in shown.output
        tfs("datasets", "download", "tinystories", endpoint=stories.url)
        assert "Another story." in tfs("datasets", "preview", "tinystories", endpoint=nowhere).output
        earlier = tfs("datasets", "preview", "tinystories", "--set", f"revision={before}", endpoint=nowhere)
        assert "Once upon a time 0" in earlier.output

    def test_damaged_file_is_downloaded_again(self, stories: Any, tfs: Any, tmp_path: Path, nowhere: str) -> None:
        tfs("datasets", "download", "tinystories", endpoint=stories.url)
        (here,) = (tmp_path / "assets").rglob("train-*.parquet")
        here.write_bytes(b"short")
        assert "has 5 bytes, expected" in tfs("datasets", "preview", "tinystories", endpoint=nowhere).errors
        assert "damaged" in tfs("datasets", "list", endpoint=nowhere).output
        tfs("datasets", "download", "tinystories", endpoint=stories.url)
        assert here.read_bytes() == (stories.folder / TRAIN).read_bytes()

    def test_commit_that_changes_only_the_readme_has_the_same_text(
        self, stories: Any, tfs: Any, tmp_path: Path
    ) -> None:
        tfs("datasets", "download", "tinystories", endpoint=stories.url)
        before = Request.of_known("tinystories", KnownHubConfig(), tmp_path / "assets").find()
        write(stories.folder / "datasets/roneneldan/TinyStories/README.md", "Stories.")
        tfs("datasets", "download", "tinystories", endpoint=stories.url)
        after = Request.of_known("tinystories", KnownHubConfig(), tmp_path / "assets").find()
        assert before is not None
        assert after is not None
        assert after.commit != before.commit == after.text_commit
        write_parquet(stories.folder / TRAIN, ["Another story."])
        tfs("datasets", "download", "tinystories", endpoint=stories.url)
        other = Request.of_known("tinystories", KnownHubConfig(), tmp_path / "assets").find()
        assert other is not None
        assert other.text_commit == other.commit


def load_repository(hub: Any, repository_id: str) -> Any:
    return hub.repository("datasets", repository_id)


class TestRefusals:
    """Errors of the Hub become one-line messages, without long waits."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["o/nothing"], "there is no data set o/nothing at"),
            (["tinystorie"], "Did you mean 'tinystories'?"),
            (["../../etc"], "path must be the name of a data set on the Hub, owner/name"),
            (["tinystories", "--revision", "v9"], "has no revision 'v9'"),
            (["o/several"], "has several configurations. Choose one with `config`: sample-10BT, other"),
            (["o/several", "--config", "sample-10B"], "no configuration 'sample-10B'. Did you mean 'sample-10BT'?"),
            (["tinystories", "--split", "trian"], "has no split 'trian'. Did you mean 'train'? Splits: train,"),
        ],
    )
    def test_missing_data_is_named(self, stories: Any, tfs: Any, arguments: list[str], message: str) -> None:
        write(stories.folder / "datasets/o/several/README.md", CONFIGURATIONS)
        write(stories.folder / "datasets/o/several/a/x.csv", "text;n\n")
        said = tfs("--quiet", "datasets", "download", *arguments, endpoint=stories.url)
        assert said.exit_code in (1, 2)
        assert message in said.errors
        assert len(said.errors.splitlines()) == 1

    def test_gated_set_explains_access_and_loads_with_a_token(self, hub: Any, tfs: Any) -> None:
        write(hub.folder / "datasets/o/gated/a.jsonl", '{"text": "secret"}\n')
        hub.gated.add("o/gated")
        said = tfs("datasets", "download", "o/gated", endpoint=hub.url)
        assert "o/gated is gated" in said.errors
        assert f"Accept its terms at {hub.url}/datasets/o/gated, then log in with `hf auth login`" in said.errors
        token = {"HF_TOKEN": "hf_good"}
        assert tfs("datasets", "download", "o/gated", endpoint=hub.url, **token).exit_code == 0

    def test_busy_hub_is_an_error_after_the_retries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        errors = pytest.importorskip("huggingface_hub.errors")
        waited: list[float] = []
        reported: list[str] = []
        monkeypatch.setattr(hub_connection.time, "sleep", waited.append)

        def ask() -> None:
            response = SimpleNamespace(status_code=503, headers={}, request=None)
            raise errors.HfHubHTTPError("Service Unavailable", response=response)

        with (
            pytest.raises(DataError, match=r"is busy \(HTTP 503\)\. Try again later"),
            hub_connection.hub_errors_explained("o/x", revision="main", config=None),
        ):
            hub_connection.with_retries(ask, "o/x", report=reported.append)
        assert waited == [1.0, 2.0, 4.0]
        assert [line.rpartition(". ")[2] for line in reported] == [f"Trying again in {wait} s." for wait in (1, 2, 4)]

    def test_retries_begin_again_while_a_download_grows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("huggingface_hub")
        monkeypatch.setattr(hub_connection.time, "sleep", lambda _seconds: None)
        sizes: list[int] = []

        def ask() -> None:
            sizes.append(min(len(sizes), 10))
            raise ConnectionError("dropped")

        with pytest.raises(ConnectionError):
            hub_connection.with_retries(
                ask, "a file", report=lambda _line: None, size=lambda: sizes[-1] if sizes else 0
            )
        assert len(sizes) == 10 + 1 + len(hub_connection.BACKOFF_SECONDS)

    def test_long_request_is_visible_and_raises_its_own_error(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(progress, "is_shown", True)
        monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)

        def ask() -> None:
            time.sleep(0.3)
            raise TimeoutError("the Hub")

        with pytest.raises(TimeoutError, match="the Hub"):
            hub_connection.waiting_for("listing o/x", ask)
        assert capsys.readouterr().err == "listing o/x: ...\n"
        assert hub_connection.waiting_for("listing o/x", lambda: 7) == 7

    @pytest.mark.parametrize("command", ["download", "preview"])
    def test_offline_says_what_is_missing_and_three_ways_out(self, tfs: Any, nowhere: str, command: str) -> None:
        pytest.importorskip("huggingface_hub")
        said = tfs("datasets", command, "tinystories", endpoint=nowhere)
        assert said.exit_code == 1
        assert len(said.errors.splitlines()) == 1
        for way_out in ("tfs datasets download tinystories", "data.dataset=text", "data.dataset=python-stdlib"):
            assert way_out in said.errors
        assert said.connections == 1, "it was tried again"

    @pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "C:/x", "a\\..\\x", ""])
    def test_path_traversal_is_refused(self, path: str) -> None:
        with pytest.raises(DataError, match="leaves the data set's folder"):
            HubFile(path, 1, "sha256", "")


class TestUse:
    """Columns and previews of data sets of the Hub."""

    def test_columns_of_known_sets_are_read(self, hub: Any, tfs: Any) -> None:
        write_parquet(hub.folder / "datasets/nampdn-ai/tiny-textbooks/data/train.parquet", ["Lesson"], "textbook")
        write_parquet(hub.folder / "datasets/nampdn-ai/tiny-textbooks/data/test.parquet", ["Exam"], "textbook")
        shown = tfs("datasets", "preview", "tiny-textbooks", "--split", "validation", endpoint=hub.url)
        assert "\nExam\n" in shown.output
        write_parquet(hub.folder / "datasets/nampdn-ai/tiny-codes/data/train.parquet", ["def f"], "response")
        assert "\ndef f\n" in tfs("datasets", "preview", "tiny-codes", endpoint=hub.url).output

    def test_missing_column_names_those_there_are(self, stories: Any, tfs: Any) -> None:
        said = tfs("datasets", "preview", "tinystories", "--set", "column=txt", endpoint=stories.url)
        assert "has no column 'txt'. Its columns: text. Did you mean 'text'?" in said.errors

    def test_escape_sequences_in_text_are_escaped(self, hub: Any, tfs: Any) -> None:
        write(hub.folder / "datasets/o/evil/a.jsonl", json.dumps({"text": "a\x1b[2Jb"}) + "\n")
        shown = tfs("datasets", "preview", "o/evil", endpoint=hub.url)
        assert "a\\x1b[2Jb" in shown.output

    def test_preview_downloads_nothing_into_the_assets(self, stories: Any, tfs: Any, tmp_path: Path) -> None:
        assert "Once upon" in tfs("datasets", "preview", "tinystories", endpoint=stories.url).output
        assert not (tmp_path / "assets").exists()
