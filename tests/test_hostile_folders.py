"""Run folders, checkpoints and repositories of an attacker, each with every command that reads them.

An attack changes a copy of a run; a command then reads it. Whatever it finds, the command ends within a minute, with
success or an error in a sentence. Files outside of the copy are unchanged, no code of the attacker has run, and
everything printed is escaped. The usual tests take one command for each attack; `make test-long` takes all.
"""

import faulthandler
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from tfs_lab.replay import find_bundle

from tfs_core.checkpoint_folder import verify_checkpoint
from tfs_core.cli.main import tfs
from tfs_core.config.document import read_yaml, write_yaml
from tfs_core.data.store import open_array
from tfs_core.durable import is_locked, write_durably
from tfs_core.errors import CheckpointError, ConfigError
from tfs_core.origin import changed_local_files
from tfs_core.run_folder import check_usable
from tfs_core.stored_json import MAX_DEPTH, read_json

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev, POSIX signals and named pipes")

SECONDS = 60
RAW_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SECRET = "secret-of-another-user"
ESCAPE = "\x1b[31m\x9b31m\r\x07\u202e"
RUN = "assets/runs/tiny"
CHECKPOINT = f"{RUN}/checkpoints/step-00000004"
BUNDLE = f"{RUN}/nonfinite/step-00000002"
EVIL = "import os\nopen(os.environ['EXECUTED'], 'w').close()\n"

Attack = Callable[[Path], object]
"""Changes the working folder, which has the run; the argument is a folder outside, with a copy of the run."""

# The commands

MINE = ("--config", "mine.yaml", "--set", "training.max_steps=6")
LONGER = ("--set", "training.max_steps=6")
WRITE = [
    ("run", "--resume", "tiny", *LONGER),
    ("run", "--resume", "tiny", *LONGER, "--name", "fork"),
    ("run", "--resume", "tiny", *LONGER, "--model", "custom"),
    ("run", "--resume", "tiny", *LONGER, "--allow-changed-code"),
    ("run", "--resume", RUN, *LONGER),
    ("run", "--resume", CHECKPOINT, *LONGER),
    ("run", "--resume", f"{RUN}/checkpoints/latest", *LONGER),
    ("run", "--resume", f"{RUN}/checkpoints/best", *LONGER),
    ("run", "--resume", f"{RUN}/checkpoints/step-00000002", *LONGER),
    ("run", *MINE, "--resume", "tiny"),
    ("run", *MINE, "--resume"),
    ("run", *MINE, "--resume", "auto"),
    ("run", *MINE, "--resume", "auto", "--name", "tiny"),
    ("run", *MINE, "--name", "tiny"),
    ("run", *MINE),
]
READ = [
    ("run", "--dry-run", *MINE),
    ("evaluate", "tiny"),
    ("evaluate", RUN, "--json", "--max-batches", "1"),
    ("evaluate", CHECKPOINT, f"{RUN}/checkpoints/best", "--model", "custom"),
    ("evaluate", "tiny", "--data", "--device", "cpu"),
    ("generate", "tiny", "--max-length", "3"),
    ("generate", RUN, "--max-length", "3", "--prompt", "One", "--seed", "1", "--temperature", "0"),
    ("generate", CHECKPOINT, "--max-length", "3", "--model", "custom"),
    ("generate", f"{RUN}/checkpoints/latest", "--max-length", "3"),
    ("generate", f"{RUN}/checkpoints/best", "--max-length", "3", "--top-k", "1"),
    ("chat", "tiny", "--max-length", "3"),
    ("chat", CHECKPOINT, "--max-length", "3", "--device", "cpu"),
    ("replay", "tiny"),
    ("replay", BUNDLE, "--json"),
    ("config", "show", "mine.yaml"),
    ("datasets", "look", "tiny"),
    ("datasets", "list"),
    ("dash", "export", "report.html"),
    ("doctor",),
    ("--debug", "evaluate", "tiny"),
    ("--debug", "run", "--resume", "tiny", *LONGER),
]
FILES = [("config", "validate", f"{RUN}/config.yaml"), ("config", "show", f"{CHECKPOINT}/config.yaml")]
"""Commands on files that the user names: they may be links, and what they name is the user's choice."""

COMMANDS = [*WRITE, *READ]

# The attacks

PATHS = [
    RUN,
    *(f"{RUN}/{name}" for name in ("run.json", "config.yaml", "run.lock", "metrics.jsonl", "events.jsonl")),
    *(f"{RUN}/{name}" for name in ("validation.jsonl", "samples.jsonl", "checkpoints", "aside", "shards", "nonfinite")),
    *(f"{RUN}/{name}" for name in (".run.json.123", ".run.json.PID", ".config.yaml.7", ".x.jsonl.kept")),
    *(f"{RUN}/checkpoints/{name}" for name in ("latest", "best", "step-00000002", ".writing-step-00000006")),
    *(f"{RUN}/checkpoints/{name}" for name in (".latest.PID", ".replaced-step-00000004", "step-00000006")),
    *(f"{CHECKPOINT}{name}" for name in ("", "/manifest.json", "/state.json", "/config.yaml", "/model.safetensors")),
    *(f"{CHECKPOINT}/{name}" for name in ("optimizer.safetensors", "tokenizer", "tokenizer/tokenizer.json")),
    *(f"{CHECKPOINT}/{name}" for name in ("extra", "tokenizer/extra.py")),
    *(f"{BUNDLE}{name}" for name in ("", "/batches.safetensors", "/model.safetensors", "/state.json")),
    f"{RUN}/nonfinite/.deleting-step-00000001",
    f"{RUN}/aside/step-00000006",
]


def remove(path: Path) -> None:
    """Remove a file or folder, and make the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(path: str, target: str | Path) -> None:
    """Put a link in place of a file or folder."""
    remove(Path(path))
    Path(path).symlink_to(target)


def link_to(name: str, path: str, outside: Path) -> None:
    link(path, outside / name)


def link_to_copy(path: str, outside: Path) -> None:
    """Put a link to a whole copy outside in place of a file or folder; if there is none, to an empty file."""
    copy = outside / "copy"
    if Path(path).is_dir():
        shutil.copytree(path, copy)
    else:
        copy.write_bytes(Path(path).read_bytes() if Path(path).is_file() else b"")
    link(path, copy)


def hard_link(path: str, outside: Path) -> None:
    """Put a second name of a file outside in place of a file."""
    (outside / "copy").write_bytes(Path(path).read_bytes() if Path(path).is_file() else b"precious")
    remove(Path(path))
    os.link(outside / "copy", path)


def pipe(path: str, _outside: Path) -> None:
    remove(Path(path))
    os.mkfifo(path)


def folder(path: str, _outside: Path) -> None:
    remove(Path(path))
    (Path(path) / "x").mkdir(parents=True)


def empty(path: str, _outside: Path) -> None:
    remove(Path(path))
    Path(path).touch()


def deep(path: str, _outside: Path) -> None:
    """Put nested folders in place of a file or folder, deeper than Python's recursion and than a path may be."""
    remove(Path(path))
    Path(path).mkdir()
    here = os.getcwd()
    os.chdir(path)
    for _ in range(2500):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)


def store(kind: str, outside: Path) -> None:
    """Put something else in place of the folder with the tokens of the run."""
    folder = next(path.parent for path in Path("assets/tokens").glob("*/tokens.json"))
    (folder / "verified.json").unlink(missing_ok=True)
    KINDS[kind](str(folder), outside)
    (outside / "second").mkdir()
    KINDS[kind](f"{folder}.unfinished", outside / "second")


def token_file(pattern: str, kind: str, outside: Path) -> None:
    """Put something else in place of a file with tokens."""
    KINDS[kind](str(next(Path("assets/tokens").glob(f"*/{pattern}"))), outside)


KINDS: dict[str, Callable[[str, Path], None]] = {
    "link to a copy": link_to_copy,
    "link to nothing": partial(link_to, "made"),
    "link to a folder": partial(link_to, ""),
    "link to a run": partial(link_to, "tiny"),
    "link to a secret": partial(link_to, "secret.txt"),
    "link to zeros": partial(link_to, "/dev/zero"),
    "link to itself": lambda path, _: link(path, Path(path).name),
    "hard link": hard_link,
    "pipe": pipe,
    "folder": folder,
    "empty file": empty,
    "deep folders": deep,
}


def replace(path: str, make: Callable[[str, Path], None], outside: Path) -> None:
    """Put something else in place of a file or folder of the run; PID stands for the number of this process."""
    make(path.replace("PID", str(os.getpid())), outside)


def seal(checkpoint: Path) -> None:
    """Write the manifest that fits the files of a checkpoint."""
    files = {
        path.relative_to(checkpoint).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in checkpoint.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    (checkpoint / "manifest.json").write_text(json.dumps({"format_version": 1, "files": files}))


def checkpoints() -> list[Path]:
    return [path.parent for path in sorted(Path(RUN).glob("*/*/manifest.json"))]


def edit(name: str, change: Callable[[Any], object], _outside: Path) -> None:
    """Change a JSON or YAML file of the run, or of each checkpoint, and make the manifests fit."""
    for path in [path / name for path in checkpoints()] if name in ("state.json", "config.yaml") else [Path(RUN, name)]:
        values = (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text())
        change(values)
        text = json.dumps(values) if path.suffix == ".json" else yaml.safe_dump(values)
        path.write_text(text)
    for path in checkpoints():
        seal(path)
    shutil.copyfile(f"{CHECKPOINT}/config.yaml", f"{RUN}/config.yaml")


def put(*keys: Any, to: Any) -> Callable[[Any], None]:
    """Return the change that puts a value at a place."""

    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key] if isinstance(values, list) else values.setdefault(key, {})
        values[keys[-1]] = to

    return change


def write(name: str, content: str | bytes, outside: Path) -> None:
    """Write a file of the run; `OUTSIDE` stands for the path outside."""
    data = content.encode() if isinstance(content, str) else content
    Path(RUN, name).parent.mkdir(parents=True, exist_ok=True)
    Path(RUN, name).write_bytes(data.replace(b"OUTSIDE", str(outside).encode()))
    if not name.endswith("manifest.json"):
        seal(Path(CHECKPOINT))


def manifests(change: Callable[[dict[str, Any]], object], _outside: Path) -> None:
    """Change the list of files in the manifest of each checkpoint."""
    for folder in checkpoints():
        manifest = json.loads((folder / "manifest.json").read_bytes())
        change(manifest["files"])
        (folder / "manifest.json").write_text(json.dumps(manifest))


def many_names_of_one_file(files: dict[str, Any]) -> None:
    entry = files["model.safetensors"]
    prefixes = (f"{number:b}".replace("0", "./").replace("1", ".//") for number in range(3000))
    files.update({f"{prefix}model.safetensors": entry for prefix in prefixes})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def secret_weights(outside: Path) -> None:
    """Leave files out of the manifest that are links out and pipes."""
    for folder in checkpoints():
        for name in ("batches.safetensors", "optimizer.safetensors", "extra/deep"):
            pipe(str(folder / name), outside)
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for name in ("batches.safetensors", "optimizer.safetensors"):
            manifest["files"].pop(name, None)
        (folder / "manifest.json").write_text(json.dumps(manifest))


def linked_configurations(outside: Path) -> None:
    for folder in checkpoints():
        link_to("secret.txt", str(folder / "config.yaml"), outside)
        seal(folder)


def began(lock: Callable[[str, Path], None], outside: Path) -> None:
    """Make the run one that was killed before its first checkpoint."""
    edit("run.json", put("status", to="running"), outside)
    shutil.rmtree(f"{RUN}/checkpoints")
    lock(f"{RUN}/run.lock", outside)


def rename(name: bytes, _outside: Path) -> None:
    os.rename(RUN, os.fsencode(RUN) + name)
    os.symlink(os.fsencode(Path(RUN).name) + name, RUN)


CODE = ["./evil.py:Model", "../../../../../evil.py:Model", "evil.py:Model", "evil:Model", f"{Path('/')}dev/zero:M"]
COMPONENTS = {
    "wrapper": ["wrappers"],
    "logger": ["loggers"],
    "tokenizer": ["data", "tokenizer"],
    "data set": ["data", "dataset"],
    "batching": ["data", "batching"],
    "optimizer": ["training", "optimizer"],
    "schedule": ["training", "lr_decay"],
}

PLUGIN = {"version": "1", "sha256": None, "components": ["model torch"]}
ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(letter + 1)}: &{chr(letter + 1)} [{', '.join([f'*{chr(letter)}'] * 9)}]\n" for letter in range(97, 110)
)

VERSIONS: list[Any] = [2, 99, "2", -1, 1.5, 2**70, None, []]

ATTACKS: dict[str, Attack] = {
    **{f"{path}: {kind}": partial(replace, path, make) for path in PATHS for kind, make in KINDS.items()},
    **{f"store: {kind}": partial(store, kind) for kind in KINDS},
    **{
        f"store's {file}: {kind}": partial(token_file, file, kind)
        for kind in KINDS
        for file in ("tokens.json", "validation.tokens.npy")
    },
    # Code that a checkpoint names
    **{f"model {name}": partial(edit, "config.yaml", put("model", "name", to=name)) for name in CODE},
    "model a path alone": partial(edit, "config.yaml", put("model", to="./evil.py:Model")),
    **{
        f"{kind} {name} {form}": partial(
            edit, "config.yaml", put(*key, to=[value] if key[0] in ("wrappers", "loggers") else value)
        )
        for kind, key in COMPONENTS.items()
        for name in CODE[:2]
        for form, value in (("alone", name), ("with options", {"name": name, "path": "evil.py"}))
    },
    "local files": partial(edit, "state.json", put("local_files", to={"../../../../../evil.py": "", "/dev/zero": "x"})),
    "code in the tokenizer": partial(write, "checkpoints/step-00000004/tokenizer/tokenization.py", EVIL),
    "data set elsewhere": partial(edit, "config.yaml", put("data", "dataset", "path", to="/dev/zero")),
    "tokenizer elsewhere": partial(
        edit, "config.yaml", put("data", "tokenizer", to={"name": "file", "path": "/dev/zero"})
    ),
    # Paths that a checkpoint names
    **{
        f"fingerprint {name!r}": partial(edit, "state.json", put("fingerprints", "tokens", to=name))
        for name in ("..", "", "../../..", "/", "/dev", "a/../b", "x\0", ESCAPE)
    },
    **{
        f"{which} {name[:20]!r}": partial(write, f"checkpoints/{which}", name)
        for which in ("latest", "best")
        for name in ("../../../..", "OUTSIDE/tiny/checkpoints/step-00000004", "step-00000004/..", "\0", "x" * 5000)
    },
    **{
        f"manifest names {name[:20]!r}": partial(manifests, put(name, to={"bytes": 1, "sha256": ""}))
        for name in ("../../../evil.py", "/etc/passwd", "", ".", "a\0", f"{ESCAPE}x", "tokenizer", "x" * 5000)
    },
    "manifest names one file often": partial(manifests, many_names_of_one_file),
    "pipes that no manifest names": secret_weights,
    "configurations that are links out": linked_configurations,
    # Values
    **{f"run.json nested {depth}": partial(edit, "run.json", put("x", to=nested(depth))) for depth in (100, 400, 900)},
    **{f"state nested {depth}": partial(edit, "state.json", put("x", to=nested(depth))) for depth in (400, 900)},
    **{f"model nested {n}": partial(edit, "config.yaml", put("model", "x", to=nested(n))) for n in (40, 150)},
    **{
        f"run.json {key} an escape": partial(edit, "run.json", put(key, to=ESCAPE))
        for key in ("name", "experiment_name", "status", "host", "model", "started_at")
    },
    **{
        f"run.json name {name!r}": partial(edit, "run.json", put("name", to=name))
        for name in ("..", "/", "\0", "a" * 500)
    },
    "summary of numbers": partial(edit, "run.json", put("summary", to={"last_step": 2**62, "best_validation": None})),
    "progress far ahead": partial(edit, "state.json", put("progress", "step", to=2**62)),
    "step far ahead": partial(edit, "state.json", put("step", to=2**62)),
    "best step far ahead": partial(edit, "state.json", put("progress", "best_step", to=2**62)),
    "many plugins": partial(edit, "state.json", put("plugins", to={f"p{n}": PLUGIN for n in range(50_000)})),
    "plugin of an escape": partial(edit, "state.json", put("plugins", to={ESCAPE: PLUGIN})),
    "tied to itself": partial(edit, "state.json", put("tied", to={"a": "a", ESCAPE: ESCAPE})),
    "huge model": partial(edit, "config.yaml", put("model", "d_model", to=2**20)),
    "many blocks": partial(edit, "config.yaml", put("model", "n_blocks", to=10**6)),
    "many heads": partial(edit, "config.yaml", put("model", "n_heads", to=2**40)),
    "long context": partial(edit, "config.yaml", put("model", "max_seq_len", to=2**40)),
    "long rows": partial(edit, "config.yaml", put("data", "max_length", to=2**40)),
    "large batches": partial(edit, "config.yaml", put("training", "batch_size", to=2**40)),
    "many threads": partial(edit, "config.yaml", put("runtime", "threads", to=1024)),
    "huge seed": partial(edit, "config.yaml", put("seed", to=2**64)),
    "configuration of a megabyte": partial(write, "checkpoints/step-00000004/config.yaml", "tags: [" + "x, " * 340_000),
    "configuration of brackets": partial(write, "checkpoints/step-00000004/config.yaml", "x: " + "{" * 100_000),
    "configuration of colons": partial(write, "checkpoints/step-00000004/config.yaml", "? " * 100_000),
    "configuration of aliases": partial(write, "checkpoints/step-00000004/config.yaml", ALIASES),
    "run of an escape": partial(edit, "state.json", put("run", to=ESCAPE)),
    "tags of escapes": partial(edit, "config.yaml", put("tags", to=[ESCAPE])),
    "setting of an escape": partial(edit, "config.yaml", put(ESCAPE, to=ESCAPE)),
    "configuration of a number": partial(write, "checkpoints/step-00000004/config.yaml", "0x" + "f" * 6000),
    "samples of escapes": partial(write, "samples.jsonl", json.dumps({"step": 1, "prompt": ESCAPE}) + "\n"),
    **{
        f"samples of {sample}": partial(write, "samples.jsonl", json.dumps({"step": 1, **sample}) + "\n")
        for sample in ({}, {"prompt": 1}, {"prompt": ESCAPE, "text": 1}, {"prompt": [], "settings": ESCAPE})
    },
    "killed before its first checkpoint, lock a pipe": partial(began, pipe),
    "killed before its first checkpoint, lock a link": partial(began, link_to_copy),
    "killed before its first checkpoint, lock a hard link": partial(began, hard_link),
    "name of escapes": partial(rename, ESCAPE.encode()),
    "name not of UTF-8": partial(rename, b"\xff"),
    # Versions
    **{
        f"{name} of format {version!r:.9}": partial(edit, name, put("format_version", to=version))
        for name in ("run.json", "state.json")
        for version in VERSIONS
    },
    **{
        f"manifest of format {version}": partial(
            write, f"checkpoints/step-0000000{step}/manifest.json", json.dumps({"format_version": version, "x": 1})
        )
        for step, version in ((4, 2), (4, 99), (2, 99))
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished run, which has the bundle of another run's step that was not finite."""
    path = tmp_path_factory.mktemp("base")
    (path / "text.txt").write_text("One day, a small model read a long text. It was happy.\n\n" * 60)
    (path / "evil.py").write_text(EVIL)
    values: dict[str, Any] = {
        "experiment_name": "tiny",
        "data": {"dataset": {"name": "text", "path": "text.txt"}, "tokenizer": "byte", "max_length": 8},
        "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 8},
        "training": {"batch_size": 2, "max_steps": 4, "checkpoint_every": 2, "eval_every": 2, "max_eval_batches": 1},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "samples": {"prompts": ["One "], "max_length": 4},
    }
    here = Path.cwd()
    os.chdir(path)
    try:
        for name, settings in (("mine", {}), ("burst", {"learning_rate": 1e38, "warmup_steps": 0})):
            file = path / f"{name}.yaml"
            file.write_text(yaml.safe_dump({**values, "training": {**values["training"], **settings}}))
            result = CliRunner().invoke(tfs, ["run", "--config", file.name, *(["--name", name] * (name == "burst"))])
            assert result.exit_code == (name == "burst"), result.output
        bundle = next(Path("assets/runs/burst/nonfinite").iterdir())
        shutil.copytree(bundle, BUNDLE)
        Path(RUN, "aside").mkdir(exist_ok=True)
        shutil.rmtree("assets/runs/burst")
    finally:
        os.chdir(here)
    return path


class Hang(BaseException):
    """Raised by the alarm."""


@contextmanager
def limited_to(seconds: int) -> Iterator[None]:
    """Raise Hang after this time (context manager). A library that ignores the alarm ends the process, with a trace."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def snapshot(path: Path) -> dict[str, Any]:
    """Return the modes, times and contents of everything below a folder."""
    return {
        str(entry): (entry.lstat().st_mode, entry.lstat().st_mtime_ns, entry.is_file() and entry.read_bytes())
        for entry in [path, *sorted(path.rglob("*"))]
    }


def finds_of(words: tuple[str, ...], outside: Path) -> list[str]:
    """Run a command in the current folder, and return what went wrong."""
    Path(os.environ["EXECUTED"]).unlink(missing_ok=True)  # by git itself, when the attack was prepared
    before = snapshot(outside)
    for name in [name for name in sys.modules if name.startswith("tfs_local_model") or name == "evil"]:
        del sys.modules[name]  # it is imported once per process, and the next import has to be seen
    try:
        with limited_to(SECONDS):
            result = CliRunner().invoke(tfs, list(words), input=f"One day\nhelp\n{ESCAPE}\n")
    except Hang:
        return ["it hangs"]
    finds = []
    if not isinstance(result.exception, SystemExit | None):
        finds.append(f"{result.exception!r:.200} at {result.exc_info[2].tb_frame if result.exc_info else ''}")
    if result.exit_code not in (0, 1, 2):
        finds.append(f"exit code {result.exit_code}")
    if raw := RAW_CONTROL.search(result.output):
        finds.append(f"raw {result.output[max(0, raw.start() - 80) : raw.end() + 9]!r}")
    if "Traceback" in result.output and words[0] != "--debug":
        finds.append(f"a traceback: {result.output[-500:]}")
    if SECRET in result.output:
        finds.append(f"shows a file outside: {result.output!r}")
    if Path(os.environ["EXECUTED"]).exists():
        finds.append("code was executed")
    after = snapshot(outside)
    finds += [f"{name} outside was changed" for name in {*before, *after} if before.get(name) != after.get(name)]
    return finds


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, a home of its own, and the machine's settings of before."""
    for name in [name for name in os.environ if name.startswith("TFS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EXECUTED", str(tmp_path / "executed"))
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(matmul)
    delete(tmp_path / "case")


def delete(path: Path) -> None:
    """Delete a folder, which may be deeper than shutil.rmtree can go."""
    subprocess.run(["rm", "-rf", str(path)], check=True)


def finds_of_attack(
    attack: Attack, words: tuple[str, ...], *, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Make a copy of the run, attack it, and return the finds of a command on it."""
    case, outside = tmp_path / "case", tmp_path / "outside"
    for folder in (case, outside):
        delete(folder)
    shutil.copytree(base, case, symlinks=True)
    shutil.copytree(base / RUN, outside / "tiny", symlinks=True)
    (outside / "secret.txt").write_text(SECRET)
    monkeypatch.chdir(case)
    attack(outside)
    return finds_of(words, outside)


def test_commands_succeed_without_an_attack(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an attack would prove nothing: the command could fail before it reads the changed file."""
    failed = []
    for words in [*COMMANDS, *FILES]:
        found = finds_of_attack(lambda _: None, words, base=base, tmp_path=tmp_path, monkeypatch=monkeypatch)
        output = CliRunner().invoke(tfs, list(words), input="One day\n") if words[0] != "run" else None
        if found or (output and output.exit_code):
            failed.append((words, found, output and output.output))
    assert failed == []


EVERYWHERE = [name for name in ATTACKS if name.partition(": ")[0] in PATHS]
"""The attacks on every path, of which the usual tests take a sample."""

PAIRS = [
    (name, words) for name in ATTACKS for words in random.Random(name).sample(COMMANDS, 2 if name in EVERYWHERE else 12)
]
FIRST = [(name, random.Random(name).choice(COMMANDS)) for name in ATTACKS if name not in EVERYWHERE]
FIRST += [(name, random.Random(name).choice(COMMANDS)) for name in random.Random(0).sample(EVERYWHERE, 60)]


@pytest.mark.parametrize(("name", "words"), FIRST)
def test_attack_on_one_command(
    name: str, words: tuple[str, ...], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finds_of_attack(ATTACKS[name], words, base=base, tmp_path=tmp_path, monkeypatch=monkeypatch) == []


@pytest.mark.long
@pytest.mark.parametrize(("name", "words"), PAIRS)
def test_attack_on_every_command(
    name: str, words: tuple[str, ...], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finds_of_attack(ATTACKS[name], words, base=base, tmp_path=tmp_path, monkeypatch=monkeypatch) == []


# Repositories


def git(*words: str) -> None:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x", "-c", "protocol.file.allow=always", *words]
    subprocess.run(command, check=True, capture_output=True)


def repository() -> None:
    """Make the working folder a repository with a changed file, whose time git has to compare the content for."""
    git("init", "--quiet")
    git("add", "mine.yaml", "text.txt")
    git("commit", "--quiet", "--message", "first")
    Path("text.txt").write_text(Path("text.txt").read_text().upper())


def settings(*lines: str, attributes: str = "") -> None:
    """Write settings of a repository whose values are a program; PROGRAM stands for it."""
    repository()
    program = Path("program").absolute()
    program.write_text(f"#!/bin/sh\ntouch '{os.environ['EXECUTED']}'\ncat\n")
    program.chmod(0o755)
    for line in lines:
        key, _, value = line.partition("=")
        git("config", key, value.replace("PROGRAM", str(program)))
    if attributes:
        for file in (Path(".gitattributes"), Path(".git/info/attributes")):
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"* {attributes}\n")


def every_hook() -> None:
    settings()
    names = "post-index-change reference-transaction post-checkout pre-commit fsmonitor-watchman query-watchman"
    for name in names.split():
        Path(".git/hooks").mkdir(exist_ok=True)
        shutil.copy("program", f".git/hooks/{name}")


def submodule() -> None:
    settings("core.fsmonitor=PROGRAM")
    shutil.move(".git", "text.git")
    inner = Path("inner")
    inner.mkdir()
    shutil.move("text.git", inner / ".git")
    shutil.copy("text.txt", inner)
    repository()
    git("add", "inner")
    git("commit", "--quiet", "--message", "submodule")
    (inner / "text.txt").write_text("changed")
    git("config", "submodule.inner.update", f"!{Path('program').absolute()}")
    git("config", "diff.ignoreSubmodules", "none")


def worktree() -> None:
    settings(
        "extensions.worktreeConfig=true", "core.fsmonitor=PROGRAM", "filter.x.clean=PROGRAM", attributes="filter=x"
    )
    git("worktree", "add", "--quiet", "tree")
    for name in ("mine.yaml", "text.txt"):
        shutil.copy(name, f"tree/{name}")
    os.chdir("tree")


def bare_repository() -> None:
    """Put the repository's files into the working folder itself: git finds a bare repository there."""
    settings("core.fsmonitor=PROGRAM", "filter.x.clean=PROGRAM", "core.bare=false", attributes="filter=x")
    git("config", "core.worktree", str(Path.cwd()))
    for path in Path(".git").iterdir():
        shutil.move(path, path.name)
    Path(".git").rmdir()


def promised_objects() -> None:
    """Leave out all objects: git would fetch them, with a program that the settings name."""
    source = Path("source.git").absolute()
    settings("core.repositoryFormatVersion=1", "extensions.partialClone=origin", "remote.origin.promisor=true")
    git("clone", "--quiet", "--bare", ".", str(source))
    git("config", "remote.origin.url", str(source))
    git("config", "remote.origin.uploadpack", str(Path("program").absolute()))
    for path in Path(".git/objects").iterdir():
        if len(path.name) == 2:
            shutil.rmtree(path)


def in_turn(*steps: Callable[[], object]) -> None:
    for step in steps:
        step()


dot_git, alternates = Path(".git"), Path(".git/objects/info/alternates")

REPOSITORIES: dict[str, Callable[[], object]] = {
    "nothing": repository,
    "filter": partial(settings, "filter.x.clean=PROGRAM", "filter.x.smudge=PROGRAM", attributes="filter=x"),
    "filter process": partial(settings, "filter.x.process=PROGRAM", "filter.x.required=true", attributes="filter=x"),
    "difference": partial(
        settings, "diff.x.textconv=PROGRAM", "diff.x.command=PROGRAM", "diff.external=PROGRAM", attributes="diff=x"
    ),
    "monitor": partial(settings, "core.fsmonitor=PROGRAM", "core.useBuiltinFSMonitor=true"),
    "monitor of git": partial(settings, "core.fsmonitor=true", "core.untrackedCache=true"),
    "hooks": every_hook,
    "hooks elsewhere": partial(settings, "core.hooksPath=.", "core.pager=PROGRAM", "pager.status=PROGRAM"),
    "programs": partial(
        settings,
        *(
            "core.sshCommand=PROGRAM",
            "core.editor=PROGRAM",
            "core.askPass=PROGRAM",
            "core.alternateRefsCommand=PROGRAM",
        ),
        *("gpg.program=PROGRAM", "alias.status=!PROGRAM", "alias.rev-parse=!PROGRAM", "credential.helper=!PROGRAM"),
        *("log.showSignature=true", "trace2.eventTarget=/tmp/x", "status.submoduleSummary=true"),
    ),
    "included settings": partial(settings, "include.path=/dev/zero"),
    "included pipe": partial(in_turn, partial(settings, "include.path=../pipe"), partial(os.mkfifo, "pipe")),
    "worktree elsewhere": partial(settings, "core.worktree=/"),
    "submodule": submodule,
    "worktree": worktree,
    "bare repository": bare_repository,
    "promised objects": promised_objects,
    "alternates": partial(in_turn, repository, lambda: alternates.write_text("/dev\n../objects\n")),
    "no index": partial(in_turn, repository, lambda: os.unlink(".git/index")),
    "index a pipe": partial(in_turn, repository, lambda: pipe(".git/index", Path())),
    "attributes a pipe": partial(in_turn, repository, lambda: pipe(".gitattributes", Path())),
    "head a pipe": partial(in_turn, repository, lambda: pipe(".git/HEAD", Path())),
    "head zeros": partial(in_turn, repository, lambda: link(".git/HEAD", "/dev/zero")),
    "git a file": partial(
        in_turn, repository, lambda: shutil.move(".git", "x"), lambda: dot_git.write_text("gitdir: x")
    ),
    "git a file of a file": lambda: dot_git.write_text("gitdir: .git\n"),
    "git a link": partial(in_turn, repository, lambda: shutil.move(".git", "x"), lambda: link(".git", "x")),
    "git a pipe": lambda: os.mkfifo(".git"),
}


@pytest.mark.parametrize(
    "words", [("run", *MINE), pytest.param(("run", "--resume", "tiny", *LONGER), marks=pytest.mark.long)]
)
@pytest.mark.parametrize("name", REPOSITORIES)
def test_repository_runs_nothing_of_its_own(
    name: str, words: tuple[str, ...], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFS_ASSETS", str(tmp_path / "case" / "assets"))
    finds = finds_of_attack(
        lambda _: REPOSITORIES[name](), words, base=base, tmp_path=tmp_path, monkeypatch=monkeypatch
    )
    assert finds == []
    run = max((tmp_path / "case" / "assets" / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    state = json.loads(run.read_bytes())["git"]
    if name in ("nothing", "filter", "filter process", "monitor", "hooks", "worktree", "git a link", "git a file"):
        assert state == {"commit": state["commit"], "dirty": True}


# Single functions


def test_lock_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.lock")
    with limited_to(SECONDS):
        assert not is_locked(tmp_path / "run.lock")
    assert not is_locked(tmp_path)


def test_file_is_not_written_through_a_link_in_place_of_the_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    link(str(tmp_path / f".run.json.{os.getpid()}"), tmp_path / "secret.txt")
    write_durably(tmp_path / "run.json", b"new")
    assert (tmp_path / "secret.txt").read_text() == SECRET
    assert (tmp_path / "run.json").read_bytes() == b"new"
    assert not (tmp_path / "run.json").is_symlink()


@pytest.mark.parametrize("depth", [MAX_DEPTH, 300, 900, 100_000])
def test_json_is_nested_no_deeper_than_it_can_be_written_again(depth: int, tmp_path: Path) -> None:
    for left, right in ("[]", ('{"x":', "}")):
        (tmp_path / "x.json").write_text(f'{{"x": {left * depth}1{right * depth}}}')
        with pytest.raises(CheckpointError, match=r"x\.json is damaged: it is nested too deeply"):
            read_json(tmp_path / "x.json", {})
        (tmp_path / "x.json").write_text(f'{{"x": {left * (MAX_DEPTH - 1)}1{right * (MAX_DEPTH - 1)}}}')
        json.dumps(read_json(tmp_path / "x.json", {}), indent=1)


def test_configuration_is_nested_no_deeper_than_it_can_be_written_again(tmp_path: Path) -> None:
    for depth in range(40, 400, 20):
        (tmp_path / "x.yaml").write_text(f"model: {{name: ./x.py:Model, x: {'[' * depth}{']' * depth}}}")
        with suppress(ConfigError):
            write_yaml(read_yaml(tmp_path / "x.yaml").values)


@pytest.mark.parametrize("kind", ["link to a copy", "link to nothing", "pipe", "deep folders"])
def test_file_that_no_manifest_names_is_refused(kind: str, base: Path, tmp_path: Path) -> None:
    folder, outside = tmp_path / "case" / "checkpoint", tmp_path / "outside"
    shutil.copytree(base / CHECKPOINT, folder)
    outside.mkdir()
    verify_checkpoint(folder)
    KINDS[kind](str(folder / "batches.safetensors"), outside)
    with pytest.raises(CheckpointError, match=r"batches\.safetensors.* is a link that leads out of .*, a special file"):
        verify_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["./state.json", "x/../state.json", "tokenizer//tokenizer.json", "../checkpoint/state.json"]
)
def test_manifest_names_each_file_in_one_way(name: str, base: Path, tmp_path: Path) -> None:
    """Otherwise a short manifest could have a large file read a hundred thousand times."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(base / CHECKPOINT, folder)
    (folder / "x").mkdir()
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = manifest["files"]["tokenizer/tokenizer.json" if "//" in name else "state.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="is missing, or is no file of this folder"):
        verify_checkpoint(folder)


@pytest.mark.parametrize("name", ["run.lock", "metrics.jsonl"])
def test_hard_link_is_not_written_to(name: str, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / RUN, tmp_path / "tiny")
    hard_link(str(tmp_path / "tiny" / name), tmp_path)
    with pytest.raises(CheckpointError, match=f"{name} has a second name"):
        check_usable(tmp_path / "tiny")


def test_run_folder_that_is_a_link_is_not_written_to(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / RUN, tmp_path / "real" / "tiny")
    (tmp_path / "runs").mkdir()
    link(str(tmp_path / "runs" / "tiny"), tmp_path / "real" / "tiny")
    with pytest.raises(CheckpointError, match=f"is a link.*{tmp_path / 'real' / 'tiny'}"):
        check_usable(tmp_path / "runs" / "tiny")
    check_usable(tmp_path / "real" / "tiny")


def test_bundle_outside_of_the_run_is_not_found(base: Path, tmp_path: Path) -> None:
    run, outside = tmp_path / "runs" / "tiny", tmp_path / "outside"
    shutil.copytree(base / RUN, run)
    assert find_bundle("tiny", tmp_path) == run / "nonfinite" / "step-00000002"
    shutil.move(run / "nonfinite", outside)
    link(str(run / "nonfinite"), outside)
    with pytest.raises(CheckpointError, match="has no bundle"):
        find_bundle("tiny", tmp_path)


@pytest.mark.parametrize("name", ["/dev/zero", "../secret.txt", "pipe", "x\0"])
def test_files_that_a_checkpoint_calls_local_are_read_in_bounded_time(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with limited_to(SECONDS):
        assert changed_local_files(f"{tmp_path}/model.py:Model", {name: ""}) == [name]


def test_traceback_of_an_error_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = CliRunner().invoke(tfs, ["--debug", "evaluate", ESCAPE]).output
    assert "Traceback" in output
    assert "\\x1b[31m" in output
    assert not RAW_CONTROL.search(output)


def test_zip_archive_in_place_of_an_array_is_an_error(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "x.npy", "w") as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_array(tmp_path / "x.npy", 1, np.dtype("<i8"))


@pytest.mark.parametrize("name", [name for name in ATTACKS if name.startswith("samples of ")])
def test_samples_of_any_type_do_not_end_a_resumed_run(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", "--resume", "tiny", *LONGER)
    assert finds_of_attack(ATTACKS[name], words, base=base, tmp_path=tmp_path, monkeypatch=monkeypatch) == []


@pytest.mark.parametrize("kind", ["pipe", "link to a copy", "link to nothing", "deep folders"])
@pytest.mark.parametrize("words", [("run", *MINE), ("evaluate", "tiny", "--data")], ids=["run", "evaluate"])
def test_token_store_that_is_no_folder_is_made_again_or_not_written_to(
    kind: str, words: tuple[str, ...], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = ATTACKS[f"store: {kind}"]
    assert finds_of_attack(attack, words, base=base, tmp_path=tmp_path, monkeypatch=monkeypatch) == []
    assert Path("assets/runs/tiny-2/run.json").exists() == (words[0] == "run" and kind != "deep folders")
