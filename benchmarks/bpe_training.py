"""Time to train a BPE tokenizer with 8192 ids: tfs against other trainers.

tfs uses the trainer of `tokenizers`. It first counts the words of the text, then merges pairs. The time for counting is
measured by training without any merges. `rustbpe` and `gigabpe` are measured if they are installed (pip install rustbpe
gigabpe); tfs depends on neither. They run alternately, each in its own process, and their merges are compared with
those of tfs. gigabpe reads only files, line by line, so its merges of whitespace differ.

    python benchmarks/bpe_training.py                      20 MB of text
    python benchmarks/bpe_training.py --megabytes 100      the size used in README.md
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

from text_to_tokens import VOCAB_SIZE, documents, write_corpus

Merges = list[bytes]
"""The bytes of each merged token, in the order of the merges."""


def with_tfs(folder: Path, vocab_size: int = VOCAB_SIZE) -> tuple[float, Merges]:
    """Return the seconds and the merges of `bpe.train`."""
    from tfs_tokenizers import bpe
    from tfs_tokenizers.tokenizer_json import byte_alphabet

    texts = list(documents(folder / "corpus.jsonl"))
    started_at = time.perf_counter()
    content = bpe.train(iter(texts), vocab_size=vocab_size, min_frequency=2)
    seconds = time.perf_counter() - started_at
    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    merges = json.loads(content)["model"]["merges"]
    return seconds, [bytes(byte_of[character] for character in "".join(pair)) for pair in merges]


def counting_only(folder: Path) -> tuple[float, Merges]:
    """Return the seconds for counting the words, and an empty list of merges."""
    return with_tfs(folder, vocab_size=257)


def with_rustbpe(folder: Path) -> tuple[float, Merges]:
    """Return the seconds and the merges of `rustbpe`, which has no minimum frequency."""
    import rustbpe
    from tfs_tokenizers.fast_encoder import WORDS

    texts = list(documents(folder / "corpus.jsonl"))
    tokenizer = rustbpe.Tokenizer()
    started_at = time.perf_counter()
    tokenizer.train_from_iterator(iter(texts), VOCAB_SIZE - 1, pattern=WORDS)
    seconds = time.perf_counter() - started_at
    ranks = sorted(tokenizer.get_mergeable_ranks(), key=lambda pair: pair[1])
    return seconds, [bytes(token) for token, rank in ranks if rank >= 256]


def with_gigabpe(folder: Path) -> tuple[float, Merges]:
    """Return the seconds and the merges of `gigabpe`."""
    import gigabpe
    from tfs_tokenizers.tokenizer_json import byte_alphabet

    file = folder / "corpus.txt"
    file.write_text("".join(documents(folder / "corpus.jsonl")), encoding="utf-8", newline="\n")
    started_at = time.perf_counter()
    _, merges = gigabpe.train_bpe([str(file)], vocab_size=VOCAB_SIZE - 1, min_frequency=2, pretokenizer="bytelevel")
    seconds = time.perf_counter() - started_at
    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    return seconds, [bytes(byte_of[character] for character in "".join(pair)) for pair in merges]


WAYS: dict[str, Callable[[Path], tuple[float, Merges]]] = {
    "tfs (tokenizers)": with_tfs,
    "  of it, counting": counting_only,
    "rustbpe": with_rustbpe,
    "gigabpe": with_gigabpe,
}


OTHERS = ("rustbpe", "gigabpe")


def main() -> None:
    """Measure all installed trainers in one run; print seconds, ratios, and how many merges are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=20, help="maximum size of the text (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds (%(default)s); the fastest counts")
    options = parser.parse_args()
    ways = {name: way for name, way in WAYS.items() if name not in OTHERS or find_spec(name)}
    best = dict.fromkeys(ways, float("inf"))
    learned: dict[str, Merges] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        megabytes = write_corpus(folder / "corpus.jsonl", options.megabytes * 1_000_000) / 1e6
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
            for _ in range(options.rounds):
                for name, way in ways.items():
                    seconds, learned[name] = processes.submit(way, folder).result()
                    best[name] = min(best[name], seconds)
    ours, of_ours = best["tfs (tokenizers)"], learned["tfs (tokenizers)"]
    print(f"{megabytes:.1f} MB of text, {VOCAB_SIZE} ids")
    for name, seconds in best.items():
        line = f"{name:<18} {seconds:6.2f} s  {ours / seconds:4.1f} times as fast"
        if name in OTHERS:
            same = next(
                (i for i, (a, b) in enumerate(zip(of_ours, learned[name], strict=False)) if a != b), len(of_ours)
            )
            common = len(set(of_ours) & set(learned[name]))
            line += f"; the first {same:,} of {len(of_ours):,} merges are the same, {common:,} tokens in common"
        print(line)


if __name__ == "__main__":
    main()
