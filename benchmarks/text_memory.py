"""Peak memory while text is encoded to a token store: for 100 MB of text, and for ten times as much.

`tfs tokenizer pretokenize` runs with a BPE of 8192 ids on one document (to measure the imports and the tokenizer), on
the smaller corpus and on the larger one. Meanwhile the memory of its process and of all its child processes is polled
from /proc. The text is that of `text_to_tokens.py`. If the machine has too few distinct sources, they are repeated with
shuffled lines.

    python benchmarks/text_memory.py                     100 MB and 1 GB, about two minutes, 2 GB of disk
    python benchmarks/text_memory.py --size 100          the larger corpus in MB: 10 and 100 MB, a quarter of a minute
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from text_to_tokens import documents, train, write_corpus

WATCH_SECONDS = 0.02


def write_larger(corpus: Path, larger: Path, n_bytes: int) -> None:
    """Write the documents of the corpus repeatedly, each time with shuffled lines."""
    written, turn = 0, 0
    with larger.open("w", encoding="utf-8", newline="\n") as stream:
        while written < n_bytes:
            for number, text in enumerate(documents(corpus)):
                lines = text.splitlines(keepends=True)
                if turn:
                    random.Random(f"{turn} {number}").shuffle(lines)
                stream.write(json.dumps({"text": "".join(lines)}, ensure_ascii=False) + "\n")
                written += len(text)
                if written >= n_bytes:
                    break
            turn += 1


def resident(pid: int) -> int:
    """Return the memory of a process and its children in bytes; 0 if the process has ended."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = [
            child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
        ]
    except OSError:
        return 0
    return own + sum(resident(int(child)) for child in children)


def peak(folder: Path, corpus: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory, in MiB, of encoding a corpus."""
    data = json.dumps(
        {"name": "jsonl", "path": str(corpus), "validation_path": str(folder / "validation.jsonl")}, ensure_ascii=True
    )
    command = [sys.executable, "-c", "from tfs_core.cli.main import main; main()", "tokenizer", "pretokenize", data]
    command += [str(folder), "--assets", str(folder / "assets")]
    started_at, most = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, resident(process.pid))
        time.sleep(WATCH_SECONDS)
    assert process.returncode == 0, "the text could not be encoded"
    return time.monotonic() - started_at, most / 2**20


def main() -> None:
    """Encode all three and print their peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1000, help="size of the larger corpus in MB (%(default)s)")
    options = parser.parse_args()
    sizes = (options.size // 10, options.size)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        write_corpus(folder / "corpus.jsonl", sizes[0] * 1_000_000)
        train(folder)
        (folder / "validation.jsonl").write_text('{"text": "nothing to see"}\n', encoding="utf-8")
        (folder / "one.jsonl").write_text('{"text": "one document"}\n', encoding="utf-8")
        _, imports = peak(folder, folder / "one.jsonl")
        print(f"one document   {imports:6.0f} MiB at most")
        over = []
        for size, name in zip(sizes, ("smaller.jsonl", "larger.jsonl"), strict=True):
            write_larger(folder / "corpus.jsonl", folder / name, size * 1_000_000)
            seconds, most = peak(folder, folder / name)
            over.append(most - imports)
            print(
                f"{size:6,} MB text {most:6.0f} MiB at most, {most - imports:4.0f} over that; {size / seconds:.1f} MB/s"
            )
        print(f"ratio of the larger to the smaller: {(over[1] + imports) / (over[0] + imports):.2f}")


if __name__ == "__main__":
    main()
