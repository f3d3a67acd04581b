"""`tfs tokenizer` and the Python API: analyze, train, pretokenize, compare."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tfs_tokenizers
from click.testing import CliRunner, Result
from tfs_tokenizers import analysis, bpe, named
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.file import load

from tfs_core import progress
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


class TestTrainedFolder:
    """The folder of a trained tokenizer: reused for the same training, and never replaced by another."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> list[str]:
        """Return two files of the same name and different text; the current folder is theirs."""
        (tmp_path / "b").mkdir()
        (tmp_path / "ts.txt").write_text("plain plain plain plain " * 20, encoding="utf-8")
        (tmp_path / "b" / "ts.txt").write_text("other other other other " * 20, encoding="utf-8")
        return ["ts.txt", "b/ts.txt"]

    def test_other_text_of_the_same_name_gets_another_folder(
        self, run: Run, files: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run("train", "file", files[0], "262")
        folder = tmp_path / "assets" / "tokenizers" / "ts_bpe_262"
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for told in (
            "ts_bpe_262 already has a tokenizer, trained with another text. The new tokenizer is in assets",
            "ts_bpe_262-2: nothing to do",
        ):
            assert "in assets/tokenizers/ts_bpe_262-2/tokenizer.json" in run("train", "file", files[1], "262").output
            assert told in caplog.text
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert sorted(path.name for path in folder.parent.iterdir()) == ["ts_bpe_262", "ts_bpe_262-2"]

    def test_other_data_set_of_the_same_name_gets_another_folder(self, run: Run, files: list[str]) -> None:
        run("train", "registry", f"{{name: text, path: {files[0]}}}", "262")
        assert "text_bpe_262-2" in run("train", "registry", f"{{name: text, path: {files[1]}}}", "262").output

    @pytest.mark.parametrize(
        ("options", "expected"),
        [(("--min-freq", "3"), "another min_frequency"), (("--special-token", "<a>"), "another special_tokens")],
    )
    def test_other_options_get_another_folder(
        self, run: Run, files: list[str], options: tuple[str, ...], expected: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        run("train", "file", files[0], "262")
        assert "ts_bpe_262-2" in run("train", "file", files[0], "262", *options).output
        assert expected in caplog.text

    @pytest.mark.parametrize("in_place", ["file", "configuration", "record"])
    def test_default_folder_that_has_something_else_is_left_alone(
        self, run: Run, files: list[str], in_place: str, tmp_path: Path
    ) -> None:
        default = tmp_path / "assets" / "tokenizers" / "ts_bpe_262"
        if in_place == "record":
            run("train", "file", files[0], "262")
            (default / "training.json").write_text("[]")
        elif in_place == "configuration":
            default.mkdir(parents=True)
            (default / "tokenizer_config.json").write_text("{}")
        else:
            default.parent.mkdir(parents=True)
            default.write_text("")
        assert "ts_bpe_262-2" in run("train", "file", files[0], "262").output

    def test_output_with_another_tokenizer_is_refused(self, run: Run, files: list[str], tmp_path: Path) -> None:
        run("train", "file", files[0], "262", "--output", "out")
        before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        refused = run("train", "file", files[1], "262", "--output", "out", fails=True).output
        assert "out already has a tokenizer, trained with another text." in refused
        assert "choose another folder with --output" in refused
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

    def test_same_training_is_reused_without_training(
        self, run: Run, files: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = run("train", "file", files[0], "262").stdout
        monkeypatch.setattr(bpe, "train", None)
        assert run("train", "file", files[0], "262").stdout == first
        assert "nothing to do, it was trained on the same text" in caplog.text

    def test_tokenizer_of_unknown_origin_is_refused_before_training(
        self, run: Run, files: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        run("train", "file", files[0], "262", "--output", "out")
        (tmp_path / "out" / "training.json").unlink()
        monkeypatch.setattr(bpe, "train", None)
        refused = run("train", "file", files[0], "262", "--output", "out", fails=True).output
        assert "without a training.json that says how it was trained" in refused

    def test_tokenizer_that_was_changed_is_refused(self, run: Run, files: list[str], tmp_path: Path) -> None:
        run("train", "file", files[0], "262", "--output", "out")
        path = tmp_path / "out" / "tokenizer.json"
        path.write_bytes(path.read_bytes() + b"\n")
        assert "changed after its training" in run("train", "file", files[0], "262", "-o", "out", fails=True).output

    @pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"sha256": 1}', '{"text": NaN}'])
    def test_damaged_record_is_an_error(self, run: Run, files: list[str], content: str, tmp_path: Path) -> None:
        run("train", "file", files[0], "262", "--output", "out")
        (tmp_path / "out" / "training.json").write_text(content, encoding="utf-8")
        assert "training.json is damaged" in run("train", "file", files[0], "262", "-o", "out", fails=True).output

    def test_folder_with_the_configuration_of_another_tokenizer_is_refused_before_training(
        self, run: Run, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bpe, "train", None)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "tokenizer_config.json").write_text("{}", encoding="utf-8")
        refused = run("train", "file", files[0], "262", "--output", "out", fails=True).output
        assert "tokenizer_config.json exists with other content" in refused
        assert (tmp_path / "out" / "tokenizer_config.json").read_text(encoding="utf-8") == "{}"

    def test_training_into_a_file_is_an_error(self, run: Run, files: list[str]) -> None:
        assert "ts.txt is not a folder" in run("train", "file", files[1], "262", "-o", files[0], fails=True).output

    def test_folder_filled_by_another_process_during_the_training_is_not_replaced(
        self, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train, folder = bpe.train, tmp_path / "out"

        def train_after_another(*arguments: Any, **options: Any) -> str:
            monkeypatch.setattr(bpe, "train", train)
            tfs_tokenizers.train_tokenizer_from_files([tmp_path / files[1]], 262, output=folder)
            return train(*arguments, **options)

        monkeypatch.setattr(bpe, "train", train_after_another)
        with pytest.raises(DataError, match="trained with another text"):
            tfs_tokenizers.train_tokenizer_from_files([tmp_path / files[0]], 262, output=folder)
        assert b'"Gother"'.replace(b"G", "Ġ".encode()) in (folder / "tokenizer.json").read_bytes()


def test_processes_that_train_into_the_same_folder_leave_one_whole_tokenizer(tmp_path: Path) -> None:
    script = (
        "import sys, tfs_tokenizers as t; from tfs_core.errors import DataError\n"
        "try: t.train_tokenizer_from_files([sys.argv[1]], 262, output='out'); print('trained')\n"
        "except DataError as error: print(error)"
    )
    for name in "abc":
        (tmp_path / name).write_text(f"{name * 5} " * 50, encoding="utf-8")
    processes = [
        subprocess.Popen([sys.executable, "-c", script, name], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for name in "aabc"
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    (name,) = {name for name, output in zip("aabc", outputs, strict=True) if output == "trained\n"}
    assert all(("another text" in output) != (other == name) for other, output in zip("aabc", outputs, strict=True))
    assert [len(ids) for ids in load(tmp_path / "out").encode_batch([name * 5])] == [1]


def test_report_never_replaces_a_file_of_other_content(run: Run, corpus: str, tmp_path: Path) -> None:
    arguments = ("analyze", corpus, "--tokenizer", "byte")
    for option in ("--export-cdf", "--html"):
        run(*arguments, option, "report")
        run(*arguments, option, "report")  # the same content
        assert (
            "report exists with other content" in run(*arguments, "--subset", "5", option, "report", fails=True).output
        )
        assert "corpus.jsonl exists with" in run(*arguments, option, "corpus.jsonl", fails=True).output
        (tmp_path / "report").unlink()
    assert run(*arguments, "--export-cdf", "/dev/null").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("1000000000000",), "vocab_size must be at most 4194304"),
        (("300", "--min-freq", "99999999999999999999"), "min_frequency must be at most 4294967296"),
        (("300", "--special-token", "\udcff"), "special_tokens must be valid Unicode"),
        (("300", "--special-token", "Ġfox"), "also stands for the text b' fox'"),
    ],
)
def test_option_that_training_cannot_have_is_an_error(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    (tmp_path / "a.txt").write_text("the fox and the fox and the fox" * 9, encoding="utf-8")
    assert expected in run("train", "file", "a.txt", *arguments, "-o", "out", fails=True).output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "expected"),
    [("--max-length", "max_length must be 1 to 2147483648"), ("--num-proc", "is not in the range")],
)
def test_options_of_pretokenize_are_bounded(run: Run, corpus: str, option: str, expected: str) -> None:
    assert expected in run("pretokenize", corpus, "byte", option, "9" * 20, fails=True).output


def test_smaller_vocabulary_of_a_foreign_tokenizer_is_measured_too() -> None:
    """Several merges for one token, a merge before its part, and a byte that only an added token stands for."""
    rules = json.loads(bpe.train(iter(["quick"]), vocab_size=257, min_frequency=1))
    letters = [text for text in rules["model"]["vocab"] if text != "a"]
    rules["model"] |= {
        "vocab": {text: token_id for token_id, text in enumerate([*letters, "quick", "qu", "ui", "qui", "ck"])},
        "merges": [["qui", "ck"], ["q", "u"], ["u", "i"], ["qu", "i"], ["q", "ui"], ["c", "k"]],
    }
    rules["added_tokens"].append(rules["added_tokens"][0] | {"id": 261, "content": "a", "special": False})
    smaller = bpe.truncate(json.dumps(rules), 260)
    assert json.loads(smaller)["model"]["merges"] == [["q", "u"], ["u", "i"], ["qu", "i"], ["q", "ui"]]
    tokenizer = ByteLevelTokenizer(smaller)
    assert tokenizer.vocab_size == 260
    assert tokenizer.decode(list(tokenizer.encode_batch(["a quick"])[0])) == "a quick"


@pytest.mark.parametrize(
    ("arguments", "phases"),
    [
        (("analyze", "CORPUS"), ("counting words", "merging", "counting tokens", "comparing sizes")),
        (("compare", "byte", "character", "--data", "CORPUS"), ("counting characters", "comparing")),
    ],
)
def test_work_shows_its_progress(
    run: Run, corpus: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], phases: tuple[str, ...]
) -> None:
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines = run(*(corpus if argument == "CORPUS" else argument for argument in arguments)).stderr.splitlines()
    shown = [line.partition(":")[0] for line in lines if ": " in line]
    assert list(dict.fromkeys(name for name in shown if name in phases)) == list(phases)
