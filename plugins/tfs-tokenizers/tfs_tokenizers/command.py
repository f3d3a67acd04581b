"""The command `tfs tokenizer`: analyze text, train and compare tokenizers, encode data sets ahead of training."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfs_core.terminal import counted, say

if TYPE_CHECKING:
    from tfs_tokenizers.comparison import ComparedTokenizer

ASSETS = click.option("--assets", metavar="DIR", help="Where data and runs are kept. [TFS_ASSETS, else ./assets]")
SUBSET = click.option("--subset", type=click.IntRange(min=1), metavar="N", help="Read the first N training documents.")
OUTPUT = click.option("--output", "-o", metavar="DIR", help="Output folder. [a folder under assets/tokenizers]")
MIN_FREQUENCY = click.option(
    "--min-freq", type=click.IntRange(min=1), default=2, show_default=True, help="Occurrences needed for a merge."
)
SPECIAL_TOKENS = click.option(
    "--special-token", "special_tokens", metavar="NAME", multiple=True, help="Additional special token. Repeatable."
)


@click.group()
def tokenizer() -> None:
    """Find a vocabulary size, train and compare tokenizers, and encode data sets ahead of training.

    A data set is given by its name (see `tfs plugins`), by the path of a file or folder with text, or as YAML:
    '{name: jsonl, path: corpus.jsonl}'. A tokenizer is given by its name, by the path of a tokenizer.json or its
    folder, or as YAML: '{name: bpe, vocab_size: 4096}'. The name or folder of a run stands for its data set or its
    tokenizer.
    """


@tokenizer.command()
@click.argument("name")
@SUBSET
@click.option("--tokenizer", "tokenizer_name", metavar="NAME", help="Tokenizer to use. [a BPE trained on the text]")
@click.option("--export-cdf", metavar="FILE", type=click.Path(path_type=Path), help="Write the coverage curve as CSV.")
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write the report as one HTML page.")
@ASSETS
def analyze(
    name: str,
    *,
    subset: int | None,
    tokenizer_name: str | None,
    export_cdf: Path | None,
    html: Path | None,
    assets: str | None,
) -> None:
    """Analyze the data set NAME: vocabulary coverage, bytes per token, edge cases, and recommended sizes."""
    from tfs_tokenizers import analysis
    from tfs_tokenizers.analysis_page import write_page

    report, _ = analysis.analyze_dataset(name, subset, tokenizer=tokenizer_name, assets=assets)
    say(report.summary())
    say(f"\n{analysis.coverage_chart(report)}")
    if export_cdf:
        analysis.export_cdf(report, export_cdf)
        say(f"\nThe coverage curve is in {export_cdf}")
    if html:
        write_page(report, html)
        say(f"\nThe HTML report is in {html}")


@tokenizer.group()
def train() -> None:
    """Train a byte-level BPE on a data set, or on files."""


@train.command()
@click.argument("name")
@click.argument("vocab_size", type=int)
@SUBSET
@MIN_FREQUENCY
@SPECIAL_TOKENS
@OUTPUT
@ASSETS
def registry(
    name: str,
    vocab_size: int,
    *,
    subset: int | None,
    min_freq: int,
    special_tokens: tuple[str, ...],
    output: str | None,
    assets: str | None,
) -> None:
    """Train a BPE of VOCAB_SIZE ids on the training text of the data set NAME, without held-out documents."""
    from tfs_tokenizers.training import train_tokenizer

    folder = train_tokenizer(
        name,
        vocab_size,
        output=output,
        subset_size=subset,
        min_frequency=min_freq,
        special_tokens=special_tokens,
        assets=assets,
    )
    _print_trained(folder)


@train.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.argument("vocab_size", type=int)
@click.option("--text-key", default="text", show_default=True, help="Key (JSON) or column (CSV, Parquet) of the text.")
@MIN_FREQUENCY
@SPECIAL_TOKENS
@OUTPUT
@ASSETS
def file(
    files: tuple[str, ...],
    vocab_size: int,
    *,
    text_key: str,
    min_freq: int,
    special_tokens: tuple[str, ...],
    output: str | None,
    assets: str | None,
) -> None:
    """Train a BPE of VOCAB_SIZE ids on FILES: text, JSON, CSV or Parquet, compressed or not."""
    from tfs_tokenizers.training import train_tokenizer_from_files

    folder = train_tokenizer_from_files(
        files,
        vocab_size,
        output=output,
        text_key=text_key,
        min_frequency=min_freq,
        special_tokens=special_tokens,
        assets=assets,
    )
    _print_trained(folder)


def _print_trained(folder: Path) -> None:
    from tfs_tokenizers.file import load

    say(f"{load(folder).vocab_size:,} ids in {folder / 'tokenizer.json'}")
    say(f"Train a model with it: tfs run --config FILE --set data.tokenizer={shlex.quote(str(folder.absolute()))}")


@tokenizer.command()
@click.argument("name")
@click.argument("tokenizer_name", metavar="TOKENIZER")
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Row length to report.",
)
@click.option(
    "--num-proc", type=click.IntRange(min=1, max=1024), metavar="N", help="Number of threads. [one per processor]"
)
@click.option("--subset", type=click.IntRange(min=1), metavar="N", help="Number of training documents (subset_size).")
@click.option(
    "--val-subset", type=click.IntRange(min=1), metavar="N", help="Number of validation documents (val_subset_size)."
)
@ASSETS
def pretokenize(
    name: str,
    tokenizer_name: str,
    *,
    max_length: int,
    num_proc: int | None,
    subset: int | None,
    val_subset: int | None,
    assets: str | None,
) -> None:
    """Encode the data set NAME ahead of training, as a run with the same data and TOKENIZER would.

    Whole documents are stored. --max-length affects only the report of truncation and padding.
    """
    from tfs_tokenizers.pretokenized import pretokenize_dataset

    folder, reports = pretokenize_dataset(
        name,
        tokenizer_name,
        max_length,
        num_proc=num_proc,
        subset_size=subset,
        val_subset_size=val_subset,
        assets=assets,
        progress=lambda line: say(line, err=True),
    )
    for report in reports:
        say(report.summary())
    say(f"The token store is {folder}: a run with this data set and tokenizer uses it.")


@tokenizer.command()
@click.argument("tokenizers", nargs=-1, required=True, metavar="A B...")
@click.option("--data", "dataset", default="python-stdlib", show_default=True, metavar="NAME", help="Data set to use.")
@SUBSET
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")
@ASSETS
def compare(
    tokenizers: tuple[str, ...], *, dataset: str, subset: int | None, as_json: bool, assets: str | None
) -> None:
    """Compare tokenizers on the same text: bytes per token, speed, and losslessness."""
    from tfs_tokenizers.comparison import compare_tokenizers

    compared = compare_tokenizers(tokenizers, dataset=dataset, subset_size=subset, assets=assets)
    if as_json:
        say(json.dumps({"dataset": dataset, "tokenizers": [asdict(row) for row in compared]}))
        return
    width = max(len("tokenizer"), *(len(row.name) for row in compared))
    say(f"{'tokenizer':<{width}} {'ids':>9} {'tokens':>12} {'bytes/token':>12} {'MB/s':>7}  lossless")
    for row in compared:
        say(
            f"{row.name:<{width}} {row.vocab_size:>9,} {row.tokens:>12,} "
            f"{row.bytes_per_token:>12.2f} {row.megabytes_per_second:>7.1f}  {_what_is_kept(row)}"
        )


def _what_is_kept(row: "ComparedTokenizer") -> str:
    changed = f"{row.changed_texts:,} of {counted(row.texts, 'text')} changed"
    if row.normalization is not None:
        return f"up to {row.normalization}: {changed}"
    return "yes" if row.lossless else f"NO: {changed}"
