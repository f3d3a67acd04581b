"""Settings that need an optional capability are errors for models without it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import tfs_core
from tfs_core.contracts import ModelConfig, WrapContext
from tfs_core.errors import ConfigError
from tfs_core.models import AutogradModel, check_document_masks
from tfs_core.ranks import OneRank
from tfs_core.runs import Run

VOCAB_SIZE = 7


class Plain(AutogradModel):
    """A model without any capability."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(), vocab_size=VOCAB_SIZE)
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


class TakesDocumentIds(Plain):
    """A model that declares document masks."""

    takes_document_ids = True

    def forward(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        return self.table(input_ids)


def test_document_masks_of_a_model_without_them_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.document_masks: the model 'mine' has no document masks"):
        check_document_masks(Plain(), "mine")
    check_document_masks(TakesDocumentIds(), "mine")


PLUGIN = """
@hookimpl
def tfs_models():
    return [Component(name="mine", summary="a table", factory="tfs_mine.table:Table")]
"""

TABLE = """
from torch import nn
from tfs_core.contracts import ModelConfig, WrapContext
from tfs_core.models import AutogradModel

class Table(AutogradModel):
    def __init__(self, config, *, vocab_size, generator):
        super().__init__(ModelConfig(), vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, input_ids):
        return self.table(input_ids)
"""


@pytest.fixture
def train(tmp_path: Path, install_plugin: Callable[..., None]) -> Callable[..., Run]:
    """Return `train(section={...})`, which trains the plugin's model above for one step."""
    install_plugin("tfs-mine", PLUGIN, table=TABLE)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 20, encoding="utf-8")

    def run(**sections: dict[str, Any]) -> Run:
        data = {"dataset": {"name": "text", "path": str(tmp_path / "text.txt")}, "tokenizer": "byte", "max_length": 8}
        config = {
            "experiment_name": "a",
            "data": {**data, **sections.get("data", {})},
            "model": "mine",
            "training": {"batch_size": 2, "max_steps": 1},
            "runtime": {"device": "cpu", "threads": 1, "matmul": "highest", **sections.get("runtime", {})},
            "loggers": ["jsonl"],
        }
        return tfs_core.run(config, assets=tmp_path / "assets")

    return run


def test_loss_chunk_of_a_model_without_features_is_an_error_but_auto_and_null_are_not(
    train: Callable[..., Run], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.loss_chunk: the model 'mine' computes all logits at once"):
        train(runtime={"loss_chunk": 8})
    assert not (tmp_path / "assets" / "runs").exists(), "refused before a run begins"
    for loss_chunk in ("auto", None):
        assert train(runtime={"loss_chunk": loss_chunk}).status == "finished"


def test_unsupported_document_masks_are_rejected_before_a_run_begins(train: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.document_masks: the model 'mine' has no document masks"):
        train(data={"document_masks": True})
    assert not (tmp_path / "assets" / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "wrapper"), [("compile", "compile"), ("activation_checkpointing", "activation-checkpointing")]
)
def test_setting_whose_wrapper_is_not_installed_says_which(
    setting: str, wrapper: str, train: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFS_DISABLE_PLUGINS", "tfs-speed")
    told = rf"runtime\.{setting} needs the wrapper '{wrapper}', and no installed plugin has it"
    with pytest.raises(ConfigError, match=told):
        train(runtime={setting: True})
    assert not (tmp_path / "assets").exists(), "refused before any text is read"


def test_wrapper_of_a_new_run_has_nothing_recorded_and_may_report() -> None:
    context = WrapContext(model=Plain(), model_name="plain", device="cpu", ranks=OneRank())
    assert dict(context.recorded) == {}
    assert (context.trial_batch, context.lengths_vary) == (None, False)
    context.report("a message")
    context.warn("a warning")
