"""The model under check: small, in float64, with random noise on all weights so that no term is hidden by zeros."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfs_core.config.schema import is_local_model
from tfs_core.contracts import IGNORED_TARGET, LanguageModel, ModelConfig, SupportsFaults
from tfs_core.errors import ConfigError, UsageError
from tfs_core.plugins import did_you_mean
from tfs_core.registry import get_registry
from tfs_lab.testing.chosen import chosen

SMALL_SIZES: Mapping[str, int] = {
    "max_seq_len": 11,
    "d_model": 12,
    "n_embd": 12,
    "hidden_size": 12,
    "n_heads": 3,
    "n_head": 3,
    "num_heads": 3,
    "n_kv_heads": 1,
    "d_head": 4,
    "n_blocks": 2,
    "n_layers": 2,
    "n_layer": 2,
    "num_layers": 2,
    "d_ffn": 19,
    "d_ff": 19,
    "d_hidden": 19,
}
"""The size for an option of each name, small so that a check takes seconds. Different dimensions have different sizes:
a swap of two axes of the same size would not be detected."""

SMALLEST_SIZES: Mapping[str, int] = {"max_seq_len": 2, "d_model": 4, "n_embd": 4, "hidden_size": 4}
"""The lower limits, below which a correct model fails: normalizing one or two features leaves at most their sign, three
features are too few to learn a batch, and a single position has no earlier one."""

CHOSEN_BY_CHECKS = {"dtype", "dropout"}
"""Options that cannot be set: each check sets them."""

VOCAB_SIZE = 23
BATCH_SIZE = 5
SEQ_LEN = 7
SHAKE = 0.3


def small_options(config_class: type[Any] | None) -> dict[str, Any]:
    """Return the small sizes for the options of a configuration class."""
    names = {option.name for option in dataclasses.fields(config_class)} if config_class else set()
    return {name: size for name, size in SMALL_SIZES.items() if name in names}


@dataclass(frozen=True, kw_only=True)
class SmallModel:
    """A builder of the model under check: every check builds fresh instances."""

    name: str
    factory: Callable[..., LanguageModel]
    config: ModelConfig
    seed: int = 1337
    fault: str | None = None
    """A fault of `model.faults()` that every model built here has."""

    shake: float = SHAKE
    """The standard deviation of the noise that is added to every initial weight. Without noise, biases are 0, gains are
    1 and attention is nearly uniform, so that many errors have no effect."""

    vocab_size: int = VOCAB_SIZE
    batch_size: int = BATCH_SIZE

    @property
    def seq_len(self) -> int:
        """Return the length of the sequences in a batch: 7, or the context limit when it is shorter."""
        return min(SEQ_LEN, self.config.max_seq_len)

    def build(self, *, seed: int | None = None, shake: float | None = None, **options: Any) -> LanguageModel:
        """Return a fresh model on the CPU, in training mode, its parameters float64 unless `dtype` says otherwise."""
        config = dataclasses.replace(self.config, **{"dtype": "float64", "dropout": 0.0, **options})
        seed = self.seed if seed is None else seed
        model = self.factory(config, vocab_size=self.vocab_size, generator=torch.Generator().manual_seed(seed))
        model.to(device="cpu", dtype=torch.float64 if config.dtype == "float64" else torch.float32)
        if self.fault is not None:
            plant_fault(model, self.fault, self.name)
        noise_generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for _, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=noise_generator, dtype=torch.float64)
                parameter.add_((self.shake if shake is None else shake) * noise.to(parameter.dtype))
        model.train()
        return model

    def counterpart(self, name: str) -> SmallModel:
        """Return the model `name`, without a fault. Options that both models have get the values of this model."""
        other = small_model(name, seed=self.seed, shake=self.shake)
        names = {option.name for option in dataclasses.fields(other.config)}
        shared = {
            option.name: getattr(self.config, option.name)
            for option in dataclasses.fields(self.config)
            if option.name in names
        }
        config = dataclasses.replace(other.config, **shared)
        return dataclasses.replace(other, config=config, vocab_size=self.vocab_size, batch_size=self.batch_size)

    def batch(self, *, seed: int = 0, padded: bool = True) -> tuple[Tensor, Tensor]:
        """Return (input_ids, target_ids), each [batch_size, seq_len]. `padded`: one row partly padding, one fully."""
        generator = torch.Generator().manual_seed(self.seed + 1000 + seed)
        shape = (self.batch_size, self.seq_len)
        input_ids = torch.randint(self.vocab_size, shape, generator=generator)
        target_ids = torch.randint(self.vocab_size, shape, generator=generator)
        if padded:
            target_ids[1, -(self.seq_len // 2) :] = IGNORED_TARGET
            target_ids[2] = IGNORED_TARGET
        return input_ids, target_ids


def small_model(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 1337,
    fault: str | None = None,
    shake: float = SHAKE,
) -> SmallModel:
    """Return the model of that name, or of a file (`./my_model.py:MyModel`), at small sizes; `options` override them.

    `shake` is the standard deviation of the noise that is added to every initial weight.

    Raises ConfigError when the options are wrong or the sizes are too small to check; PluginError when there is no such
    model.
    """
    options = options or {}
    for option in options.keys() & CHOSEN_BY_CHECKS:
        raise ConfigError(f"{option} is chosen by the checks, which need float64, bfloat16, and dropout on and off.")
    small = {**small_options(_config_class(name, options)), **options}
    try:
        model = chosen("model", name, small)
    except ConfigError as error:
        sizes = ", ".join(f"{option}={size}" for option, size in small.items() if option not in options)
        raise ConfigError(f"{error}\nThe check chose {sizes}. Choose sizes that fit with --set KEY=VALUE.") from None
    if not isinstance(model.config, ModelConfig):
        raise ConfigError(f"model '{name}': its options must extend ModelConfig, and {model.config!r} does not")
    for option, least in SMALLEST_SIZES.items():
        if (size := getattr(model.config, option, least)) < least:
            raise ConfigError(
                f"{option}={size} is too small to check: a correct model would fail. Choose {least} or more"
            )
    return SmallModel(name=name, factory=model.factory, config=model.config, seed=seed, fault=fault, shake=shake)


def _config_class(name: str, options: Mapping[str, Any]) -> type | None:
    """Return the configuration class of a model, None when it has none."""
    if not is_local_model(name):
        return get_registry().find("model", name).load_config_class()
    try:  # the class is known only after the file is imported, which also validates options
        return type(chosen("model", name).config)
    except ConfigError:  # some options have no default
        return type(chosen("model", name, options).config)


def plant_fault(model: LanguageModel, fault: str, name: str) -> None:
    """Plant a fault in a model. Raises UsageError when the model declares no such fault."""
    if not isinstance(model, SupportsFaults):
        raise UsageError(f"'{name}' declares no faults that can be planted: it has no `faults()`.")
    if fault not in model.faults():
        near = did_you_mean(fault, model.faults())
        raise UsageError(f"'{name}' has no fault '{fault}'.{near} Its faults: {', '.join(model.faults())}.")
    model.plant_fault(fault)
