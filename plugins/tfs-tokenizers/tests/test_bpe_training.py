"""Training of a BPE: in a process that can be stopped, and in time that grows linearly with the text."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tfs_tokenizers import bpe, bpe_trainer
from tfs_tokenizers.bpe_trainer import LONGEST_WORD
from tfs_tokenizers.training import train_tokenizer_from_files
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from tfs_core.errors import DataError, UsageError

MAIN = "from tfs_core.cli.main import main; main()"

TEXTS = [
    "The quick brown fox isn't lazy; it's jumping, we've seen 12,345.\n\n    return 東京東京 и Москва 🦊🦊 ½\r\n" * 20,
    " ".join(letter * n for letter in "ab1٣-東é" for n in (LONGEST_WORD - 1, LONGEST_WORD)) * 3,
    *(f"x{' ' * n}word{chr(10) * n}word" * 3 for n in (LONGEST_WORD - 1, LONGEST_WORD)),
    "don't 'll'll" * 5 + "'" * LONGEST_WORD + " s",
]


def train_without_bounds(texts: list[str], vocab_size: int) -> str:
    """Return the result of `tokenizers` with the unchanged rule for words."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return str(tokenizer.to_str())


def test_text_without_very_long_words_gives_the_result_of_tokenizers() -> None:
    assert bpe.train(iter(TEXTS), vocab_size=400, min_frequency=2) == train_without_bounds(TEXTS, 400)


@pytest.mark.parametrize("alphabet", ["^", "a", "ACGT", " ", " \n\t\r", "0123456789", "東京", "e\u0301"])
def test_text_without_ends_of_words_is_trained_on_in_linear_time(alphabet: str) -> None:
    letters = random.Random(0).choices(alphabet, k=600_000)
    started_at = time.perf_counter()
    bpe_trainer.train(iter(["".join(letters)]), vocab_size=400, min_frequency=2, special_tokens=())
    assert time.perf_counter() - started_at < 20  # at 2 to 10 minutes when it grew with the square


def test_error_of_the_text_ends_the_training() -> None:
    def texts() -> Iterator[str]:
        yield "some text"
        raise DataError("the disk is gone")

    with pytest.raises(DataError, match="the disk is gone"):
        bpe.train(texts(), vocab_size=300, min_frequency=2)
    assert children(os.getpid()) == []


def test_lone_surrogate_ends_the_training() -> None:
    with pytest.raises(DataError, match=r"lone surrogate U\+D800"):
        bpe.train(iter(["fine", "a\ud800"]), vocab_size=300, min_frequency=2)


def test_failure_of_the_training_is_an_error_in_a_sentence() -> None:
    with pytest.raises(
        DataError, match=r"the training of the BPE failed \(.+\)\. .*choose a smaller vocab_size"
    ) as caught:
        bpe.train(iter(["some text"]), vocab_size=10**15, min_frequency=2)
    assert "\n" not in str(caught.value)


def test_text_after_an_empty_one_is_trained_on() -> None:
    with_empty = [text for pair in zip(TEXTS, [""] * len(TEXTS), strict=True) for text in pair]
    assert bpe.train(iter(["", *with_empty]), vocab_size=400, min_frequency=2) == train_without_bounds(TEXTS, 400)


def test_special_tokens_are_part_of_the_vocabulary_size() -> None:
    content = bpe.train(iter(TEXTS), vocab_size=300, min_frequency=2, special_tokens=["<a>", "<b>"])
    assert Tokenizer.from_str(content).get_vocab_size() == 300


def test_training_on_no_file_is_an_error() -> None:
    with pytest.raises(UsageError, match="name at least one file to train on"):
        train_tokenizer_from_files([], 300)


def test_advice_of_the_library_is_no_reason_for_a_failure() -> None:
    errors = "memory allocation of 1048576 bytes failed\nnote: run with `RUST_BACKTRACE=full` for a backtrace.\n"
    assert "failed (memory allocation of 1048576 bytes failed; exit code -6)" in bpe._reason(-6, errors)


def test_output_of_other_code_is_no_part_of_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello ' * 100_000)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert bpe.train(iter(TEXTS), vocab_size=400, min_frequency=2) == train_without_bounds(TEXTS, 400)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_training_on_a_full_disk_fails(tmp_path: Path, unbuffered: str) -> None:
    resource = pytest.importorskip("resource")
    options = json.dumps({"vocab_size": 300, "min_frequency": 2, "special_tokens": []})
    with (tmp_path / "output").open("wb") as output, (tmp_path / "errors").open("wb") as errors:
        trainer = subprocess.Popen(
            [sys.executable, "-P", "-m", "tfs_tokenizers.bpe_trainer"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": unbuffered},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        )
        assert trainer.stdin is not None
        trainer.stdin.write(f"{options}\n4\ntext-1\n".encode())
        trainer.stdin.flush()
        assert trainer.wait() == 1
    assert (tmp_path / "errors").read_text().rstrip().endswith("File too large")


def test_training_whose_process_is_killed_is_an_error() -> None:
    def texts() -> Iterator[str]:
        yield "some text"
        (process,) = children(os.getpid())
        os.kill(process, signal.SIGKILL)
        for _ in range(100):
            yield "more text " * 10_000

    with pytest.raises(DataError, match="out of memory, or ended by another process; exit code -9"):
        bpe.train(texts(), vocab_size=300, min_frequency=2)


def children(process: int) -> list[int]:
    """Return the process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_running(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return 40 names of a file of letters and blanks. A single one is half a second to count, and minutes to merge."""
    folder = tmp_path_factory.mktemp("letters")
    first, *others = [folder / f"{i}.txt" for i in range(40)]
    first.write_text("".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz    ", k=3_000_000)))
    for other in others:
        other.hardlink_to(first)
    return [str(file) for file in (first, *others)]


def stop(arguments: list[str], phase: str, number: signal.Signals, folder: Path) -> int:
    """Run `tfs` in a folder, send a signal in a phase of the training, and return the exit code.

    Checks that `tfs` and the training process end in time, and that there is no traceback.
    """
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments], cwd=folder, stderr=subprocess.PIPE, text=True
    ) as tfs:
        assert tfs.stderr is not None
        lines: list[str] = []
        while not (lines and lines[-1].startswith(phase)):
            lines.append(tfs.stderr.readline())
            assert lines[-1], lines
        (trainer,) = children(tfs.pid)
        tfs.send_signal(number)
        stopped_at = time.monotonic()
        errors = tfs.stderr.read()
        exit_code = tfs.wait()
        while is_running(trainer):
            time.sleep(0.01)
            assert time.monotonic() - stopped_at < 5
        assert time.monotonic() - stopped_at < 3  # one second, and more on a busy machine
    assert "Traceback" not in errors
    return exit_code


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")


@needs_proc
@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
)
@pytest.mark.parametrize("phase", ["counting words", "merging"])
def test_training_is_stopped_within_a_second(
    files: list[str], tmp_path: Path, phase: str, number: signal.Signals, exit_code: int
) -> None:
    arguments = [*files, "300"] if phase == "counting words" else [files[0], "60000"]
    command = ["tokenizer", "train", "file", *arguments, "--output", "out"]
    assert stop(command, phase, number, tmp_path) == exit_code
    assert not (tmp_path / "out").exists()


@needs_proc
def test_run_is_stopped_in_the_training_of_its_tokenizer(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "{experiment_name: a, model: {name: torch}, data: {tokenizer: {name: bpe, vocab_size: 60000}, "
        f"dataset: {{name: text, path: {files[0]}}}}}, training: {{max_steps: 1}}}}",
        encoding="utf-8",
    )
    assert stop(["run", "--config", "run.yaml"], "merging", signal.SIGINT, tmp_path) == 130


def test_script_without_a_main_guard_trains(tmp_path: Path) -> None:
    script = "import tfs_tokenizers as t\nprint('begun', t.train_tokenizer_from_files('a.txt', 260, output='out'))"
    (tmp_path / "a.txt").write_text("abc abc abc", encoding="utf-8")
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["begun", "out"]
