"""Time to encode text to a token store: tfs against `datasets.map`, and against `encode_batch_fast` with a memory map.

The text is one JSONL file of distinct Python sources (the standard library's, then those of installed packages). The
tokenizer, a BPE of 8192 ids trained on the beginning of the text, is the same for all. Each method runs in its own
process. The methods alternate, round by round, and the best round of each is compared. Imports are not included. The
ids must be equal. Processor time is printed too, since it is more reliable on a busy machine.

    tfs              reads the file, fingerprints it, encodes, writes and syncs the store: everything a run waits for
    datasets.map     on the file loaded beforehand (loading is not included), batches of 1000, without num_proc: two
                     processes are slower
    memory map       reads the file, encode_batch_fast on batches of 1000, ids into a NumPy memory map

    python benchmarks/text_to_tokens.py                      20 MB, about a minute
    python benchmarks/text_to_tokens.py --megabytes 100      the size used in README.md
"""

import argparse
import hashlib
import json
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

VOCAB_SIZE = 8192
TRAINING_CHARACTERS = 10_000_000
BATCH = 1000


def write_corpus(file: Path, n_bytes: int) -> int:
    """Write documents as JSONL, and return the number of bytes of their text."""
    seen: set[bytes] = set()
    written = 0
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        for folder in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
            for source in sorted(Path(folder).rglob("*.py")):
                try:
                    data = source.read_bytes()
                    text = data.decode("utf-8")
                except (OSError, UnicodeDecodeError):
                    continue
                digest = hashlib.sha256(data).digest()
                if text and digest not in seen:
                    seen.add(digest)
                    stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                    written += len(data)
                if written >= n_bytes:
                    return written
    return written


def documents(file: Path) -> Iterator[str]:
    """Iterate over the documents of the corpus."""
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)["text"]


def memory() -> int:
    """Return the peak memory of this process so far, in bytes; 0 if the system does not provide it."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def train(folder: Path) -> None:
    """Train the tokenizer on the beginning of the corpus."""
    from tfs_tokenizers import bpe
    from tfs_tokenizers.tokenizer_json import write_tokenizer

    def beginning() -> Iterator[str]:
        characters = 0
        for text in documents(folder / "corpus.jsonl"):
            yield text
            characters += len(text)
            if characters > TRAINING_CHARACTERS:
                return

    write_tokenizer(folder, bpe.train(beginning(), vocab_size=VOCAB_SIZE, min_frequency=2))


def with_tfs(folder: Path, turn: int) -> tuple[float, float, int, str]:
    """Return seconds, processor seconds, peak memory in bytes minus that after the imports, and a hash of the ids."""
    import tfs_tokenizers.fast_encoder  # noqa: F401 (the import is not measured)

    from tfs_core.config import config_from_mapping
    from tfs_core.data.prepare import build_source, build_tokenizer, prepare_tokens

    files = {"path": str(folder / "corpus.jsonl"), "validation_path": str(folder / "validation.jsonl")}
    data = {"dataset": {"name": "jsonl", **files}, "tokenizer": {"name": "file", "path": str(folder)}}
    chosen = config_from_mapping(
        {"experiment_name": "b", "data": data, "model": "torch", "training": {"max_steps": 1}}
    ).data
    assets = folder / f"assets-{turn}"
    before, started_at, cpu = memory(), time.perf_counter(), time.process_time()
    source = build_source(chosen.dataset, assets=assets, offline=True)
    tokenizer = build_tokenizer(chosen.tokenizer, assets=assets, offline=True, documents=None)
    prepared = prepare_tokens(source, tokenizer, assets=assets)
    seconds, cpu = time.perf_counter() - started_at, time.process_time() - cpu
    return seconds, cpu, memory() - before, hashlib.sha256(prepared.train.tokens.astype("<u2").tobytes()).hexdigest()


def with_datasets(folder: Path, turn: int) -> tuple[float, float, int, str]:
    """Return the same; the memory after loading the file is subtracted too."""
    import datasets
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    loaded = datasets.Dataset.from_json(str(folder / "corpus.jsonl"), cache_dir=str(folder / f"cache-{turn}"))

    def encode(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer.encode_batch_fast(rows["text"], add_special_tokens=False)
        return {"ids": [[*encoding.ids, VOCAB_SIZE - 1] for encoding in encoded]}

    before, started_at, cpu = memory(), time.perf_counter(), time.process_time()
    mapped = loaded.map(encode, batched=True, batch_size=BATCH, remove_columns=["text"], load_from_cache_file=False)
    seconds, cpu, used = time.perf_counter() - started_at, time.process_time() - cpu, memory() - before
    digest = hashlib.sha256()
    for row in mapped.with_format("numpy"):
        digest.update(np.asarray(row["ids"]).astype("<u2").tobytes())
    return seconds, cpu, used, digest.hexdigest()


def with_memory_map(folder: Path, turn: int) -> tuple[float, float, int, str]:
    """Return seconds, processor seconds, peak memory in bytes minus that after the imports, and a hash of the ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    corpus = folder / "corpus.jsonl"
    before, started_at, cpu = memory(), time.perf_counter(), time.process_time()
    ids = np.memmap(folder / f"ids-{turn}.bin", dtype="<u2", mode="w+", shape=corpus.stat().st_size)
    place, texts = 0, documents(corpus)
    while batch := list(islice(texts, BATCH)):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            row = np.array([*encoding.ids, VOCAB_SIZE - 1], dtype="<u2")
            ids[place : place + len(row)] = row
            place += len(row)
    ids.flush()
    seconds, cpu, used = time.perf_counter() - started_at, time.process_time() - cpu, memory() - before
    return seconds, cpu, used, hashlib.sha256(ids[:place].tobytes()).hexdigest()


WAYS: dict[str, Callable[[Path, int], tuple[float, float, int, str]]] = {
    "tfs": with_tfs,
    "datasets.map": with_datasets,
    "memory map": with_memory_map,
}


def main() -> None:
    """Measure all methods in one run; print speeds, memory and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=20, help="maximum size of the text (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds (%(default)s)")
    options = parser.parse_args()
    best = dict.fromkeys(WAYS, float("inf"))
    least_cpu = dict.fromkeys(WAYS, float("inf"))
    used = dict.fromkeys(WAYS, 0)
    found = set()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        megabytes = write_corpus(folder / "corpus.jsonl", options.megabytes * 1_000_000) / 1e6
        (folder / "validation.jsonl").write_text('{"text": "nothing to see"}\n', encoding="utf-8")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
            processes.submit(train, folder).result()
            for turn in range(options.rounds):
                for name, way in WAYS.items():
                    seconds, cpu, n_bytes, digest = processes.submit(way, folder, turn).result()
                    best[name], least_cpu[name] = min(best[name], seconds), min(least_cpu[name], cpu)
                    used[name] = max(used[name], n_bytes)
                    found.add(digest)
    assert len(found) == 1, "the ids differ"
    print(f"{megabytes:.1f} MB of text, {VOCAB_SIZE} ids; all methods give the same ids")
    for name, seconds in best.items():
        print(
            f"{name:<13} {megabytes / seconds:6.1f} MB/s  {megabytes / least_cpu[name]:6.1f} MB per processor second  "
            f"{used[name] / 2**20:6.0f} MiB over the imports"
        )
    for name in ("datasets.map", "memory map"):
        ratio, cpu_ratio = best[name] / best["tfs"], least_cpu[name] / least_cpu["tfs"]
        print(f"ratio to {name}: {ratio:.1f} in time, {cpu_ratio:.1f} in processor time")


if __name__ == "__main__":
    main()
