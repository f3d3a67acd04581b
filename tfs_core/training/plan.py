"""How long a run is: the optimizer steps that its epochs, tokens or steps come to."""

from dataclasses import dataclass

from tfs_core.config.schema import TrainingConfig
from tfs_core.data.batches import Batches
from tfs_core.data.stream_batches import TrainingBatches
from tfs_core.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """The length of a run, and of its warm-up, in optimizer steps."""

    total_steps: int
    warmup_steps: int


def plan_run(config: TrainingConfig, batches: TrainingBatches) -> Plan:
    """Return the plan of a run, which says in one way how long it is: the configuration has been checked.

    Raises ConfigError when the warm-up is longer than what epochs or tokens come to.
    """
    if config.num_epochs is not None:
        assert isinstance(batches, Batches), "how long an epoch of a stream is nobody knows: it has been refused"
        total_steps = batches.steps_for_epochs(config.num_epochs)
    elif config.max_tokens is not None:
        total_steps = batches.steps_for_tokens(config.max_tokens)
    else:
        assert config.max_steps is not None
        total_steps = config.max_steps
    if config.warmup_ratio is not None:
        return Plan(total_steps, round(config.warmup_ratio * total_steps))
    warmup_steps = config.warmup_steps or 0
    if warmup_steps > total_steps:
        raise ConfigError(
            f"training.warmup_steps: {warmup_steps} steps of warm-up are more than the run has, {total_steps}. Lower "
            "it, or train longer."
        )
    return Plan(total_steps, warmup_steps)
