"""Load a trained model from a checkpoint, optionally into a mirror: a model with equal parameter names and function."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from tfs_core.checkpoint import RUN_STATE, as_checkpoint_error, read_config, read_state
from tfs_core.checkpoint_folder import verify_checkpoint
from tfs_core.config import config_from_mapping, resolved
from tfs_core.config.local_model import with_local_model
from tfs_core.config.schema import Choice, RunConfig, is_local_model
from tfs_core.contracts import LanguageModel, Tokenizer, WrapContext
from tfs_core.errors import CheckpointError, ConfigError
from tfs_core.machine import apply_machine, choose_machine
from tfs_core.models import LossModule, Objective, build_model
from tfs_core.origin import changed_local_files
from tfs_core.plugins import as_plugin_error
from tfs_core.ranks import OneRank
from tfs_core.registry import get_registry
from tfs_core.runs import find_checkpoint
from tfs_core.terminal import escape_control_characters
from tfs_core.wrapping import build_wrappers, wrapped

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A trained model in eval mode, with its tokenizer."""

    config: RunConfig
    model: LanguageModel
    objective: Objective
    tokenizer: Tokenizer
    step: int
    folder: Path  # the checkpoint's
    device: str


def load_model(
    target: str | Path,
    *,
    assets: Path,
    device: str = "auto",
    model: str | None = None,
    allow_local_code: bool = False,
) -> LoadedModel:
    """Return the model of a run (its latest checkpoint) or of a checkpoint, in eval mode, with its tokenizer.

    `model` names a mirror to load the weights into. Sets the number of threads and the matmul precision of this process
    to the recorded values of the run. Logs a warning for each file of a local model that has changed. Raises
    CheckpointError when the checkpoint is missing or damaged or does not fit, and ConfigError when `model` is no
    mirror.
    """
    folder = find_checkpoint(str(target), assets)
    verify_checkpoint(folder)
    overrides = [] if device == "auto" else [f"runtime.device={device}"]
    own_config, state = read_config(folder, overrides=overrides), read_state(folder, shape=RUN_STATE)
    own_config = with_local_model(own_config, allowed=allow_local_code)
    for file in changed_local_files(own_config.model.name, state.get("local_files", {})):
        message = f"{file} of the local model has changed since the checkpoint: the model may compute something else"
        _log.warning(escape_control_characters(message))
    config = own_config if model is None else with_model(own_config, model)
    machine = choose_machine(config.runtime, state["machine"])
    apply_machine(machine)
    tokenizer = read_tokenizer(config.data.tokenizer.name, folder / "tokenizer")
    if tokenizer.fingerprint() != state["fingerprints"]["tokenizer"]:
        raise CheckpointError(f"{folder}: its tokenizer is not the one that the model was trained with")
    built = build_model(config.model, vocab_size=tokenizer.vocab_size, seed=config.seed, device=machine.device)
    if model is not None:
        check_mirror(own_config.model, config.model, built)
    ranks = OneRank()
    adapters = [wrapper for wrapper in build_wrappers(config.wrappers) if wrapper.changes_weights]
    context = WrapContext(
        model=built,
        model_name=config.model.name,
        device=machine.device,
        ranks=ranks,
        recorded=state["machine"],
    )
    loss = wrapped(LossModule(built, loss_chunk=config.runtime.loss_chunk), adapters, context=context)
    with as_checkpoint_error(folder):
        ranks.load(folder, built, None, state)
    built.eval()
    return LoadedModel(config, built, Objective(built, loss), tokenizer, state["step"], folder, machine.device)


def read_tokenizer(name: str, folder: Path) -> Tokenizer:
    """Load the tokenizer saved in a folder. Raises PluginError when its loader fails."""
    entry = get_registry().find("tokenizer", name)
    load = entry.load_loader()
    with as_plugin_error(f"{entry} cannot be read from {folder}"):
        return load(folder)


def with_model(config: RunConfig, name: str) -> RunConfig:
    """Return the configuration with another model. Options that both models have keep their values."""
    config_class = get_registry().find("model", name).load_config_class()
    known = {field.name for field in dataclasses.fields(config_class)} if config_class else set()
    values = resolved(config)
    options = {key: value for key, value in values["model"].items() if key in known}
    return config_from_mapping({**values, "model": {"name": name, **options}}, source="the run's configuration")


def check_mirror(before: Choice, now: Choice, model: LanguageModel) -> None:
    """Raise ConfigError unless the choice `now` (built as `model`) is the model of `before` or mirrors it."""
    old_name, new_name = _bare_name(before), _bare_name(now)
    if new_name == old_name or model.mirrors == old_name:
        return
    if build_model(before, vocab_size=model.vocab_size, seed=0).mirrors != new_name:
        raise ConfigError(
            f"the weights are those of the model '{old_name}', which '{new_name}' does not mirror: it would "
            "compute something else with them. Leave --model out."
        )


def _bare_name(choice: Choice) -> str:
    return choice.name if is_local_model(choice.name) else get_registry().find("model", choice.name).component.name
