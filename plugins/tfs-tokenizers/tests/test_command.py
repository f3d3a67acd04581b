"""`tfs tokenizer` and the Python API: analyze, train, pretokenize, compare."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tfs_tokenizers
from click.testing import CliRunner, Result
from tfs_tokenizers import analysis, bpe, named
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.file import load

from tfs_core.cli.main import tfs
from tfs_core.data.prepare import prepare_tokens
from tfs_core.errors import DataError, UsageError

Run = Callable[..., Result]

SENTENCE = "the quick brown fox isn't so lazy; it jumps over 12 dogs, naïve café 東京 well-known\n"
WORDS = re.split(" ", SENTENCE)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """Return a data set as given on a command line: 60 documents of different lengths."""
    lines = [json.dumps({"text": " ".join(WORDS[i % 7 :] * (i % 9 + 1))}) for i in range(60)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return f"{{name: jsonl, path: {tmp_path / 'corpus.jsonl'}}}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return `run(*arguments)`, which calls `tfs tokenizer` in an empty folder and checks that it succeeds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFS_ASSETS", raising=False)

    def call(*arguments: str, fails: bool = False) -> Result:
        result = CliRunner().invoke(tfs, ["tokenizer", *arguments])
        assert (result.exit_code != 0) == fails, result.output
        return result

    return call


def test_trained_tokenizer_is_one_that_a_configuration_can_name(run: Run, corpus: str, tmp_path: Path) -> None:
    output = run("train", "registry", corpus, "300", "--special-token", "<|user|>").output
    folder = tmp_path / "assets" / "tokenizers" / "jsonl_bpe_300"
    tokenizer = load(folder)
    assert f"{tokenizer.vocab_size:,} ids in" in output
    assert "<|user|>" in tokenizer.special_tokens  # type: ignore[attr-defined]
    assert named.tokenizer(str(folder), assets=tmp_path).fingerprint() == tokenizer.fingerprint()


def test_tokenizer_is_not_trained_on_held_out_documents(corpus: str, tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    from_command = load(tfs_tokenizers.train_tokenizer(corpus, 290, assets=assets))
    text = named.TrainingText(named.dataset(corpus, assets=assets))
    in_a_run = named.tokenizer("{name: bpe, vocab_size: 290}", assets=assets, documents=text)
    assert from_command.fingerprint() == in_a_run.fingerprint()


def test_training_on_files_detects_the_format_by_extension(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain plain plain plain", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"body": "lines lines lines lines"}\n' * 3, encoding="utf-8")
    run("train", "file", "a.txt", "b.jsonl", "275", "--text-key", "body", "--min-freq", "3", "--output", "out")
    tokenizer = load(tmp_path / "out")
    assert [len(ids) for ids in tokenizer.encode_batch([" plain", " lines", "body"])] == [1, 1, 4]


def test_training_with_a_size_that_is_too_small_is_a_usage_error(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vocab_size must be at least 257"):
        tfs_tokenizers.train_tokenizer(corpus, 100, assets=tmp_path)


def test_pretokenized_store_is_the_one_that_a_run_uses(run: Run, corpus: str, tmp_path: Path) -> None:
    output = run("pretokenize", corpus, "byte", "--max-length", "50", "--num-proc", "2").output
    assets = tmp_path / "assets"
    (folder,) = (path for path in (assets / "tokens").iterdir() if path.is_dir())
    assert folder.name in output
    tokenizer = named.tokenizer("byte", assets=assets)
    assert prepare_tokens(named.dataset(corpus, assets=assets), tokenizer, assets=assets).folder.name == folder.name
    split = tfs_tokenizers.load_pretokenized(folder, split="train")
    assert split.tokens[split.offsets[1] - 1] == tokenizer.end_of_text_id


def test_pretokenizing_reports_truncation_and_padding(corpus: str, tmp_path: Path) -> None:
    folder, (report, _) = tfs_tokenizers.pretokenize_dataset(corpus, "byte", 50, assets=tmp_path / "assets")
    split = tfs_tokenizers.load_pretokenized(folder)
    lengths = [int(length) for length in np.diff(split.offsets)]
    assert (report.documents, report.tokens) == (len(lengths), sum(lengths))
    assert report.truncated_documents == sum(length > 50 for length in lengths)
    assert report.truncated_tokens == sum(length - 50 for length in lengths if length > 50)
    assert report.padding_tokens == sum(50 - length for length in lengths if length < 50)
    assert (report.tokens + report.packed_padding_tokens) % 50 == 0


def test_loading_a_missing_store_or_split_is_an_error(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no token store"):
        tfs_tokenizers.load_pretokenized(tmp_path)
    folder, _ = tfs_tokenizers.pretokenize_dataset(corpus, "byte", assets=tmp_path / "assets")
    with pytest.raises(DataError, match="there is no split 'test'"):
        tfs_tokenizers.load_pretokenized(folder, split="test")


class Links(HTMLParser):
    """Collects the URLs that a page would request."""

    found: list[str]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found = [*getattr(self, "found", []), *(value or "" for name, value in attrs if name in ("src", "href"))]


def test_analysis_writes_its_curve_and_a_self_contained_page(run: Run, corpus: str, tmp_path: Path) -> None:
    output = run("analyze", corpus, "--subset", "40", "--export-cdf", "cdf.csv", "--html", "page.html").output
    assert "recommended sizes" in output
    assert "100% │" in output
    rows = list(csv.DictReader((tmp_path / "cdf.csv").open(encoding="utf-8", newline="")))
    counts = [int(row["count"]) for row in rows]
    assert counts == sorted(counts, reverse=True)
    shares = np.cumsum(counts) / sum(counts)
    assert [float(row["coverage"]) for row in rows] == pytest.approx(shares.tolist(), abs=1e-8)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<polyline" in page
    links = Links()
    links.feed(page)
    assert links.found == []
    assert "<script" not in page


def test_analysis_counts_the_ids_of_the_text() -> None:
    tokenizer = named.tokenizer("byte", assets=Path("."))
    report = analysis.analyze_texts(["aaaaaa", "aab c"], tokenizer)
    assert (report.n_bytes, report.n_tokens, report.bytes_per_token) == (11, 11, 1.0)
    assert report.ranked.tolist() == [97, 32, 98, 99]
    assert report.get_coverage_at_vocab_size(1) == pytest.approx(8 / 11)
    assert [report.get_vocab_size_for_coverage(share) for share in (0.5, 8 / 11, 0.73, 0.9, 1.0)] == [1, 1, 2, 3, 4]
    cases = {case.name: case for case in report.edge_cases()}
    assert cases["single character"].ids == 4
    assert (cases["whitespace"].ids, list(cases["whitespace"].examples)) == (1, ["␣"])
    assert cases["never used"].ids == 257 - 4


def test_analysis_page_and_summary_escape_text_from_data() -> None:
    from tfs_tokenizers.analysis_page import page

    tokenizer = named.tokenizer("byte", assets=Path("."))
    report = analysis.analyze_texts(["<b>\x1b[31m"], tokenizer, dataset="<script>alert(1)</script>\x1b")
    assert "<script" not in page(report)
    assert "\x1b" not in report.summary()


def test_recommended_sizes_are_vocabularies_that_can_be_trained(corpus: str, tmp_path: Path) -> None:
    report, recommendations = tfs_tokenizers.analyze_dataset(corpus, subset_size=30, assets=tmp_path)
    assert report.summary().startswith("jsonl")
    assert all(choice.vocab_size >= 257 for choice in recommendations)


def test_smaller_vocabulary_is_the_beginning_of_a_larger_one() -> None:
    texts = [" ".join(WORDS) * 3, "something else, something more" * 3]
    large = bpe.train(iter(texts), vocab_size=400, min_frequency=1)
    small = ByteLevelTokenizer(bpe.train(iter(texts), vocab_size=290, min_frequency=1))
    cut = ByteLevelTokenizer(bpe.truncate(large, 290))
    assert cut.vocab_size == small.vocab_size == 290
    assert cut.encode_batch(texts) == small.encode_batch(texts)


def test_comparison_measures_the_same_text(run: Run, corpus: str) -> None:
    output = run("compare", "byte", "{name: bpe, vocab_size: 280}", "--data", corpus, "--json").output
    first, second = json.loads(output)["tokenizers"]
    assert first["bytes_per_token"] == 1.0 < second["bytes_per_token"]
    assert first["tokens"] == pytest.approx(second["tokens"] * second["bytes_per_token"])
    assert [first["lossless"], second["lossless"]] == [True, True]
    assert "bytes/token" in run("compare", "byte", "character", "--data", corpus).output


def test_unknown_names_are_errors_that_name_the_nearest(run: Run, corpus: str) -> None:
    assert "Did you mean 'byte'?" in run("compare", "bite", "--data", corpus, fails=True).output
    assert "there is no file or folder" in run("pretokenize", corpus, "./absent", fails=True).output
    assert "is not a setting" in run("train", "registry", "{name: jsonl, paht: a}", "300", fails=True).output


def test_importing_the_package_or_its_plugin_imports_nothing_heavy() -> None:
    heavy = ["numpy", "tokenizers", "tiktoken", "huggingface_hub", "torch"]
    script = f"import sys, tfs_tokenizers, tfs_tokenizers.plugin; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", tfs_tokenizers.__all__)
def test_public_names_exist(name: str) -> None:
    assert callable(getattr(tfs_tokenizers, name))


def test_training_on_files_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"there is no text in text empty\.txt"):
        tfs_tokenizers.train_tokenizer_from_files([tmp_path / "empty.txt"], 300, output=tmp_path / "trained")
    assert not (tmp_path / "trained").exists()
