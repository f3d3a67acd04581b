"""The fuzzer of tests/fuzz: what it detects, a short run of it, and its finds, kept as tests."""

import ast
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).parent / "fuzz"
RUN = "assets/runs/tiny"
CHECKPOINT = f"{RUN}/checkpoints/step-00000004"
STATE = f"{CHECKPOINT}/state.json"
CONFIG = f"{CHECKPOINT}/config.yaml"
SHARD = "assets/runs/streamed/shards/shard-00000002"
HUB = f"assets/datasets/hub/owner--name/{'0123456789' * 4}/default.json"
TOKENS = "assets/tokens/*/tokens.json"
CACHE = f"hub-cache/owner___cached/default/0.0.0/{'0123456789' * 4}"
RESUME = ("run", "--resume", "tiny", "--set", "training.max_steps=5")
RESUME_STREAM = ("run", "--resume", "streamed", "--set", "training.max_steps=6")
DRY_RUN = ("run", "--dry-run", "--config", "tiny.yaml", "--set")
EVALUATE = ("evaluate", "tiny")
EVALUATE_BOTH = ("evaluate", "tiny", "streamed")
GENERATE = ("generate", "tiny", "--max-length", "3")
LOOK = ("datasets", "look", "tiny")
LIST = ("datasets", "list")
DRAW_RUN = ("load_training_log of a run",)
DRAW_ORIGINAL = ("load_training_log of the original tools",)
DEEP = "[" * 100_000

Change = str | Callable[[bytes], bytes]
"""The kind of file that a file becomes (see `Mutator.become`), or a function from its old content to its new one."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, POSIX signals and named pipes")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a worker of the fuzzer, which has made the base."""
    pytest.importorskip("datasets")
    work = tmp_path_factory.mktemp("fuzz").resolve()
    (work / "home").mkdir()
    started = runpy.run_path(str(FUZZ / "__main__.py"), run_name="fuzz")["Worker"](work)
    started.targets = started.start()
    yield started
    started.close()


def value(*keys: str | int, literal: str) -> Change:
    """Return the change that replaces a value in a JSON file by a literal."""

    def change(content: bytes) -> bytes:
        document = container = json.loads(content)
        for key in keys[:-1]:
            container = container[key]
        container[keys[-1]] = "to be replaced"
        return json.dumps(document).replace('"to be replaced"', literal).encode()

    return change


def header(name: str, literal: str) -> Change:
    """Return the change that replaces an entry in the header of an .npy file by a literal."""

    def change(content: bytes) -> bytes:
        stop = 10 + int.from_bytes(content[8:10], "little")
        entries = {key: repr(entry) for key, entry in ast.literal_eval(content[10:stop].decode()).items()}
        text = "{" + ", ".join(f"{key!r}: {entry}" for key, entry in {**entries, name: literal}.items()) + "}\n"
        return content[:8] + len(text).to_bytes(2, "little") + text.encode() + content[stop:]

    return change


def content(text: str) -> Change:
    """Return the change that replaces the whole content."""
    return lambda _: text.encode()


def finds_of(worker: Any, file: str, change: Change, words: tuple[str, ...]) -> list[str]:
    """Return the finds of a command on a copy of the base with a changed file, given by a glob."""
    base = worker.work / "base"
    path = sorted(base.glob(file))[0]
    how = {"kind": change} if isinstance(change, str) else {"content": change(path.read_bytes()).decode("latin-1")}
    case = {"file": str(path.relative_to(base)), "words": words, **how}
    return [f"{find['kind']}: {find['signature']}" for find in worker.run(case)]


def test_every_target_is_mutated_and_read(worker: Any) -> None:
    assert [worker.run(f"{target}:0-2") for target in worker.targets] == [[]] * len(worker.targets)


@pytest.mark.parametrize("words", [RESUME, EVALUATE, GENERATE, ("chat", "tiny"), ("dash", "export", "r.html")])
def test_intact_files_are_no_find(worker: Any, words: tuple[str, ...]) -> None:
    assert finds_of(worker, STATE, lambda content: content, words) == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("pass", ""),
        ("open('../canary/secret.txt', 'w')", "write outside"),
        ("os.rename('../canary/secret.txt', 'x')", "write outside"),
        ("os.mkdir('../canary/x')", "write outside"),
        ("print(open('../canary/secret.txt').read())", "read outside"),
        ("print('\\x1b[31m')", "raw"),
        ("print('\\x9b31m', file=sys.stderr)", "raw"),
        ("os.write(2, b'\\x1b')", "raw"),
        ("subprocess.run(['true'])", "started"),
        ("open('executed', 'w')", "executed"),
        ("time.sleep(60)", "hang"),
        ("os.abort()", "death"),
    ],
)
def test_fuzzer_detects_what_a_model_in_a_file_does(worker: Any, code: str, kind: str) -> None:
    content = f"import os, subprocess, sys, time\n{code}\n"
    words = ("run", "--dry-run", "--config", "tiny.yaml", "--model", "./model.py:Model")
    seconds = {"seconds": 2} if kind == "hang" else {}
    found = worker.run({"file": "model.py", "content": content, "words": words, **seconds})
    assert {find["kind"] for find in found} == {kind} - {""}


KEPT = [
    # A checkpoint
    pytest.param(STATE, value("random_state", "torch", literal="7"), RESUME, id="random state of another type"),
    pytest.param(STATE, value("random_state", "torch", literal="[1, 2]"), RESUME, id="random state too short"),
    pytest.param(STATE, value("random_state", "torch", 9, literal="-1"), RESUME, id="random state below 0"),
    pytest.param(STATE, value("random_state", "python", 1, literal="[]"), RESUME, id="empty random state"),
    pytest.param(STATE, value("progress", "best_loss", literal='"x"'), RESUME, id="best loss a text"),
    pytest.param(STATE, value("progress", literal=DEEP), EVALUATE, id="state nested deeply"),
    pytest.param(STATE, value("step", literal="9" * 5000), EVALUATE, id="step of 5000 digits"),
    pytest.param(STATE, value("step", literal="1e999"), EVALUATE, id="step infinite"),
    pytest.param(STATE, value("format_version", literal="2"), EVALUATE, id="newer state"),
    pytest.param(STATE, "zero", EVALUATE, id="state endless"),
    pytest.param(STATE, "copy", EVALUATE, id="state a link out"),
    pytest.param(f"{CHECKPOINT}/manifest.json", content(DEEP), GENERATE, id="manifest nested deeply"),
    pytest.param(f"{CHECKPOINT}/manifest.json", "fifo", GENERATE, id="manifest a pipe"),
    pytest.param(CHECKPOINT, "copy", RESUME, id="checkpoint a link out"),
    pytest.param(f"{CHECKPOINT}/model.safetensors", "zero", GENERATE, id="weights endless"),
    pytest.param(f"{CHECKPOINT}/model.safetensors", "fifo", GENERATE, id="weights a pipe"),
    pytest.param(f"{CHECKPOINT}/optimizer.safetensors", content("x"), RESUME, id="optimizer state of one byte"),
    pytest.param(CONFIG, "zero", EVALUATE, id="configuration endless"),
    pytest.param(CONFIG, "secret", EVALUATE, id="configuration a link out"),
    pytest.param(CONFIG, content('"\x1b[31m": 1\n'), EVALUATE, id="escape in a key"),
    pytest.param(CONFIG, content('tags: "\\u001b[31m\\u009b31m"\n'), EVALUATE, id="escape in a value"),
    pytest.param(CONFIG, content("seed: 0x" + "f" * 6000), EVALUATE, id="seed of 6000 digits"),
    pytest.param(CONFIG, content("experiment_name: 0x" + "f" * 6000), EVALUATE, id="name of 6000 digits"),
    pytest.param(CONFIG, content("0x" + "f" * 6000), EVALUATE, id="configuration a number"),
    pytest.param(CONFIG, content("model: ./model.py:Model\n"), GENERATE, id="local model without permission"),
    pytest.param(f"{RUN}/checkpoints/latest", "zero", GENERATE, id="pointer endless"),
    pytest.param(f"{RUN}/checkpoints/latest", "fifo", GENERATE, id="pointer a pipe"),
    pytest.param(f"{RUN}/checkpoints/latest", content("../../canary"), GENERATE, id="pointer out"),
    # A setting
    pytest.param("tiny.yaml", lambda old: old, (*DRY_RUN, f"training.max_tokens={2**63 - 1}"), id="tokens"),
    # A run
    pytest.param(f"{RUN}/run.json", value("seed", literal="9" * 5000), RESUME, id="run seed of 5000 digits"),
    pytest.param(f"{RUN}/run.json", value("host", literal=r'"\ud800"'), RESUME, id="run host a surrogate"),
    pytest.param(f"{RUN}/metrics.jsonl", content('{"step": 1, "loss": "x"}\n'), DRAW_RUN, id="loss a text"),
    pytest.param(f"{RUN}/samples.jsonl", content('{"prompt": 1}\n'), RESUME, id="prompt a number"),
    pytest.param(f"{RUN}/validation.jsonl", content('{"step": {}}\n'), DRAW_RUN, id="step an object"),
    pytest.param(f"{RUN}/config.yaml", content(f"a: {DEEP}"), DRAW_RUN, id="run configuration deep"),
    pytest.param(f"{RUN}/config.yaml", "fifo", DRAW_RUN, id="run configuration a pipe"),
    pytest.param(f"{RUN}/config.yaml", "secret", LOOK, id="run configuration a link out"),
    pytest.param(RUN, "copy", RESUME, id="run a link out"),
    pytest.param(f"{RUN}/checkpoints", "copy", RESUME, id="checkpoints a link out"),
    pytest.param(f"{RUN}/metrics.jsonl", "dangling", RESUME, id="log a dead link out"),
    pytest.param(f"{RUN}/config.yaml", content("[1]"), DRAW_RUN, id="run configuration a list"),
    # Data
    pytest.param(TOKENS, value("vocab_size", literal='"-"'), EVALUATE_BOTH, id="vocabulary a text"),
    pytest.param(HUB, "fifo", LIST, id="hub manifest a pipe"),
    pytest.param(HUB, "zero", LIST, id="hub manifest endless"),
    pytest.param(HUB, content(DEEP), LIST, id="hub manifest nested deeply"),
    pytest.param(HUB, value("splits", literal="7"), LIST, id="hub splits a number"),
    pytest.param(HUB, value("splits", "train", 0, literal="{}"), LIST, id="hub file without path"),
    pytest.param(HUB, value("splits", "train", 0, "size", literal='"x"'), LIST, id="hub size a text"),
    pytest.param(HUB, value("path", literal=r'"\u001b[31m"'), LIST, id="hub name an escape"),
    pytest.param(HUB, content('{"format_version": 1, "splits": {}}'), LIST, id="hub manifest empty"),
    pytest.param(
        f"{CACHE}/cached-train.arrow", "dangling", ("datasets", "preview", "owner/cached"), id="hub cache a dead link"
    ),
    pytest.param(f"{SHARD}.json", content(DEEP), RESUME_STREAM, id="shard nested deeply"),
    pytest.param(f"{SHARD}.tokens.npy", header("descr", "'|V0'"), RESUME_STREAM, id="shard of nothing"),
    pytest.param(f"{SHARD}.tokens.npy", header("descr", "[('a', '<i2')]"), RESUME_STREAM, id="shard of records"),
    pytest.param(f"{SHARD}.tokens.npy", header("x", "[" * 99), RESUME_STREAM, id="shard header damaged"),
    pytest.param(
        f"{SHARD}.tokens.npy",
        lambda old: old[:128] + b"\xff" * len(old[128:]),
        RESUME_STREAM,
        id="shard of unknown ids",
    ),
    # Logs of the original tools
    pytest.param("original.json", content(DEEP), DRAW_ORIGINAL, id="original nested deeply"),
    pytest.param("original.json", "fifo", DRAW_ORIGINAL, id="original a pipe"),
    pytest.param("original.json", "zero", DRAW_ORIGINAL, id="original endless"),
    pytest.param(
        "original.json",
        value("train_metrics", 0, "loss", literal='"x"'),
        DRAW_ORIGINAL,
        id="original loss",
    ),
]


@pytest.mark.parametrize(("file", "change", "words"), KEPT)
def test_kept_find_stays_mended(worker: Any, file: str, change: Change, words: tuple[str, ...]) -> None:
    assert finds_of(worker, file, change, words) == []
