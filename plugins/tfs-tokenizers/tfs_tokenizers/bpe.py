"""The tokenizer `bpe`: byte-level byte-pair encoding, trained once on the training text of the run and cached.

Sennrich, Haddow & Birch (2016), "Neural Machine Translation of Rare Words with Subword Units",
https://arxiv.org/abs/1508.07909
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tfs_core.data.documents import TrainingText
from tfs_core.errors import DataError
from tfs_core.progress import progress
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.config import END_OF_TEXT, BpeConfig
from tfs_tokenizers.kept import trained_once
from tfs_tokenizers.tokenizer_json import byte_alphabet
from tfs_tokenizers.unicode_text import as_utf8

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""Interval in which the training process is checked for its end."""


def train(documents: Iterator[str], *, vocab_size: int, min_frequency: int, special_tokens: Sequence[str] = ()) -> str:
    """Return the `tokenizer.json` of a BPE trained on the text, and show the progress.

    Memory grows with the distinct words, not the text. The training runs in a process of its own (see `bpe_trainer`),
    which ends with this function, also after an exception such as KeyboardInterrupt. Raises DataError when the training
    fails, for example because it needs too much memory, and for a lone surrogate.
    """
    options = {"vocab_size": vocab_size, "min_frequency": min_frequency, "special_tokens": list(special_tokens)}
    with TemporaryFile() as output, TemporaryFile() as errors:
        trainer = subprocess.Popen(
            [sys.executable, "-P", "-m", "tfs_tokenizers.bpe_trainer"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # imports as in this process
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # Ctrl-C on a terminal reaches all processes of a session; this one handles it
        )
        assert trainer.stdin is not None
        try:
            _send(options, documents, trainer.stdin)
            with progress("merging", unit="merges") as advance:
                while trainer.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        trainer.wait(POLL_SECONDS)
                    advance(0)
        finally:
            trainer.kill()  # does nothing after its end
            trainer.wait()
            with suppress(OSError):
                trainer.stdin.close()
        output.seek(0)
        errors.seek(0)
        if trainer.returncode != 0:
            raise DataError(_reason(trainer.returncode, errors.read().decode("utf-8", errors="replace")))
        return output.read().decode("utf-8")


def _send(options: dict[str, object], documents: Iterator[str], pipe: IO[bytes]) -> None:
    """Send the input of `bpe_trainer`, except the end of the input. Returns early when the other side has failed."""
    texts = map(as_utf8, documents)
    blocks = chain(
        [b"%b\n" % json.dumps(options).encode()], (b"%d\n%b" % (len(text), text) for text in texts), [b"-1\n"]
    )
    with progress("counting words", unit="B") as advance:
        for block in blocks:
            try:
                pipe.write(block)
                pipe.flush()
            except OSError:
                return
            advance(len(block))


def _reason(exit_code: int, errors: str) -> str:
    """Return an error message for a training that failed, from the exit code and the messages of its process."""
    lines = [line for line in errors.splitlines() if line.strip() and not line.startswith("note: ")]  # Rust's advice
    reason = lines[-1] if lines else "out of memory, or ended by another process"
    return (
        f"the training of the BPE failed ({reason}; exit code {exit_code}). If it needs too much memory, choose a "
        "smaller vocab_size, or train on a part of the text, with `subset_size`."
    )


def build(
    config: BpeConfig,
    *,
    assets: Path,
    offline: bool,  # noqa: ARG001 (no network is needed)
    documents: TrainingText | None,
) -> ByteLevelTokenizer:
    """Return the tokenizer of the training text, trained now or taken from the cache."""
    tokenizer = trained_once(
        "bpe",
        asdict(config),
        assets=assets,
        documents=documents,
        train=lambda texts: train(texts, **asdict(config)),
        load=ByteLevelTokenizer,
    )
    warn_if_small(tokenizer, config)
    return tokenizer


def warn_if_small(tokenizer: ByteLevelTokenizer, config: BpeConfig) -> None:
    """Log a warning when training found fewer ids than requested."""
    if tokenizer.vocab_size < config.vocab_size:
        log.warning(
            "bpe: the training text gives %d ids, not the %d of vocab_size: no other pair of ids occurs %d times in it",
            tokenizer.vocab_size,
            config.vocab_size,
            config.min_frequency,
        )


def truncate(content: str, vocab_size: int) -> str:
    """Return the `tokenizer.json` with only the first merges, so that it has `vocab_size` ids.

    Training finds the merges one by one, so the result is identical to that of training with `vocab_size`. In files of
    other tools, several merges may give the same token, and a merge may precede those of its parts: it is left out.
    """
    rules = json.loads(content)
    vocabulary, merges = rules["model"]["vocab"], rules["model"]["merges"]
    letters = sorted(byte_alphabet(), key=lambda letter: vocabulary.get(letter, len(vocabulary)))
    smaller = {letter: token_id for token_id, letter in enumerate(letters)}
    first_merges = []
    for merge in merges:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        if first in smaller and second in smaller:
            if first + second not in smaller and len(smaller) == vocab_size - 1:  # end of text takes the last id
                break
            smaller.setdefault(first + second, len(smaller))
            first_merges.append(merge)
    rules["model"] |= {"vocab": smaller, "merges": first_merges}
    end_of_text = {"id": len(smaller), "content": END_OF_TEXT, "special": True}
    rules["added_tokens"] = [dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | end_of_text]
    return json.dumps(rules, ensure_ascii=False)
