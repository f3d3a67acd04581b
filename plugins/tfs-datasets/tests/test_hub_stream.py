"""Training on a stream from a local fake Hub: exact resume, bounded disk space, and recovery from errors of the Hub."""

import json
import multiprocessing
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tfs_datasets import hub as hub_sets
from tfs_datasets import mixture, needed
from tfs_datasets.config import HubConfig, MixtureConfig, MixtureSource
from tfs_datasets.hub_store import HubFile, HubSet
from tfs_datasets.hub_stream import HubStream

from tfs_core.config.schema import Choice
from tfs_core.errors import ConfigError, DataError

MORTAL_RUN = str(Path(__file__).parents[3] / "tests" / "mortal_run.py")

FILES = 4
STORIES = 30
"""Stories in each file."""
BEGINNING = 10
"""Documents in the stored beginning of the stream: far fewer than in a file."""

STEPS = 24
STEPS_PER_SHARD = 2
WALL_CLOCK = {"elapsed_seconds", "tokens_per_second"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and a fork server")


def config(**changes: Any) -> dict[str, Any]:
    """Return the configuration of a tiny run on a stream. Changes are named `section__key`."""
    values: dict[str, Any] = {
        "experiment_name": "streamed",
        "data": {
            "dataset": {"name": "tinystories", "streaming": True},
            "tokenizer": "byte",
            "max_length": 32,
            "shard_tokens": STEPS_PER_SHARD * 2 * 32,
        },
        "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 32, "dropout": 0.1},
        "training": {
            "batch_size": 2,
            "max_steps": STEPS,
            "checkpoint_every": 3,
            "keep_checkpoints": 2,
            "eval_every": 8,
        },
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values[section][key] = value
    return values


@pytest.fixture
def stories(hub: Any) -> Any:
    """Return a Hub with TinyStories in a few files."""
    for file in range(FILES):
        write_stories(hub, file, [story(file, number) for number in range(STORIES)])
    write_parquet(hub.folder / REPOSITORY / "data" / "validation-00000-of-00001.parquet", ["The end.", "No more."])
    return hub


REPOSITORY = Path("datasets/roneneldan/TinyStories")


def story(file: int, number: int) -> str:
    return f"Story {number} of file {file}. " + "The cat sat. " * (number % 4)


def write_stories(hub: Any, file: int, texts: list[str]) -> None:
    write_parquet(hub.folder / REPOSITORY / "data" / f"train-{file:05d}-of-{FILES:05d}.parquet", texts)


def write_parquet(file: Path, texts: list[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}), file)


@dataclass
class Said:
    """Exit code and error output of a process."""

    exit_code: int
    errors: str


Mortal = Callable[..., Said]


@pytest.fixture
def mortal(tmp_path: Path) -> Mortal:
    """Return a function that runs `tests/mortal_run.py` in a new process; `endpoint` is the URL of its Hub."""
    context = multiprocessing.get_context("forkserver")  # imports torch once; each run is forked from it
    context.set_forkserver_preload(["tfs_core.run", "tfs_torch.model", "pyarrow.parquet", "torch._dynamo"])

    def run(endpoint: str, *, assets: Path = tmp_path / "assets", **arguments: Any) -> Said:
        arguments |= {
            "assets": str(assets),
            "environment": {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")},
            "constants": {
                "tfs_core.data.documents.STREAM_BEGINNING": BEGINNING,
                "tfs_streaming.spooler.RETRY_SECONDS": 0.1,
                "tfs_datasets.hub_connection.BACKOFF_SECONDS": (0.05, 0.1, 0.2),
            },
            "output_path": str(tmp_path / "output"),
        }
        process = context.Process(
            target=runpy.run_path, args=(MORTAL_RUN,), kwargs={"init_globals": {"arguments": arguments}}
        )
        process.start()
        process.join(600)
        if process.exitcode is None:
            process.kill()
        assert process.exitcode is not None
        return Said(process.exitcode, (tmp_path / "output").read_text(encoding="utf-8"))

    return run


def left_behind(run: Path) -> dict[str, Any]:
    """Return the files that must be equal: weights, optimizer, state, and log lines without wall-clock fields."""
    found: dict[str, Any] = {}
    for path in sorted((run / "checkpoints").rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.name == "state.json":
            found[name] = json.loads(path.read_bytes())
            found[name]["progress"].pop("elapsed_seconds")
        elif path.is_file() and path.name != "manifest.json":
            found[name] = path.read_bytes()
    for name in ("metrics", "validation"):
        lines = [json.loads(line) for line in (run / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        found[name] = [{key: value for key, value in line.items() if key not in WALL_CLOCK} for line in lines]
    return found


def assert_same_run(run: Path, other: Path) -> None:
    found, expected = left_behind(run), left_behind(other)
    assert list(found) == list(expected)
    for name, content in expected.items():
        assert found[name] == content, f"{name} differs"


def text_files(folder: Path) -> list[str]:
    """Return the sorted names of the downloaded files in a folder."""
    return sorted(path.name for path in folder.rglob("*.parquet*"))


class TestResume:
    """A resumed run equals the uninterrupted run."""

    def test_killed_run_resumes_with_the_same_bytes_whether_its_shards_are_there_or_not(
        self, stories: Any, mortal: Mortal, tmp_path: Path
    ) -> None:
        said = mortal(stories.url, config=config(), assets=tmp_path / "uninterrupted")
        assert said.exit_code == 0, said.errors
        assert mortal(stories.url, config=config(), die_after_step=10).exit_code == -9
        assert mortal(stories.url, resume="streamed", die_after_step=17).exit_code == -9
        run = tmp_path / "assets" / "runs" / "streamed"
        for file in (run / "shards").iterdir():
            file.unlink()
        said = mortal(stories.url, resume="streamed")
        assert said.exit_code == 0, said.errors
        assert_same_run(run, tmp_path / "uninterrupted" / "runs" / "streamed")

    def test_resume_asks_for_the_file_it_stopped_in_and_those_after_it(
        self, stories: Any, mortal: Mortal, tmp_path: Path
    ) -> None:
        assert mortal(stories.url, config=config(training__max_steps=60), die_after_step=50).exit_code == -9
        state = json.loads(
            next((tmp_path / "assets/runs/streamed/checkpoints").glob("step-*48/state.json")).read_bytes()
        )
        file, _ = state["stream"]["start"]["document"]
        assert file > 0
        for leftover in (tmp_path / "assets" / "datasets").rglob("*.parquet"):
            leftover.unlink()
        for shard in (tmp_path / "assets/runs/streamed/shards").iterdir():
            shard.unlink()
        stories.requests.clear()
        said = mortal(stories.url, resume="streamed", overrides=["training.max_steps=52"])
        assert said.exit_code == 0, said.errors
        asked = [request.path for request in stories.requests if "train-" in request.path]
        assert f"train-{file:05d}" in asked[0]

    def test_resume_of_a_set_that_has_moved_on_is_refused(self, stories: Any, mortal: Mortal) -> None:
        assert mortal(stories.url, config=config(), die_after_step=10).exit_code == -9
        commit = stories.repository("datasets", "roneneldan/TinyStories").commit
        write_stories(stories, 3, ["Another story."])
        said = mortal(stories.url, resume="streamed")
        assert said.exit_code == 1
        assert f"has no revision '{commit}'" in said.errors
        said = mortal(stories.url, resume="streamed", overrides=["data.dataset.revision=main"])
        assert said.exit_code == 1
        assert f"the text of the data set has changed since (fingerprint {commit[:12]}" in said.errors

    def test_set_of_which_only_the_readme_has_changed_is_the_same_text(
        self, stories: Any, mortal: Mortal, tmp_path: Path
    ) -> None:
        said = mortal(stories.url, config=config(), assets=tmp_path / "uninterrupted")
        assert said.exit_code == 0, said.errors
        assert mortal(stories.url, config=config(), die_after_step=10).exit_code == -9
        commit = stories.repository("datasets", "roneneldan/TinyStories").commit
        (stories.folder / REPOSITORY / "README.md").write_text("Stories.", encoding="utf-8")
        said = mortal(stories.url, resume="streamed", overrides=["data.dataset.revision=main"], die_after_step=15)
        assert said.exit_code == -9, said.errors
        said = mortal(stories.url, resume="streamed")
        assert said.exit_code == 0, said.errors
        run = tmp_path / "assets" / "runs" / "streamed"
        assert_same_run(run, tmp_path / "uninterrupted" / "runs" / "streamed")
        assert f"revision: {commit}" in (run / "config.yaml").read_text(encoding="utf-8")

    def test_resume_without_a_network_trains_on_the_shards_that_are_here(
        self, stories: Any, mortal: Mortal, tmp_path: Path, nowhere: str
    ) -> None:
        said = mortal(stories.url, config=config(), assets=tmp_path / "uninterrupted")
        assert said.exit_code == 0, said.errors
        assert mortal(stories.url, config=config(), die_after_step=10).exit_code == -9
        run = tmp_path / "assets" / "runs" / "streamed"
        last = max(int(path.name[6:14]) for path in (run / "shards").glob("*.json"))
        stories.requests.clear()
        said = mortal(nowhere, resume="streamed")
        assert said.exit_code == 1
        assert f"the connection to {nowhere} failed" in said.errors
        assert "A training run is saved, and continues there" in said.errors.splitlines()[-1]
        taken = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["step"]
        assert taken == (last + 1) * STEPS_PER_SHARD > 10
        assert (run / "checkpoints" / "latest").read_text(encoding="utf-8") == f"step-{taken:08d}\n"
        assert mortal(stories.url, resume="streamed").exit_code == 0
        assert_same_run(run, tmp_path / "uninterrupted" / "runs" / "streamed")

    def test_configuration_of_the_run_names_the_commit(self, stories: Any, mortal: Mortal, tmp_path: Path) -> None:
        said = mortal(stories.url, config=config(training__max_steps=1))
        assert said.exit_code == 0, said.errors
        commit = stories.repository("datasets", "roneneldan/TinyStories").commit
        written = (tmp_path / "assets" / "runs" / "streamed" / "config.yaml").read_text(encoding="utf-8")
        assert f"revision: {commit}" in written


class TestBadHub:
    """A Hub that is busy, drops connections, or sends wrong bytes."""

    def test_run_on_a_bad_hub_has_the_bytes_of_one_on_what_was_downloaded(
        self, stories: Any, tfs: Any, mortal: Mortal, tmp_path: Path, nowhere: str
    ) -> None:
        assert tfs("datasets", "download", "tinystories", endpoint=stories.url).exit_code == 0
        said = mortal(nowhere, config=config())
        assert said.exit_code == 0, said.errors
        stories.faults.unavailable |= {"/api/datasets": 1, "train-00000": 1, "train-00001": 2}
        stories.faults.too_many["validation-"] = 1
        stories.faults.dropped |= {"train-00001": 1, "train-00002": 1}
        stories.faults.corrupted |= {"train-00000": 1, "train-00001": 1, "validation-": 1}
        said = mortal(stories.url, config=config(), assets=tmp_path / "streamed")
        assert said.exit_code == 0, said.errors
        assert not any(stories.faults.unavailable.values())
        assert not any(stories.faults.too_many.values())
        assert not any(stories.faults.dropped.values())
        assert not any(stories.faults.corrupted.values())
        assert_same_run(tmp_path / "streamed" / "runs" / "streamed", tmp_path / "assets" / "runs" / "streamed")

    def test_wrong_bytes_end_training_with_a_checkpoint_to_go_on_from(
        self, stories: Any, mortal: Mortal, tmp_path: Path
    ) -> None:
        stories.faults.corrupted["train-00001"] = 99
        said = mortal(stories.url, config=config(training__max_steps=40))
        assert said.exit_code == 1
        problem = "train-00001-of-00004.parquet of roneneldan/TinyStories arrived with the wrong bytes"
        assert problem in said.errors.splitlines()[-1]
        assert len([line for line in said.errors.splitlines() if problem in line]) <= 4, "it is reported once"
        run = tmp_path / "assets" / "runs" / "streamed"
        last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["step"]
        assert (run / "checkpoints" / "latest").read_text(encoding="utf-8") == f"step-{last:08d}\n"
        stories.faults.corrupted.clear()
        said = mortal(stories.url, resume="streamed")
        assert said.exit_code == 0, said.errors

    def test_offline_says_what_is_missing_and_three_ways_out(self, tfs: Any, tmp_path: Path, nowhere: str) -> None:
        pytest.importorskip("huggingface_hub")
        (tmp_path / "streamed.yaml").write_text(json.dumps(config()), encoding="utf-8")
        said = tfs("run", "--config", "streamed.yaml", endpoint=nowhere)
        assert said.exit_code == 1
        assert "cannot be reached. Three ways out" in said.errors.splitlines()[-1]
        assert len(said.errors.splitlines()) == 1


class TestDisk:
    """Files on disk during and after a run."""

    def test_one_file_of_each_split_at_a_time_is_here_and_none_in_the_end(
        self, stories: Any, mortal: Mortal, tmp_path: Path
    ) -> None:
        assert mortal(stories.url, config=config(training__max_steps=60), die_after_step=50).exit_code == -9
        kept = text_files(tmp_path / "assets")
        assert len([name for name in kept if name.startswith("train-")]) == 1
        assert len([name for name in kept if name.startswith("validation-")]) == 1
        assert mortal(stories.url, resume="streamed").exit_code == 0
        assert text_files(tmp_path / "assets") == []

    def test_two_runs_at_once_do_not_share_a_file(self, stories: Any, mortal: Mortal, tmp_path: Path) -> None:
        from filelock import FileLock

        commit = stories.repository("datasets", "roneneldan/TinyStories").commit
        passing = tmp_path / "assets/datasets/hub/roneneldan--TinyStories" / commit / "passing"
        passing.mkdir(parents=True)
        (passing / "0").mkdir()
        (passing / "0" / "of another process").touch()
        lock = FileLock(passing / "0.lock")
        lock.acquire()
        said = mortal(stories.url, config=config(training__max_steps=1))
        lock.release()
        assert said.exit_code == 0, said.errors
        assert {path.name for path in passing.rglob("*")} == {"0", "0.lock", "1.lock", "of another process"}

    def test_preview_look_and_dry_run_keep_no_text(self, stories: Any, tfs: Any, tmp_path: Path) -> None:
        (tmp_path / "streamed.yaml").write_text(json.dumps(config()), encoding="utf-8")
        preview = tfs("datasets", "preview", "tinystories", "--set", "streaming=true", endpoint=stories.url)
        assert story(0, 0) in preview.output, preview.errors
        tried = tfs("run", "--config", "streamed.yaml", "--dry-run", endpoint=stories.url)
        assert "of a stream's beginning" in tried.output, tried.errors
        looked = tfs("datasets", "look", "--config", "streamed.yaml", "--step", "9", endpoint=stories.url)
        assert f"beginning   {FILES * STORIES} documents" in looked.output, looked.errors
        assert "step 9: 2 rows, 64 targets" in looked.output
        assert text_files(tmp_path / "assets") == []


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_each_row_is_found_again_by_its_place(kind: str, tmp_path: Path) -> None:
    texts = [["one", "two", ""], [], ["three"]]
    for file, of_file in enumerate(texts):
        if kind == "parquet":
            write_parquet(tmp_path / f"{file}", of_file)
        else:
            (tmp_path / f"{file}").write_text("".join(json.dumps({"text": text}) + "\n" for text in of_file), "utf-8")
    files = [HubFile(f"{file}", (tmp_path / f"{file}").stat().st_size, "none", "") for file in range(3)]
    hub_set = HubSet("o/set", "default", "0" * 40, kind, {}, {"train": files}, tmp_path)
    stream = HubStream(hub_set, {"train": "train"}, ("text",), HubConfig(path="o/set", streaming=True))
    streamed = list(stream.stream("train", ()))
    assert streamed == [((0, 0), "one"), ((0, 1), "two"), ((0, 2), ""), ((2, 0), "three")]
    assert list(stream.documents("train")) == ["one", "two", "", "three"]
    for number, (place, _) in enumerate(streamed):
        assert list(stream.stream("train", place)) == streamed[number:]


def test_lines_of_json_are_streamed_and_validation_text_held_out(hub: Any, mortal: Mortal, tmp_path: Path) -> None:
    for file in range(3):
        lines = [json.dumps({"text": story(file, number)}) for number in range(STORIES)]
        path = hub.folder / "datasets" / "o" / "lines" / f"train-{file}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    dataset = {"name": "hub", "path": "o/lines", "streaming": True}
    said = mortal(hub.url, config=config(data__dataset=dataset, data__val_subset_size=5, data__validation_fraction=0.1))
    assert said.exit_code == 0, said.errors
    (store,) = (tmp_path / "assets" / "tokens").glob("*/tokens.json")
    assert json.loads(store.read_bytes())["splits"]["validation"]["documents"] == 5


def test_stream_in_a_mixture_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Stream:
        batching = "streaming"

        def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
            raise NotImplementedError

        def pinned_options(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(mixture, "build_source", lambda *_arguments, **_named: Stream())
    sources = (MixtureSource(dataset=Choice("tinystories")),)
    with pytest.raises(ConfigError, match="'tinystories' cannot be streamed in a mixture"):
        mixture.build(MixtureConfig(sources=sources), assets=tmp_path, offline=True)


def test_stream_without_its_batching_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needed, "find_spec", lambda package: None)
    with pytest.raises(
        DataError, match=r"tfs_streaming is missing\. Install it: pip install 'tfs-datasets\[streaming\]'"
    ):
        hub_sets.build(HubConfig(path="o/set", streaming=True), assets=tmp_path, offline=True)
