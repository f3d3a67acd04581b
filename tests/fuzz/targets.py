"""The targets of the fuzzer: the files that are mutated, and the commands that read them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml
from click.testing import CliRunner, Result
from mutations import LITERALS, NAMES, YAML_LITERALS, Mutator

from tfs_core.cli.main import tfs
from tfs_core.runs import list_runs

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789" * 4
TEXT = "One day, a small model read a long text. It was happy, and then it read the text again.\n" * 40
CONFIG: dict[str, Any] = {
    "experiment_name": "tiny",
    "data": {"dataset": {"name": "text", "path": "text"}, "tokenizer": "tokenizer.json", "max_length": 16},
    "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16},
    "training": {"batch_size": 2, "max_steps": 4, "checkpoint_every": 2, "eval_every": 2, "max_eval_batches": 1},
    "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
    "samples": {"prompts": ["One "], "max_length": 4},
}
RUN = "assets/runs/tiny"
CHECKPOINT = f"{RUN}/checkpoints/step-00000004"
LOGS = ("metrics", "validation", "samples", "events")


@dataclass(frozen=True)
class Action:
    """Something that reads the mutated files: a command, or a function of the project's readers."""

    words: tuple[str, ...]  # the command's arguments, or the name of the function; {file} is the mutated file
    function: Callable[[], object] | None = None
    stdin: str = ""
    own: bool = False  # the file is the user's own: it may name a local model, and be a link

    def on(self, file: Path) -> "Action":
        """Return the action on a file."""
        return replace(self, words=tuple(str(file) if word == "{file}" else word for word in self.words))

    def run(self) -> Result:
        """Run it with captured output. A command converts errors as `tfs` does; a function raises them."""
        if self.function is None:
            return CliRunner().invoke(tfs, list(self.words), input=self.stdin)
        return CliRunner().invoke(click.Command("read", callback=self.function), [])


@dataclass(frozen=True)
class Target:
    """Files, one of which is mutated, and actions, two of which read it."""

    files: str  # a glob
    actions: tuple[Action, ...]
    form: str = ""  # of the file, by default its suffix


def command(*words: str, stdin: str = "", own: bool = False) -> Action:
    """Return the action that runs `tfs` with these arguments."""
    return Action(words, stdin=stdin, own=own)


def read_runs() -> None:
    """Read all runs with the core's readers."""
    for run in list_runs(Path("assets")):
        _ = run.status, run.latest, run.best, [run.read(name) for name in LOGS]


def show_pages() -> None:
    """Make all pages of the dashboard."""
    from tfs_dash.figures.style import encoded
    from tfs_dash.page import installed_pages
    from tfs_dash.store import RunStore
    from tfs_dash.view import chosen_runs, parse_view

    store, view = RunStore(Path("assets")), parse_view("?seeds=mean&group=tag&rows=all&x=seconds&second=perplexity")
    store.index.refresh()
    runs, _ = chosen_runs(view, store)
    for page in installed_pages():
        page.page.layout(view, store)
        for chart in page.charts.values():
            encoded(chart(runs, view, None))
        for part in page.parts.values():
            part(runs, view, store)


def draw_log(path: str) -> None:
    """Draw the training log at a path."""
    from tfs_dash import create_loss_curves
    from tfs_dash.training_log import load_training_log

    create_loss_curves({"log": load_training_log(path)})


RESUME = command("run", "--resume", "tiny", "--set", "training.max_steps=5")
RESUME_STREAM = command("run", "--resume", "streamed", "--set", "training.max_steps=6")
DRY_RUN = command("run", "--dry-run", "--config", "tiny.yaml", own=True)
EVALUATE = command("evaluate", "tiny", "--json")
GENERATE = command("generate", "tiny", "--max-length", "3")
GENERATE_BEST = command("generate", "assets/runs/tiny/checkpoints/best", "--max-length", "3")
CHAT = command("chat", "tiny", "--max-length", "3", stdin="One day\nhelp\n\x1b[31m\n")
EXPORT = command("dash", "export", "report.html")
LIST = command("datasets", "list")
LOOK = command("datasets", "look", "tiny")
PREVIEW = command("datasets", "preview", "owner/name")
PREVIEW_CACHED = command("datasets", "preview", "owner/cached")
COMPARE = command("tokenizer", "compare", "tokenizer.json", "--data", "{name: text, path: text}", own=True)
VALIDATE = command("config", "validate", "{file}", own=True)
SHOW = command("config", "show", "{file}", own=True)
READ_RUNS = Action(("list_runs",), read_runs)
SHOW_PAGES = Action(("the pages of the dashboard",), show_pages)
DRAW_RUN = Action(("load_training_log of a run",), partial(draw_log, RUN))
DRAW_ORIGINAL = Action(("load_training_log of the original tools",), partial(draw_log, "original.json"), own=True)

READ = (EXPORT, READ_RUNS, SHOW_PAGES, DRAW_RUN, RESUME)
LOAD = (RESUME, EVALUATE, GENERATE, CHAT)

TARGETS = {
    "config": Target("configs/*.yaml", (VALIDATE, SHOW)),
    "config-run": Target("tiny.yaml", (DRY_RUN, VALIDATE)),
    "overrides": Target("tiny.yaml", (), "overrides"),
    "logs": Target(f"{RUN}/*.jsonl", READ),
    "run-json": Target(f"{RUN}/run.json", (*READ, GENERATE)),
    "run-config": Target(f"{RUN}/config.yaml", (*READ, LOOK)),
    "checkpoint-config": Target(f"{CHECKPOINT}/config.yaml", LOAD),
    "state": Target(f"{CHECKPOINT}/state.json", (RESUME, *LOAD)),
    "manifest": Target(f"{CHECKPOINT}/manifest.json", LOAD),
    "weights": Target(f"{CHECKPOINT}/model.safetensors", LOAD),
    "optimizer": Target(f"{CHECKPOINT}/optimizer.safetensors", (RESUME, GENERATE)),
    "checkpoint-tokenizer": Target(f"{CHECKPOINT}/tokenizer/*", LOAD),
    "pointers": Target(f"{RUN}/checkpoints/*est", (*LOAD, GENERATE_BEST, READ_RUNS), "name"),
    "tokens": Target("assets/tokens/*/*.*", (RESUME, EVALUATE, DRY_RUN, LOOK)),
    "tokenizer": Target("tokenizer.json", (DRY_RUN, COMPARE)),
    "original-log": Target("original.json", (DRAW_ORIGINAL,)),
    "shards": Target("assets/runs/streamed/shards/*", (RESUME_STREAM,)),
    "hub-store": Target("assets/datasets/hub/**/*.*", (LIST, PREVIEW, RESUME_STREAM)),
    "hub-cache": Target("hub-cache/**/*.*", (PREVIEW_CACHED,)),
    "files": Target("assets/*/*/**/*", (*READ, *LOAD, LIST, PREVIEW, LOOK, RESUME_STREAM), "kind"),
}


def prepare_kept(case: dict[str, Any], mutator: Mutator) -> list[Action]:
    """Change one file as a kept find describes, and return the action that reads it.

    Its entries are `file`, `kind` (see `Mutator.become`) or `content` (Latin-1), `words` (see `Action`), and optionally
    `seconds`, the time after which it hangs.
    """
    path = Path(case["file"])
    if "kind" in case:
        mutator.become(path, case["kind"])
    else:
        path.write_bytes(case["content"].encode("latin-1"))
    make_fit(path)
    functions = (READ_RUNS, SHOW_PAGES, DRAW_RUN, DRAW_ORIGINAL)
    return [*(action for action in functions if [*action.words] == case["words"]), command(*case["words"])][:1]


def prepare(target: str, mutator: Mutator) -> list[Action]:
    """Mutate a file of the target in the working folder, and return the actions that read it."""
    chosen = TARGETS[target]
    if chosen.form == "overrides":
        return overrides(mutator)
    path = mutator.rng.choice([path for path in sorted(Path().glob(chosen.files)) if path.is_file() or chosen.form])
    known = path.suffix[1:] in ("json", "yaml", "jsonl", "safetensors", "npy")
    mutator.file(path, chosen.form or (path.suffix[1:] if known else "bytes"))
    if mutator.rng.random() < 0.9:
        make_fit(path)
    actions = mutator.rng.sample(chosen.actions, min(2, len(chosen.actions)))
    return [
        replace(action, words=tuple(word.replace("{file}", str(path)) for word in action.words)) for action in actions
    ]


def make_fit(path: Path) -> None:
    """Write the checksum of a mutated file of a checkpoint to its manifest; elsewhere, remove checksums."""
    checkpoint, store = Path(CHECKPOINT), path.with_name("tokens.json")
    if checkpoint in path.parents and path.name != "manifest.json":
        files = {}
        for file in checkpoint.rglob("*"):
            if file.is_file() and file.name != "manifest.json":
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                files[file.relative_to(checkpoint).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest}
        (checkpoint / "manifest.json").write_text(json.dumps({"format_version": 1, "files": files}))
    info_file = store if "tokens" in path.parts else path.with_name(path.name.partition(".")[0] + ".json")
    if info_file.is_file() and (path.parent.name == "shards" or "tokens" in path.parts):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # it may be mutated
            info = json.loads(info_file.read_bytes())
            del info["checksum"]  # checksums are missing in files of an older tfs
            info.pop("sha256", None)
            for counts in info.get("splits", {}).values():
                del counts["sha256"]
                counts["files"] = {name: (store.parent / name).stat().st_size for name in counts["files"]}
            info_file.write_text(json.dumps(info))


def overrides(mutator: Mutator) -> list[Action]:
    """Return commands with hostile settings and names of runs, files, data sets and commands."""
    rng, places = mutator.rng, ["model", "data.dataset", "training.optimizer", "training.schedule", "loggers", "x"]
    for section, values in CONFIG.items():
        places += [f"{section}.{key}" for key in values] if isinstance(values, dict) else [section]
    name = rng.choice(NAMES)[:5000]
    setting = f"{rng.choice([*places, name])}={rng.choice([name, rng.choice(LITERALS + YAML_LITERALS)])}"
    mutator.note(f"name {name!r}, setting {setting!r}")
    named = [("config", "show", "tiny.yaml", "--model"), ("config", "validate"), ("run", "--resume"), ("generate",)]
    named += [("evaluate",), ("plugins",), ("run", "--dry-run", "--config"), ("datasets", "preview"), ("check",)]
    named += [("dash", "export", "r.html"), ("dash", "export"), ("tokenizer", "compare"), ("datasets", "look"), ()]
    named += [("run", "--config", "tiny.yaml", "--set", "training.max_steps=1", "--name")]
    readers = VALIDATE.on(Path("tiny.yaml")), DRY_RUN
    set_it = command(*rng.choice(readers).words, "--set", setting, own=True)
    return [set_it, *(command(*words, name, own=True) for words in rng.sample(named, 2))]


# The base


def make_base() -> None:
    """Make two tiny runs and their data in the working folder."""
    import datasets
    from tfs_tokenizers.training import train_tokenizer_from_files

    Path("text").mkdir()
    for number in range(9):
        Path(f"text/{number}.txt").write_text(TEXT[number * 9 :])
    folder = train_tokenizer_from_files(["text/0.txt"], 280, output="trained", assets="assets")
    (folder / "tokenizer.json").replace("tokenizer.json")
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    shutil.copytree(ROOT / "configs", "configs")
    Path("model.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    step = {"step": 1, "epoch": 0, "loss": 3.0, "learning_rate": 0.1, "extras": {"x": 1}}
    log = {
        **{"experiment_name": "old", "model_type": "torch", "model_config": {"d_model": 8}, "train_config": {"a": 1}},
        **{"started_at": "2025-01-01", "finished_at": None, "train_metrics": [step, {**step, "step": 2}]},
        "val_metrics": [{"step": 2, "epoch": 0, "loss": 2.5, "perplexity": 12.2, "timestamp": "2025-01-01"}],
    }
    Path("original.json").write_text(json.dumps(log))

    made = datasets.Dataset.from_dict({"text": [TEXT[number:500] for number in range(99)]})
    hub = Path("assets/datasets/hub/owner--name") / COMMIT
    (hub / "files").mkdir(parents=True)
    made.to_parquet(hub / "files" / "a.parquet")
    content = (hub / "files" / "a.parquet").read_bytes()
    entry = {"path": "a.parquet", "size": len(content), "algorithm": "sha256"}
    named = {"format_version": 1, "path": "owner/name", "config": "default", "commit": COMMIT, "revisions": ["main"]}
    rest = {"is_default": True, "downloaded_at": 1.5, "kind": "parquet", "options": {}}
    splits = {"train": [{**entry, "checksum": hashlib.sha256(content).hexdigest()}]}
    (hub / "default.json").write_text(json.dumps({**named, **rest, "splits": splits}))
    cache = Path("hub-cache/owner___cached/default/0.0.0") / COMMIT
    made.save_to_disk("saved")
    cache.mkdir(parents=True)
    (cache / "dataset_info.json").write_text("{}")
    next(Path("saved").glob("*.arrow")).replace(cache / "cached-train.arrow")

    streamed = {"dataset": {"name": "hub", "path": "owner/name", "streaming": True}, "shard_tokens": 64}
    config = {**CONFIG, "experiment_name": "streamed", "data": {**CONFIG["data"], **streamed}}
    Path("streamed.yaml").write_text(yaml.safe_dump(config))
    for name in ("tiny", "streamed"):
        result = command("run", "--config", f"{name}.yaml").run()
        assert result.exit_code == 0, result.output
