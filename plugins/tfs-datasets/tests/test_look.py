"""`tfs datasets look`: the batches as the model sees them, and statistics of the text."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tfs_datasets.commands import datasets
from tfs_datasets.look import survey

import tfs_core
from tfs_core.data.batches import Batches, Rows
from tfs_core.data.store import TokenSplit
from tfs_core.errors import CheckpointError


def split_of(*lengths: int, same: bool = False) -> TokenSplit:
    """Return documents with these numbers of tokens, end of text (0) included; all different unless `same`."""
    documents = [[1 if same else number + 1] * (length - 1) + [0] for number, length in enumerate(lengths)]
    tokens = np.concatenate([np.array(document, dtype=np.uint16) for document in documents])
    return TokenSplit(tokens, np.cumsum([0, *lengths], dtype=np.int64), len(tokens))


def batches_of(split: TokenSplit, batching: str, batch_size: int) -> Batches:
    rows = Rows(split=split, batching=batching, max_length=4, end_of_text_id=0)  # type: ignore[arg-type]
    return Batches(rows, batch_size=batch_size, seed=1)


def test_survey_of_padded_rows_counts_padding_and_truncation() -> None:
    train = split_of(2, 4, 6)
    found = survey(train, split_of(2), batches_of(train, "padded", 3), batching="padded", max_length=4)
    assert found.truncated_share == pytest.approx(2 / 12)
    assert found.padding_share == pytest.approx(1 - 10 / 12)
    alone = survey(train, split_of(2), batches_of(train, "padded", 1), batching="padded", max_length=4)
    assert alone.padding_share == 0.0


def test_survey_of_packed_rows_loses_only_the_end_of_the_last() -> None:
    train = split_of(2, 4, 6, 2)
    found = survey(train, split_of(2), batches_of(train, "packed", 2), batching="packed", max_length=4)
    assert found.truncated_share == 0.0
    assert found.padding_share == pytest.approx(2 / 16)


def test_survey_finds_duplicates_and_overlap() -> None:
    train, validation = split_of(3, 3, 3, 5, same=True), split_of(5, 7, same=True)
    found = survey(train, validation, batches_of(train, "packed", 2), batching="packed", max_length=4)
    assert (found.duplicates, found.compared) == (2, 4)
    assert (found.overlap, found.validation_compared) == (1, 2)


def test_survey_finds_parts_of_documents_that_are_shared() -> None:
    tokens = np.arange(1, 97, dtype=np.uint16)
    train = TokenSplit(tokens, np.array([0, 96]), 96)
    validation = TokenSplit(np.concatenate([tokens[40:72], tokens[:32] + 100]), np.array([0, 64]), 64)
    found = survey(train, validation, batches_of(train, "packed", 2), batching="packed", max_length=4)
    assert (found.overlap, found.windows_shared, found.windows_compared) == (0, 1, 2)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    lines = [f'{{"text": "{text}"}}\n' for text in ("ab", "cde\\u001b", "ab", "wxyz") * 5]
    (tmp_path / "a.jsonl").write_text("".join(lines), encoding="utf-8")
    file = tmp_path / "run.yaml"
    file.write_text(
        "experiment_name: x\n"
        "data: {dataset: {name: jsonl, path: a.jsonl}, tokenizer: byte, max_length: 6, batching: padded,"
        " validation_fraction: 0.3}\n"
        "model: {name: torch, max_seq_len: 6}\n"
        "training: {batch_size: 4, max_steps: 1}\n",
        encoding="utf-8",
    )
    return file


def look(config: Path, *arguments: str) -> str:
    words = ["look", "--config", str(config), "--assets", str(config.parent), *arguments]
    ended = CliRunner().invoke(datasets, words, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_look_shows_inputs_and_targets(config: Path) -> None:
    shown = look(config, "--rows", "4")
    assert "batching    padded, max_length 6" in shown
    assert "occurred before" in shown
    assert "validation documents are also trained on" in shown
    assert "documents begin after 0" in shown
    assert "     256 end of text      ->" in shown
    assert " 256 end of text\n" in shown  # also as a target
    assert "\x1b" not in shown


def test_look_shows_the_step_that_is_asked_for(config: Path) -> None:
    assert look(config, "--step", "1") == look(config, "--step", "1")
    first, second = look(config), look(config, "--step", "2")
    assert "step 2" in second
    assert first.split("id target")[1] != second.split("id target")[1]
    assert "tfs datasets look" in first.splitlines()[-1]
    assert first.splitlines()[-1].endswith("--step 2")


def test_look_reports_document_masks(config: Path) -> None:
    packed = config.read_text(encoding="utf-8").replace("batching: padded", "document_masks: true")
    config.write_text(packed, encoding="utf-8")
    assert ", and attend only to themselves" in look(config)


def test_configuration_that_is_a_link_out_of_the_run_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}", encoding="utf-8")
    (tmp_path / "secret").write_text("of another user", encoding="utf-8")
    try:
        (folder / "config.yaml").symlink_to(tmp_path / "secret")
    except OSError:
        pytest.skip("this system does not let us make links")
    ended = CliRunner().invoke(datasets, ["look", "a", "--assets", str(tmp_path)])
    assert isinstance(ended.exception, CheckpointError)
    assert "the config.yaml of the run 'a' is no regular file of its folder" in str(ended.exception)


def test_look_at_a_yaml_file_and_at_text(config: Path) -> None:
    arguments = ["--assets", str(config.parent)]
    shown = CliRunner().invoke(datasets, ["look", str(config), *arguments], catch_exceptions=False)
    assert shown.stdout.startswith("training    10 documents")
    (config.parent / "my.txt").write_text("one two three four\n" * 400, encoding="utf-8")
    shown = CliRunner().invoke(datasets, ["look", str(config.parent / "my.txt"), *arguments], catch_exceptions=False)
    assert shown.stdout.startswith("training    1 document, ")
    assert "' three'" in shown.stdout


def test_look_at_a_run_of_a_version_whose_windows_did_not_move(config: Path) -> None:
    text = config.read_text(encoding="utf-8").replace("batching: padded,", "").replace("max_steps: 1", "max_steps: 9")
    config.write_text(text, encoding="utf-8")
    run = tfs_core.run(config, assets=config.parent)

    def shown(step: int) -> str:
        words = ["look", "x", "--assets", str(config.parent), "--step", str(step)]
        return CliRunner().invoke(datasets, words, catch_exceptions=False).stdout.split("id target")[1]

    moved = [shown(step) for step in (1, 9)]
    assert run.metrics()[8]["epoch"] > 0
    assert run.latest is not None
    state = json.loads((run.latest / "state.json").read_bytes())
    assert state.pop("windows_move")
    (run.latest / "state.json").write_text(json.dumps(state), encoding="utf-8")
    still = [shown(step) for step in (1, 9)]
    assert still[0] == moved[0]
    assert still[1] != moved[1]


def test_look_needs_one_thing_to_look_at() -> None:
    ended = CliRunner().invoke(datasets, ["look"])
    assert "name a run, or a configuration" in str(ended.exception)
