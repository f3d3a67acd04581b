"""Conformance checks for tokenizers: lossless round trip, batches, byte lengths, saving and loading."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tfs_core.contracts import Tokenizer
from tfs_core.data.documents import TrainingText
from tfs_core.errors import DataError
from tfs_core.registry import get_registry
from tfs_lab.testing.chosen import chosen
from tfs_lab.testing.results import Check, Finding, check, expect

TEXTS = (
    "",
    " ",
    "a",
    "Once upon a time there was a small transformer.\n\tdef f(x):\r\n        return x  # naïve\n",
    "  leading and trailing  \n\n\n",
    "<|endoftext|><unk><pad>[CLS]",
    "héllo wörld, καλημέρα, שלום, नमस्ते, 你好，世界",
    "e\u0301 is not \u00e9; \ufb01 is not fi; \u212b is not \u00c5",
    "👩‍👩‍👧‍👦 🇺🇳 👍🏽 \U0010ffff",
    "\x00\x01\x1b[31m\x7f\x85\ufeff\u2028\u200d",
    "0123456789" * 40,
    "".join(chr(code) for code in range(0x20, 0x3000, 7)),
)
"""Difficult texts: blanks, other scripts, composed and decomposed letters, control characters, special tokens."""


class _SmallSource:
    """A data set of 200 documents, for a tokenizer that is trained on demand."""

    def splits(self) -> Sequence[str]:
        return ["train"]

    def documents(self, split: str) -> Iterator[str]:  # noqa: ARG002 (there is only one)
        sentence = "The quick brown fox jumps over the lazy dog, and def main(argument: int) -> None: return argument"
        words = sentence.split()
        for turn in range(200):
            yield " ".join(words[turn % len(words) :] + words[: turn % len(words)]) + f"\n{turn}\n"

    def fingerprint(self) -> str:
        return "small-source-1"


@dataclass(frozen=True)
class TokenizerUnderCheck:
    """A tokenizer by its name and options."""

    name: str
    options: Mapping[str, Any]
    load: Callable[[Path], Tokenizer] | None = None  # by default the registry's

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer, built offline (and trained, where the component trains one)."""
        component = chosen("tokenizer", self.name, self.options)
        with tempfile.TemporaryDirectory() as assets:
            tokenizer: Tokenizer = component.factory(
                component.config, assets=Path(assets), offline=True, documents=TrainingText(_SmallSource())
            )
            return tokenizer

    def loaded(self, folder: Path) -> Tokenizer:
        """Return the tokenizer that was saved in a folder."""
        load = self.load or get_registry().find("tokenizer", self.name).load_loader()
        return load(folder)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return [int(token_id) for token_id in tokenizer.encode_batch([text])[0]]


def _are_same(tokenizer: Tokenizer, text: str, decoded: str) -> bool:
    """Return whether two texts are equal, in the tokenizer's Unicode normal form if it has one."""
    form: Any = getattr(tokenizer, "normalization", None)
    return (
        text == decoded if form is None else unicodedata.normalize(form, text) == unicodedata.normalize(form, decoded)
    )


@check("round trip")
def every_text_comes_back(subject: TokenizerUnderCheck) -> Finding:
    """Decoding the ids of any Unicode text gives the same text, and no text encodes to a special id.

    If the tokenizer has a `normalization`, both texts are the same in this Unicode normal form.
    """
    tokenizer = subject.tokenizer
    for text in TEXTS:
        ids = _ids(tokenizer, text)
        expect(_are_same(tokenizer, text, tokenizer.decode(ids)), f"{text!r} came back as {tokenizer.decode(ids)!r}")
        outside = [token_id for token_id in ids if not 0 <= token_id < tokenizer.vocab_size]
        expect(not outside, f"{text!r} has ids outside the vocabulary of {tokenizer.vocab_size}: {outside}")
        expect(tokenizer.end_of_text_id not in ids, f"{text!r} encodes to the special id of end of text")
    return f"{len(TEXTS)} texts, {tokenizer.vocab_size} ids"


@check("batches")
def a_batch_is_its_texts(subject: TokenizerUnderCheck) -> Finding:
    """The ids of a text do not depend on the other texts of a batch, nor on other threads that encode."""
    tokenizer = subject.tokenizer
    together = [[int(token_id) for token_id in ids] for ids in tokenizer.encode_batch(TEXTS)]
    for text, ids in zip(TEXTS, together, strict=True):
        expect(ids == _ids(tokenizer, text), f"{text!r} has other ids in a batch than alone")
    with ThreadPoolExecutor(4) as threads:
        for turn in threads.map(tokenizer.encode_batch, [TEXTS] * 16):
            ids_of_turn = [[int(token_id) for token_id in ids] for ids in turn]
            expect(ids_of_turn == together, "texts have other ids when several threads encode")
    return f"{len(TEXTS)} texts in one batch, and in 4 threads at once"


@check("bytes")
def every_byte_is_counted_once(subject: TokenizerUnderCheck) -> Finding:
    """`byte_lengths` and `decode_bytes` agree with the UTF-8 bytes of decoded text; special ids have no bytes."""
    tokenizer = subject.tokenizer
    lengths = tokenizer.byte_lengths()
    expect(lengths.shape == (tokenizer.vocab_size,), f"byte_lengths has shape {lengths.shape}")
    expect(str(lengths.dtype) == "int64", f"byte_lengths is {lengths.dtype}, not int64")
    expect(int(lengths[tokenizer.end_of_text_id]) == 0, "end of text has a length in bytes")
    expect(tokenizer.decode_bytes([tokenizer.end_of_text_id]) == b"", "end of text decodes to bytes")
    for text in TEXTS:
        ids = _ids(tokenizer, text)
        encoded = tokenizer.decode(ids).encode("utf-8")
        counted = sum(int(lengths[token_id]) for token_id in ids)
        expect(counted == len(encoded), f"{text!r} has {len(encoded)} bytes; its ids count {counted}")
        expect(tokenizer.decode_bytes(ids) == encoded, f"decode_bytes gives other bytes than those of {text!r}")
        pieces = b"".join(tokenizer.decode_bytes([token_id]) for token_id in ids)
        expect(pieces == encoded, f"the ids of {text!r}, decoded one by one, give other bytes")
    return "byte lengths and decoded bytes agree with UTF-8"


@check("lone surrogates")
def a_lone_surrogate_is_refused(subject: TokenizerUnderCheck) -> Finding:
    """A lone surrogate (half of a pair) raises DataError; it is not replaced by another character."""
    try:
        subject.tokenizer.encode_batch(["a\ud800b"])
    except DataError as error:
        return str(error)
    expect(False, "a lone surrogate was encoded")
    return ""


@check("save and load")
def saving_keeps_everything(subject: TokenizerUnderCheck) -> Finding:
    """A tokenizer saved by `save` and loaded by the component's `loader` has the same ids, sizes and fingerprint."""
    tokenizer = subject.tokenizer
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        loaded = subject.loaded(Path(folder))
        expect(loaded.fingerprint() == tokenizer.fingerprint(), "the fingerprint differs after loading")
        expect(loaded.vocab_size == tokenizer.vocab_size, "the vocabulary has another size after loading")
        expect(loaded.end_of_text_id == tokenizer.end_of_text_id, "end of text has another id after loading")
        for text in TEXTS:
            expect(_ids(loaded, text) == _ids(tokenizer, text), f"{text!r} has other ids after loading")
    return f"fingerprint {tokenizer.fingerprint()}"


TOKENIZER_CHECKS: tuple[Check[TokenizerUnderCheck], ...] = (
    every_text_comes_back,
    a_batch_is_its_texts,
    every_byte_is_counted_once,
    a_lone_surrogate_is_refused,
    saving_keeps_everything,
)
