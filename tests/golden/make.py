"""Generate the data of `tests/test_golden.py` with commit 339a47c, the last one before the redesign of the core.

    git worktree add /tmp/old 339a47c
    .venv/bin/python tests/golden/make.py /tmp/old

writes to the folder of this file:

    letters.txt     the text of every run, one document per line
    hub/            the stories of the streamed runs, in the format of `tests/fake_hub.py`
    numbers.json    golden numbers: configurations, and the loss and the gradient norm of every step
    assets/         old runs, with their token stores
    answers.json    for each old run, the results of 339a47c: evaluation, generation, and the resumed run

The files are the reference for all later code, so they are generated only once: another commit may generate different
files. The script works in /tmp/tfs-golden, so that the absolute paths in the runs' configurations contain no home
folder. In `run.json`, host name, platform and process id are overwritten.
"""

import contextlib
import copy
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMIT = "339a47c"
HERE = Path(__file__).resolve().parent
WORK = Path("/tmp/tfs-golden")
ASSETS = WORK / "assets"
STORIES = "golden/stories"

PACKED_STREAM = {
    "dataset": {"name": "hub", "path": STORIES, "streaming": True},
    "tokenizer": "byte",
    "batching": "packed",
    "max_length": 16,
    "val_subset_size": 5,
    "validation_fraction": 0.1,
    "shard_tokens": 256,  # a few steps
}


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with changes: sections are merged, other values replaced."""
    result = copy.deepcopy(settings)
    for key, value in changes.items():
        both_sections = isinstance(value, dict) and isinstance(result.get(key), dict) and key != "dataset"
        result[key] = merged(result[key], value) if both_sections else value
    return result


TEXT = {
    "data": {
        "dataset": {"name": "text", "path": str(WORK / "letters.txt"), "separator": "\n"},
        "tokenizer": "byte",
        "validation_fraction": 0.1,
    },
    "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
    "loggers": ["jsonl"],
}


def numbers_configs() -> dict[str, dict[str, Any]]:
    """Return the configurations of the golden numbers: float64, ten steps with two micro-batches each."""
    base = merged(
        TEXT,
        {
            "data": {"max_length": 32},
            "model": {"d_model": 16, "n_heads": 2, "n_blocks": 2, "max_seq_len": 32, "dtype": "float64"},
            "training": {
                "batch_size": 4,
                "gradient_accumulation_steps": 2,
                "max_steps": 10,
                "learning_rate": 1e-2,
                "warmup_steps": 2,
            },
        },
    )
    configs = {
        f"{model}-{batching}": merged(base, {"model": {"name": model}, "data": {"batching": batching}})
        for model in ("torch", "custom", "baseline")
        for batching in ("packed", "padded")
    }
    configs["baseline-document-masks"] = merged(configs["baseline-packed"], {"data": {"document_masks": True}})
    configs["torch-streamed"] = merged(
        base,
        {
            "data": PACKED_STREAM,
            "model": {"name": "torch", "max_seq_len": 16},
            "training": {"batch_size": 2},
        },
    )
    return {name: {"experiment_name": name, **config} for name, config in configs.items()}


LONGER = ["training.max_steps=108", "training.log_every=1"]
TO_THE_END = ["training.log_every=1"]


def old_runs() -> dict[str, dict[str, Any]]:
    """Return for each old run: its configuration, the signal and the step that stopped it, and the resume options."""
    base = merged(
        TEXT,
        {
            "data": {"max_length": 24},
            "model": {"d_model": 8, "n_heads": 2, "n_blocks": 2, "max_seq_len": 32},
            "training": {
                "batch_size": 8,
                "max_steps": 100,
                "learning_rate": 2e-2,
                "warmup_steps": 5,
                "log_every": 10,
                "eval_every": None,
                "keep_checkpoints": 1,
            },
        },
    )
    stopped = {"stop": [signal.SIGINT, 90], "resume": TO_THE_END}
    terminated = {"stop": [signal.SIGTERM, 90], "resume": TO_THE_END}
    runs: dict[str, dict[str, Any]] = {
        "torch-finished": {"changes": {}, "resume": LONGER},
        "torch-stopped": {  # has two checkpoints: the best and the latest
            "changes": {
                "training": {"eval_every": 25, "lr_decay": {"name": "warmup-stable-decay", "decay_ratio": 0.3}},
            },
            **stopped,
        },
        "custom-finished": {
            "changes": {"training": {"optimizer": "adamw-by-hand", "eval_every": 50}},
            "resume": LONGER,
        },
        "custom-stopped": {
            "changes": {
                "data": {"batching": "padded"},
                "model": {"gelu": "exact"},
                "training": {"gradient_accumulation_steps": 2, "lr_decay": "linear"},
                "runtime": {"threads": "auto"},  # 1, from OMP_NUM_THREADS below; recorded and used again on a resume
            },
            **terminated,
        },
        "baseline-finished": {
            "changes": {"data": {"batching": "padded"}, "model": {"n_kv_heads": 1}},
            "resume": LONGER,
        },
        "baseline-stopped": {
            "changes": {"data": {"document_masks": True}, "training": {"optimizer": "muon"}},
            **stopped,
        },
        "torch-compiled": {"changes": {"runtime": {"compile": True}}, **stopped},
        "torch-samples": {
            "changes": {
                "training": {"eval_every": 50},
                "samples": {"prompts": ["abc", ""], "max_length": 12, "top_k": 20},
            },
            **stopped,
        },
        "baseline-dropout": {"changes": {"model": {"dropout": 0.1}}, **stopped},
        "baseline-recomputed": {"changes": {"runtime": {"activation_checkpointing": True}}, **stopped},
        "torch-chunked": {"changes": {"runtime": {"loss_chunk": 10}}, **stopped},
        "torch-streamed": {"changes": {"data": PACKED_STREAM, "training": {"batch_size": 8}}, **terminated},
    }
    for name, run in runs.items():
        model = {"model": {"name": name.split("-")[0]}}
        run["config"] = {"experiment_name": name, **merged(merged(base, model), run.pop("changes"))}
    return runs


def write_texts() -> None:
    """Write the text of the runs and the stories of the Hub. The tests read the files, not this code."""
    draw = random.Random(339)
    alphabet = 4 * string.ascii_lowercase

    def line() -> str:
        """Return a part of the alphabet: it has few continuations, so a small model soon predicts the next letter."""
        start = draw.randrange(26)
        return alphabet[start : start + draw.randint(8, 60)]

    (WORK / "letters.txt").write_bytes("\n".join(line() for _ in range(80)).encode("utf-8"))
    folder = WORK / "hub" / "datasets" / STORIES
    folder.mkdir(parents=True)
    for file in range(2):
        rows = "".join(json.dumps({"text": line()}) + "\n" for _ in range(250))
        (folder / f"train-{file}.jsonl").write_bytes(rows.encode("utf-8"))


def read_lines(path: Path, *keys: str) -> list[dict[str, Any]]:
    """Return some keys of every line of a .jsonl file; an empty list if the file does not exist."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: line[key] for key in keys} for line in lines]


def numbers() -> dict[str, Any]:
    """Return the golden numbers with their configurations."""
    tfs_core = importlib.import_module("tfs_core")
    found = {}
    for name, config in numbers_configs().items():
        folder = tfs_core.run(config, assets=WORK / "numbers").folder
        (validation,) = read_lines(folder / "validation.jsonl", "loss")
        steps = read_lines(folder / "metrics.jsonl", "loss", "grad_norm")
        found[name] = {"config": config, "steps": steps, "validation_loss": validation["loss"]}
        print(name, steps[-1], validation, flush=True)
    return found


@contextlib.contextmanager
def signal_after(step: int, number: int) -> Iterator[None]:
    """Context manager: the process sends itself a signal directly after writing the metrics line of a step."""
    logger = importlib.import_module("tfs_core.builtin.jsonl").JsonlLogger
    original = logger.on_step

    def on_step(self: Any, record: Any) -> None:
        original(self, record)
        if record.step == step:
            os.kill(os.getpid(), number)

    logger.on_step = on_step
    try:
        yield
    finally:
        logger.on_step = original


def make_runs(runs: dict[str, dict[str, Any]]) -> None:
    """Train the old runs, and remove the machine's data from their run.json."""
    tfs_core = importlib.import_module("tfs_core")
    for name, run in runs.items():
        number, step = run.get("stop", [signal.SIGINT, None])
        with contextlib.suppress(tfs_core.TfsError), signal_after(step, number):
            tfs_core.run(run["config"], assets=ASSETS)
        folder = ASSETS / "runs" / name
        info = json.loads((folder / "run.json").read_bytes())
        assert info["status"] == ("stopped" if "stop" in run else "finished"), info
        assert info["threads"] == 1, info["machine"]
        assert info["compiled"] == (name == "torch-compiled"), info["machine"]
        info |= {"host": "golden", "pid": 1, "platform": "Linux"}
        (folder / "run.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8", newline="\n")
        (folder / "run.lock").write_bytes(b"")
    shutil.rmtree(ASSETS / "datasets")
    for lock in (ASSETS / "tokens").glob("*.lock"):
        lock.unlink()


def tfs(*words: str, assets: Path) -> str:
    """Return the stdout of `tfs`."""
    testing, main = importlib.import_module("click.testing"), importlib.import_module("tfs_core.cli.main")
    result = testing.CliRunner().invoke(main.tfs, [*words, "--assets", str(assets)])
    assert result.exit_code == 0, result.output
    return str(result.stdout)


GENERATE = [
    ["--prompt", "klm", "--seed", "1", "--max-length", "20", "--temperature", "0"],
    ["--prompt", "defghi", "--seed", "1", "--max-length", "20", "--temperature", "0"],
    ["--prompt", "xyzab", "--seed", "2", "--max-length", "20", "--temperature", "0.8"],
]


def answer(name: str, run: dict[str, Any], assets: Path) -> dict[str, Any]:
    """Return the evaluation, generation and resume results of an old run, computed in a copy of its assets."""
    tfs_core = importlib.import_module("tfs_core")
    (evaluated,) = json.loads(tfs("evaluate", name, "--json", assets=assets))
    del evaluated["checkpoint"]
    generated = [{"arguments": words, "text": tfs("generate", name, *words, assets=assets)} for words in GENERATE]
    folder = tfs_core.run(resume=name, overrides=run["resume"], assets=assets).folder
    weights = folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text().strip() / "model.safetensors"
    tensors = importlib.import_module("safetensors.torch").load_file(weights)
    return {
        "status": "stopped" if "stop" in run else "finished",
        "evaluate": evaluated,
        "generate": generated,
        "resume": {
            "overrides": run["resume"],
            "metrics": read_lines(folder / "metrics.jsonl", "step", "loss", "grad_norm"),
            "validation": read_lines(folder / "validation.jsonl", "step", "loss"),
            "samples": read_lines(folder / "samples.jsonl", "step", "prompt", "text"),
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "weights_norms": {key: float(tensor.double().norm()) for key, tensor in sorted(tensors.items())},
        },
    }


def write_json(name: str, values: dict[str, Any]) -> None:
    (HERE / name).write_text(json.dumps({"commit": COMMIT, **values}, indent=1) + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    """Generate all files with the checkout given on the command line."""
    checkout = Path(sys.argv[1]).resolve()
    commit = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert commit.startswith(COMMIT), f"{checkout} is at {commit.strip()}, not at {COMMIT}"
    sys.path[:0] = [str(checkout), *map(str, checkout.glob("plugins/*")), *map(str, checkout.glob("examples/*"))]
    for package in ("tfs_core", "tfs_torch", "tfs_datasets"):
        assert Path(str(importlib.import_module(package).__file__)).is_relative_to(checkout), package

    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    os.chdir(WORK)
    sys.path.insert(0, str(HERE.parent))
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "http", "HTTP"))]:
        del os.environ[name]
    os.environ |= {"OMP_NUM_THREADS": "1", "TFS_PLUGINS": "torch,custom,baseline,datasets,tokenizers,muon"}
    write_texts()
    runs = old_runs()
    with importlib.import_module("fake_hub").FakeHub(WORK / "hub", large_from=600) as hub:
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(WORK / "home")}
        found = numbers()
        make_runs(runs)
        shutil.copytree(ASSETS, WORK / "again" / "assets")
        answers = {}
        for name, run in runs.items():
            answers[name] = answer(name, run, WORK / "again" / "assets")
            said = [generated["text"] for generated in answers[name]["generate"]]
            print(f"{name}: {said}, loss {answers[name]['evaluate']['loss']}", flush=True)

    for made in ("letters.txt", "hub", "assets"):
        shutil.rmtree(HERE / made, ignore_errors=True)
    shutil.copy(WORK / "letters.txt", HERE / "letters.txt")
    shutil.copytree(WORK / "hub", HERE / "hub")
    shutil.copytree(ASSETS, HERE / "assets")
    write_json("numbers.json", {"runs": found})
    write_json("answers.json", {"runs": answers})


if __name__ == "__main__":
    main()
