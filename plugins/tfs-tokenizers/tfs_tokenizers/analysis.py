"""Analysis of the vocabulary that a text needs: coverage of the most frequent ids, and bytes per token for each size.

Two different measures:

    coverage    number of most frequent ids that make up 90, 95, 99, 99.9 % of the tokens. The other ids are rare in
                training, and their embeddings learn little.
    fertility   bytes of text per token. It grows with the vocabulary, with diminishing returns. With more bytes per
                token, a context of the same length covers more text.

Training finds the merges of a BPE one by one, so a smaller vocabulary is a prefix of a larger one: one training is
enough to measure all sizes.
"""

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfs_core.contracts import Tokenizer
from tfs_core.data.documents import TrainingText, describe
from tfs_core.durable import write_durably
from tfs_core.errors import DataError
from tfs_core.progress import progress
from tfs_core.runs import assets_folder
from tfs_core.terminal import counted, escape_control_characters
from tfs_tokenizers import bpe, named
from tfs_tokenizers.batches import batches
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.tokenizer_json import check_replaces_nothing

COVERAGES = (0.9, 0.95, 0.99, 0.999)
LARGEST_BPE = 32_768
"""Vocabulary size of the BPE that is trained when no tokenizer is given."""

SIZES = tuple(2**power for power in range(9, 17))
"""Vocabulary sizes to compare, up to the tokenizer's own."""

COMPARED_CHARACTERS = 1 << 22
"""Number of characters, from the beginning of the text, that are encoded with each vocabulary size."""

RARE = 10
"""Ids with fewer occurrences count as rare: they learn almost nothing."""

MIN_GAIN = 0.08
"""Doubling the vocabulary is worthwhile if it reduces the number of tokens by at least this share."""

_EXAMPLES = 6


@dataclass(frozen=True)
class Recommendation:
    """A vocabulary size, and the reason for it."""

    vocab_size: int
    reason: str


@dataclass(frozen=True)
class SizeRow:
    """Bytes per token with one vocabulary size."""

    vocab_size: int
    bytes_per_token: float


@dataclass(frozen=True)
class EdgeCase:
    """A group of ids with a common property; `ids` is their number."""

    name: str
    ids: int
    share: float  # of the tokens
    examples: Sequence[str]  # the most frequent ones


@dataclass(frozen=True)
class TokenAnalysisReport:
    """Statistics of an encoded text."""

    dataset: str
    tokenizer: str
    documents: int  # pieces of a long document are counted separately
    n_bytes: int
    counts: NDArray[np.int64]  # [vocab_size]: occurrences of each id
    spelled: Sequence[bytes]  # [vocab_size]: bytes of each id, empty for special ids
    sizes: Sequence[SizeRow]  # empty unless the tokenizer is a byte-level BPE

    @property
    def vocab_size(self) -> int:
        """Number of ids, including unused ones."""
        return len(self.counts)

    @cached_property
    def n_tokens(self) -> int:
        """Number of tokens in the text."""
        return int(self.counts.sum())

    @property
    def bytes_per_token(self) -> float:
        """Fertility: bytes of text per token."""
        return self.n_bytes / self.n_tokens

    @cached_property
    def ranked(self) -> NDArray[np.int64]:
        """The ids that occur, most frequent first: int64 [ids in use]."""
        order = np.argsort(-self.counts, kind="stable")
        return order[: np.count_nonzero(self.counts)]

    @cached_property
    def coverage(self) -> NDArray[np.float64]:
        """Share of the tokens made up by the 1, 2, 3, ... most frequent ids: float64 [ids in use]."""
        return np.cumsum(self.counts[self.ranked]) / self.n_tokens

    def get_coverage_at_vocab_size(self, n_ids: int) -> float:
        """Return the share of the tokens made up by the `n_ids` most frequent ids."""
        return float(self.coverage[min(n_ids, len(self.coverage)) - 1]) if n_ids > 0 else 0.0

    def get_vocab_size_for_coverage(self, share: float) -> int:
        """Return the number of most frequent ids that make up a share of the tokens."""
        return min(int(np.searchsorted(self.coverage, share - 1e-12)) + 1, len(self.coverage))

    def edge_cases(self) -> list[EdgeCase]:
        """Return groups of unusual ids, with their share of the tokens and examples."""
        groups: dict[str, list[int]] = {name: [] for name in EDGE_CASES}
        for token_id in self.ranked.tolist():
            for name in _edge_case_names(self.spelled[token_id], int(self.counts[token_id])):
                groups[name].append(token_id)
        found = [self._edge_case(name, ids) for name, ids in groups.items()]
        unused = self.vocab_size - len(self.ranked)
        return [*found, EdgeCase("never used", unused, 0.0, ())]

    def _edge_case(self, name: str, ids: list[int]) -> EdgeCase:
        share = float(self.counts[ids].sum()) / self.n_tokens
        return EdgeCase(name, len(ids), share, [visible(self.spelled[i]) for i in ids[:_EXAMPLES]])

    def recommendations(self) -> list[Recommendation]:
        """Return the recommended sizes of a BPE: one or more by coverage, smallest first, then one by fertility."""
        found: dict[int, list[str]] = {}
        for share in COVERAGES:
            size = rounded_up(self.get_vocab_size_for_coverage(share))
            found.setdefault(size, []).append(f"{share:.1%} coverage")
        recommended = [Recommendation(size, " and ".join(reasons)) for size, reasons in sorted(found.items())]
        if self.sizes:
            recommended.append(_recommended_size(self.sizes))
        return recommended

    def summary(self) -> str:
        """Return the report as text."""
        lines = [
            f"{escape_control_characters(self.dataset)}, encoded with {escape_control_characters(self.tokenizer)}",
            "",
            f"  text             {self.n_bytes / 1e6:,.2f} MB in {counted(self.documents, 'piece')}",
            f"  tokens           {self.n_tokens:,}, {self.bytes_per_token:.2f} bytes each",
            f"  ids in use       {len(self.ranked):,} of {self.vocab_size:,}",
            "",
            "  coverage    ids needed",
            *(f"  {share:>8.1%} {self.get_vocab_size_for_coverage(share):>13,}" for share in COVERAGES),
            "",
            f"  {'edge cases':<20} {'ids':>8} {'of tokens':>10}  the most frequent",
        ]
        for case in self.edge_cases():
            lines.append(f"  {case.name:<20} {case.ids:>8,} {case.share:>10.1%}  {'  '.join(case.examples)}".rstrip())
        if self.sizes:
            lines += ["", f"  {'vocabulary':<12} {'bytes per token':>15}   text, compared with half the vocabulary"]
            for smaller, row in zip([None, *self.sizes], self.sizes, strict=False):
                change = ""
                if smaller and row.vocab_size == 2 * smaller.vocab_size:
                    change = f"   {smaller.bytes_per_token / row.bytes_per_token - 1:+.1%}"
                lines.append(f"  {row.vocab_size:<12,} {row.bytes_per_token:>15.2f}{change}")
        lines += ["", "  recommended sizes"]
        lines += [f"  {choice.vocab_size:>8,}  {choice.reason}" for choice in self.recommendations()]
        return "\n".join(lines)


def _recommended_size(sizes: Sequence[SizeRow]) -> Recommendation:
    """Return the first size whose doubling gains less than `MIN_GAIN`; the largest if there is none."""
    for row, larger in pairwise(sizes):
        if 1 - row.bytes_per_token / larger.bytes_per_token < MIN_GAIN and larger.vocab_size == 2 * row.vocab_size:
            return Recommendation(
                row.vocab_size, f"twice as many ids would shorten the text by less than {MIN_GAIN:.0%}"
            )
    return Recommendation(
        sizes[-1].vocab_size, f"up to this size every doubling shortens the text by at least {MIN_GAIN:.0%}"
    )


def rounded_up(n_ids: int) -> int:
    """Return `n_ids` (at least 512) rounded up to a multiple of 64, which is efficient for GPU kernels."""
    return -(-max(n_ids, 512) // 64) * 64


EDGE_CASES = (
    "single character",
    "punctuation",
    "number",
    "hyphenated",
    "whitespace",
    "part of a character",
    f"rare (below {RARE})",
)


def _edge_case_names(spelled: bytes, count: int) -> list[str]:
    """Return the names of the edge cases that an id belongs to."""
    kinds = []
    try:
        text = spelled.decode("utf-8")
    except UnicodeDecodeError:
        kinds.append("part of a character")
        text = ""
    word = text.strip()
    if len(text) == 1:
        kinds.append("single character")
    if word and all(unicodedata.category(character)[0] in "PS" for character in word):
        kinds.append("punctuation")
    if word and all(unicodedata.category(character)[0] == "N" for character in word):
        kinds.append("number")
    if "-" in word.strip("-"):
        kinds.append("hyphenated")
    if text and not word:
        kinds.append("whitespace")
    if count < RARE:
        kinds.append(f"rare (below {RARE})")
    return kinds


def visible(spelled: bytes) -> str:
    """Return the printable text of an id, with spaces shown as ␣ and control characters escaped."""
    text = spelled.decode("utf-8", errors="backslashreplace")
    return escape_control_characters(text.replace("\n", "\\n").replace("\t", "\\t")).replace(" ", "␣")


def analyze_dataset(
    name: str,
    subset_size: int | None = None,
    *,
    tokenizer: str | None = None,
    assets: str | Path | None = None,
) -> tuple[TokenAnalysisReport, list[Recommendation]]:
    """Return the statistics of the training text of a data set, and recommended vocabulary sizes.

    `name` and `tokenizer` are registered names, or YAML with options; a tokenizer can also be a path. Without a
    tokenizer, a BPE of `LARGEST_BPE` ids is trained on the text. Only the first `subset_size` documents are read.
    Raises TfsErrors.
    """
    root = assets_folder(assets)
    source = named.dataset(name, assets=root)
    text = TrainingText(source, subset_size)
    chosen = tokenizer or f"{{name: bpe, vocab_size: {LARGEST_BPE}}}"
    built = named.tokenizer(chosen, assets=root, documents=text)
    label = tokenizer or f"a BPE of {built.vocab_size:,} ids trained on it"
    report = analyze_texts(text(), built, dataset=describe(source), tokenizer_name=label)
    return report, report.recommendations()


def analyze_texts(
    texts: Iterable[str], tokenizer: Tokenizer, *, dataset: str = "text", tokenizer_name: str = "a tokenizer"
) -> TokenAnalysisReport:
    """Return the statistics of the texts. Raises DataError when there is no text."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    documents = n_bytes = characters = 0
    beginning: list[str] = []
    with progress("counting tokens", unit="B") as advance:
        for batch in batches(texts):
            for ids in tokenizer.encode_batch(batch):
                counts += np.bincount(np.asarray(ids, dtype=np.int64), minlength=len(counts))
            documents += len(batch)
            batch_bytes = sum(len(text.encode("utf-8")) for text in batch)
            n_bytes += batch_bytes
            if characters < COMPARED_CHARACTERS:
                beginning += batch
                characters += sum(map(len, batch))
            advance(batch_bytes)
    if not n_bytes:
        raise DataError(f"{dataset}: there is no text to analyze")
    return TokenAnalysisReport(
        dataset=dataset,
        tokenizer=tokenizer_name,
        documents=documents,
        n_bytes=n_bytes,
        counts=counts,
        spelled=[tokenizer.decode_bytes([token_id]) for token_id in range(len(counts))],
        sizes=_compared_sizes(tokenizer, beginning),
    )


def _compared_sizes(tokenizer: Tokenizer, texts: Sequence[str]) -> list[SizeRow]:
    """Return the bytes per token of a byte-level BPE, whole and truncated to `SIZES`; [] for other tokenizers."""
    if not isinstance(tokenizer, ByteLevelTokenizer):
        return []
    n_bytes = sum(len(text.encode("utf-8")) for text in texts)
    sizes = [*(size for size in SIZES if size < tokenizer.vocab_size), tokenizer.vocab_size]
    rows = []
    with progress("comparing sizes", total=len(sizes) * n_bytes, unit="B") as advance:
        for size in sizes:
            smaller = tokenizer if size == sizes[-1] else ByteLevelTokenizer(bpe.truncate(tokenizer.to_json(), size))
            n_tokens = 0
            for batch in batches(texts):
                n_tokens += sum(map(len, smaller.encode_batch(batch)))
                advance(sum(len(text.encode("utf-8")) for text in batch))
            rows.append(SizeRow(size, n_bytes / n_tokens))
    return rows


def export_cdf(report: TokenAnalysisReport, file: Path) -> None:
    """Write the coverage curve as CSV, a row per id in use.

    Raises DataError when the file exists with other content, or cannot be written.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("rank", "token_id", "token", "count", "share", "coverage"))
    for rank, (token_id, covered) in enumerate(zip(report.ranked.tolist(), report.coverage.tolist(), strict=True), 1):
        count = int(report.counts[token_id])
        token = visible(report.spelled[token_id])
        writer.writerow([rank, token_id, token, count, f"{count / report.n_tokens:.9f}", f"{covered:.9f}"])
    write_report(file, stream.getvalue())


def write_report(file: Path, content: str) -> None:
    """Write a report to a file. Raises DataError when the file exists with other content, or cannot be written."""
    encoded = content.encode("utf-8")
    try:
        if file.exists() and not file.is_file():  # a device or a pipe, such as /dev/stdout
            file.write_bytes(encoded)
        else:
            check_replaces_nothing(file, encoded)
            write_durably(file, encoded)
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror or error}") from error


def coverage_chart(report: TokenAnalysisReport, *, width: int = 64, height: int = 10) -> str:
    """Return the coverage curve as a text chart: share of the tokens over the number of ids, on a log scale."""
    ranks = np.geomspace(1, len(report.ranked), width).round().astype(int)
    levels = [report.get_coverage_at_vocab_size(int(rank)) * height for rank in ranks]
    blocks = " ▁▂▃▄▅▆▇█"
    rows = []
    for row in reversed(range(height)):
        bars = "".join(blocks[round(min(max(level - row, 0.0), 1.0) * 8)] for level in levels)
        rows.append(f"  {(row + 1) / height:>5.0%} │{bars}".rstrip())
    last = f"{len(report.ranked):,}"
    middle = f"{int(ranks[width // 2]):,}"
    axis = f"1{middle:>{width // 2}}{last:>{width - width // 2 - 1}}"
    title = "  share of the tokens made up by the most frequent ids"
    return "\n".join([title, *rows, f"        └{'─' * width}", f"         {axis} ids"])
