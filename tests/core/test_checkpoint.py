"""Checkpoints are restored bit by bit, damage is detected, and valid checkpoints are never lost."""

import errno
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tfs_core import checkpoint_folder, tensor_files
from tfs_core.checkpoint import CheckpointKeeper, load_checkpoint, read_config, read_state, save_checkpoint
from tfs_core.checkpoint_folder import (
    checkpoint_name,
    checkpoint_step,
    list_checkpoints,
    move_aside,
    newest_valid_checkpoint,
    remove_leftovers,
    verify_checkpoint,
)
from tfs_core.contracts import ModelConfig
from tfs_core.errors import CheckpointError, TrainingError
from tfs_core.models import AutogradModel
from tfs_core.ranks import OneRank

VOCAB_SIZE = 5


class Tied(AutogradModel):
    """A model with tied weights: the output projection is the embedding, under two names."""

    def __init__(self, seed: int = 0, width: int = 3) -> None:
        super().__init__(ModelConfig(), vocab_size=VOCAB_SIZE)
        self.embedding = nn.Embedding(VOCAB_SIZE, width)
        self.output = nn.Linear(width, VOCAB_SIZE)
        self.output.weight = self.embedding.weight
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.output(self.embedding(input_ids))
        return output


def take_steps(model: Tied, optimizer: torch.optim.Optimizer, n: int = 2) -> None:
    for _ in range(n):
        model.loss(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]]))
        model.backward(1.0)
        optimizer.step()
        optimizer.zero_grad()


def trained(optimizer_class: Any = torch.optim.AdamW, **options: Any) -> tuple[Tied, torch.optim.Optimizer]:
    model = Tied()
    optimizer = optimizer_class(model.parameters(), lr=0.1, **options)
    take_steps(model, optimizer)
    return model, optimizer


def assert_same_tensors(first: AutogradModel, second: AutogradModel) -> None:
    for (name, tensor), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name


def test_checkpoint_restores_weights_and_state(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=optimizer, state={"step": 2, "half": 0.1})
    other = Tied(seed=9)
    state = load_checkpoint(tmp_path / "step-00000002", model=other)
    assert_same_tensors(model, other)
    assert (state["step"], state["half"]) == (2, 0.1)
    assert other.output.weight is other.embedding.weight


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [
        (torch.optim.AdamW, {"betas": (0.9, 0.95), "fused": True}),
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.ASGD, {}),
        (torch.optim.NAdam, {}),
    ],
)
def test_restored_optimizer_continues_as_if_never_saved(
    optimizer_class: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model, optimizer = trained(optimizer_class, **options)
    save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=optimizer, state={})
    other = Tied(seed=9)
    other_optimizer = optimizer_class(other.parameters(), lr=0.1, **options)
    load_checkpoint(tmp_path / "step-00000002", model=other, optimizer=other_optimizer)
    take_steps(model, optimizer)
    take_steps(other, other_optimizer)
    assert_same_tensors(model, other)
    assert {key: other_optimizer.param_groups[0][key] for key in options} == options


class Counting(torch.optim.SGD):
    """An optimizer with non-tensor state, state of another dtype, and options that it changes itself."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        self.param_groups[0]["seen"] = self.param_groups[0].get("seen", 0) + 1
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["count"] = self.state[parameter].get("count", 0) + 1
            self.state[parameter]["exact"] = torch.full((2,), 1 / 3, dtype=torch.float64)


def test_optimizer_state_of_every_type_is_restored(tmp_path: Path) -> None:
    model, optimizer = trained(Counting)
    save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=optimizer, state={})
    other = Tied(seed=9)
    restored = Counting(other.parameters(), lr=0.1)
    load_checkpoint(tmp_path / "step-00000002", model=other, optimizer=restored)
    state = restored.state[other.embedding.weight]
    assert restored.param_groups[0]["seen"] == 2
    assert state["count"] == 2
    assert torch.equal(state["exact"], torch.full((2,), 1 / 3, dtype=torch.float64))


def test_optimizer_state_that_would_be_lost_is_an_error(tmp_path: Path) -> None:
    model, optimizer = trained()
    optimizer.state[model.embedding.weight]["history"] = [torch.zeros(1)]
    with pytest.raises(CheckpointError, match=r"AdamW keeps a Tensor in .*history\.0"):
        save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=optimizer, state={})
    assert list(tmp_path.iterdir()) == []


def test_optimizer_state_belongs_to_names_and_not_to_places(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=optimizer, state={})
    other = Tied(seed=9)
    reversed_optimizer = torch.optim.AdamW(list(reversed(list(other.parameters()))), lr=0.1)
    load_checkpoint(tmp_path / "step-00000002", model=other, optimizer=reversed_optimizer)
    for parameter, own in ((model.embedding.weight, other.embedding.weight), (model.output.bias, other.output.bias)):
        assert torch.equal(optimizer.state[parameter]["exp_avg"], reversed_optimizer.state[own]["exp_avg"])


def test_optimizer_that_groups_its_parameters_otherwise_is_rejected(tmp_path: Path) -> None:
    model, other = Tied(), Tied(seed=9)
    weight, bias = [model.embedding.weight], [model.output.bias]
    optimizer = torch.optim.AdamW([{"params": weight}, {"params": bias}], lr=0.1)
    save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=optimizer, state={})
    swapped = torch.optim.AdamW([{"params": [other.output.bias]}, {"params": [other.embedding.weight]}], lr=0.1)
    with pytest.raises(CheckpointError, match="step-00000002: the optimizer does not group its parameters like"):
        load_checkpoint(tmp_path / "step-00000002", model=other, optimizer=swapped)


def test_checkpoint_without_an_optimizer_says_so_to_one_that_wants_it(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=None, state={})
    with pytest.raises(CheckpointError, match="it was saved without an optimizer"):
        load_checkpoint(tmp_path / "step-00000002", model=model, optimizer=optimizer)


def test_state_of_another_format_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"format_version": 2, "step": 3}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="has format 2, and this tfs reads format 1: upgrade tfs"):
        read_state(tmp_path)


def test_keeper_saves_with_the_ranks_that_it_was_given(tmp_path: Path) -> None:
    class Named(OneRank):
        def save(self, folder: Path, *arguments: Any) -> dict[str, Any]:
            return {**super().save(folder, *arguments), "saved_by": "their ranks"}

    keeper = CheckpointKeeper(tmp_path, keep=1, ranks=Named())
    folder = keeper.save(2, model=Tied(), optimizer=None, state={}, best_step=None)
    assert read_state(folder)["saved_by"] == "their ranks"


def test_weights_of_another_shape_do_not_fit(tmp_path: Path) -> None:
    model, _ = trained()
    save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=None, state={})
    with pytest.raises(CheckpointError, match="do not fit the model"):
        load_checkpoint(tmp_path / "step-00000002", model=Tied(width=4))


def test_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=optimizer, state={})
    names = {path.name for path in (tmp_path / "step-00000002").iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}
    assert (tmp_path / "step-00000002" / "model.safetensors").read_bytes()[8:9] == b"{"


def test_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("step-00000001", "step-00000002"):
        model, optimizer = trained()
        save_checkpoint(tmp_path / name, model=model, optimizer=optimizer, state={})
    first, second = sorted(tmp_path.iterdir())
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model, optimizer = trained()
    with torch.no_grad():
        model.output.bias[1] = float("inf")
    with pytest.raises(TrainingError, match=r"output\.bias holds numbers that are not finite"):
        save_checkpoint(tmp_path / "step-00000002", model=model, optimizer=optimizer, state={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_one_flipped_bit_is_noticed_wherever_it_is(name: str, tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = tmp_path / "step-00000002"
    save_checkpoint(folder, model=model, optimizer=optimizer, state={})
    intact = (folder / name).read_bytes()
    for seed in range(60):
        chance = random.Random(seed)
        content = bytearray(intact)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=None if name == "manifest.json" else f"{name} is damaged"):
            load_checkpoint(folder, model=model)


def test_missing_file_is_noticed_and_named(tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = tmp_path / "step-00000002"
    save_checkpoint(folder, model=model, optimizer=optimizer, state={})
    (folder / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors is missing"):
        verify_checkpoint(folder)


def test_checkpoint_of_a_later_format_says_what_to_do(tmp_path: Path) -> None:
    model, _ = trained()
    folder = tmp_path / "step-00000002"
    save_checkpoint(folder, model=model, optimizer=None, state={})
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(CheckpointError, match=r"format 99.*upgrade tfs"):
        verify_checkpoint(folder)


@pytest.fixture
def keeper(tmp_path: Path) -> CheckpointKeeper:
    return CheckpointKeeper(tmp_path / "run" / "checkpoints", keep=2)


def save(keeper: CheckpointKeeper, step: int, best_step: int | None = None) -> Path:
    model, optimizer = trained()
    return keeper.save(step, model=model, optimizer=optimizer, state={}, best_step=best_step)


def steps(keeper: CheckpointKeeper) -> list[int]:
    return [int(folder.name.removeprefix("step-")) for folder in list_checkpoints(keeper.folder)]


def test_rotation_keeps_the_newest_and_the_best(keeper: CheckpointKeeper) -> None:
    for step in (1, 2, 3, 4, 5):
        save(keeper, step, best_step=2 if step >= 2 else None)
    assert steps(keeper) == [2, 4, 5]
    assert len(list(keeper.folder.iterdir())) == len(["best", "latest", 2, 4, 5])
    assert (keeper.folder / "best").read_text() == "step-00000002\n"
    assert (keeper.folder / "latest").read_text() == "step-00000005\n"


def test_checkpoint_of_the_same_step_is_replaced(keeper: CheckpointKeeper) -> None:
    save(keeper, 1)
    model = Tied(seed=5)
    folder = keeper.save(1, model=model, optimizer=None, state={}, best_step=None)
    other = Tied()
    load_checkpoint(folder, model=other)
    assert_same_tensors(model, other)
    assert [path.name for path in keeper.folder.iterdir() if path.name.startswith(".")] == []


def test_checkpoint_that_cannot_be_replaced_stays(keeper: CheckpointKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(keeper, 1)
    before = (folder / "model.safetensors").read_bytes()
    rename = checkpoint_folder.replace

    def replace_but_not_the_new_one(source: Path, target: Path) -> None:
        if source.name.startswith(".writing-"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(checkpoint_folder, "replace", replace_but_not_the_new_one)
    with pytest.raises(TrainingError, match="Input/output error"):
        keeper.save(1, model=Tied(seed=5), optimizer=None, state={}, best_step=None)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in keeper.folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask to speak of")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_of_a_checkpoint_are_as_readable_as_the_umask_says(
    keeper: CheckpointKeeper, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        folder = save(keeper, 1)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys(("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"), mode)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def save_file(tensors: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"the beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", save_file)
    yield
    monkeypatch.undo()


def test_full_disk_leaves_the_checkpoints_that_are_there_and_nothing_else(
    keeper: CheckpointKeeper, request: pytest.FixtureRequest
) -> None:
    for step in (1, 2):
        save(keeper, step, best_step=1)
    before = sorted(path for path in keeper.folder.rglob("*"))
    request.getfixturevalue("full_disk")
    with pytest.raises(TrainingError, match=r"step-00000003 cannot be saved.*No space left.*unchanged.*--resume"):
        save(keeper, 3, best_step=3)
    assert sorted(path for path in keeper.folder.rglob("*")) == before
    assert newest_valid_checkpoint(keeper.folder)[0] == keeper.folder / "step-00000002"


def test_newest_valid_checkpoint_passes_over_a_damaged_one_and_says_what_is_wrong(keeper: CheckpointKeeper) -> None:
    for step in (1, 2):
        save(keeper, step)
    (keeper.folder / "step-00000002" / "model.safetensors").write_bytes(b"")
    found, damaged = newest_valid_checkpoint(keeper.folder)
    assert found == keeper.folder / "step-00000001"
    assert "step-00000002: model.safetensors is damaged" in str(damaged[0])


def test_leftovers_of_a_killed_process_are_removed_and_a_replaced_checkpoint_is_restored(
    keeper: CheckpointKeeper,
) -> None:
    save(keeper, 1)
    save(keeper, 2)
    for name in (".writing-step-00000003", ".deleting-step-00000000"):
        shutil.copytree(keeper.folder / "step-00000001", keeper.folder / name)
    (keeper.folder / ".latest.4711").touch()
    (keeper.folder / ".writing-step-00000004").touch()  # a file, which no version of tfs writes
    (keeper.folder / "step-00000002").rename(keeper.folder / ".replaced-step-00000002")
    remove_leftovers(keeper.folder)
    assert sorted(path.name for path in keeper.folder.iterdir()) == ["latest", "step-00000001", "step-00000002"]


CONFIG = """
experiment_name: saved
model: {name: torch, d_model: 32}
data: {dataset: {name: text, path: book.txt}, tokenizer: byte}
training: {max_steps: 7}
"""


def test_configuration_of_a_checkpoint_is_read_with_overrides(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000002"
    save_checkpoint(folder, model=Tied(), optimizer=None, state={}, config_yaml=CONFIG)
    assert read_config(folder).training.max_steps == 7
    assert read_config(folder, overrides=["training.max_steps=9"]).training.max_steps == 9


def test_checkpoint_without_a_configuration_was_not_saved_by_a_run(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step-00000002", model=Tied(), optimizer=None, state={})
    with pytest.raises(CheckpointError, match=r"no config\.yaml, so it was not saved by `tfs run`"):
        read_config(tmp_path / "step-00000002")


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_unreadable_state_is_an_error_that_names_the_file(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"state\.json (is damaged|cannot be read)"):
        read_state(tmp_path)


def test_checkpoint_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="step-00000002: there is no such checkpoint"):
        verify_checkpoint(tmp_path / "step-00000002")


def test_only_folders_with_the_name_of_a_checkpoint_are_listed(keeper: CheckpointKeeper) -> None:
    folder = save(keeper, 1)
    (keeper.folder / "step-00000002").touch()
    (keeper.folder / "notes").mkdir()
    assert list_checkpoints(keeper.folder) == [folder]
    with pytest.raises(CheckpointError, match="notes: not the name of a checkpoint; expected one like step-00000500"):
        checkpoint_step(keeper.folder / "notes")


def test_checkpoint_is_written_over_what_a_killed_process_left(keeper: CheckpointKeeper) -> None:
    unfinished = keeper.folder / ".writing-step-00000001"
    unfinished.mkdir(parents=True)
    (unfinished / "old.safetensors").touch()
    assert not (save(keeper, 1) / "old.safetensors").exists()
    assert not unfinished.exists()


def test_cause_is_reported_when_the_temporary_folder_cannot_be_made(keeper: CheckpointKeeper) -> None:
    keeper.folder.mkdir(parents=True)
    (keeper.folder / ".writing-step-00000001").touch()
    with pytest.raises(TrainingError, match=r"step-00000001 cannot be saved.*File exists"):
        save(keeper, 1)


def test_checkpoints_moved_aside_replace_none_that_were_moved_before(keeper: CheckpointKeeper, tmp_path: Path) -> None:
    aside = tmp_path / "another" / "aside"
    for _ in range(3):
        move_aside([save(keeper, 1)], aside)
    assert sorted(path.name for path in aside.iterdir()) == ["step-00000001", "step-00000001-2", "step-00000001-3"]
    assert list_checkpoints(keeper.folder) == []


def test_checkpoints_are_ordered_by_step_beyond_eight_digits(tmp_path: Path) -> None:
    for step in (100_000_000, 99_999_999, 7):
        (tmp_path / checkpoint_name(step)).mkdir()
    assert [checkpoint_step(folder) for folder in list_checkpoints(tmp_path)] == [7, 99_999_999, 100_000_000]


def test_tokenizer_is_saved_in_its_own_folder(tmp_path: Path) -> None:
    class Words:
        def save(self, folder: Path) -> None:
            (folder / "words.txt").write_text("one\ntwo\n")

    folder = tmp_path / "step-00000002"
    save_checkpoint(folder, model=Tied(), optimizer=None, state={}, tokenizer=Words())  # type: ignore[arg-type]
    assert (folder / "tokenizer" / "words.txt").read_text() == "one\ntwo\n"
    (folder / "tokenizer" / "words.txt").write_text("one\nTwo\n")
    with pytest.raises(CheckpointError, match=r"tokenizer/words\.txt is damaged"):
        verify_checkpoint(folder)
