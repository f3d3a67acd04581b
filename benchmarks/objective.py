"""The loss module of a model, with the wrappers of a configuration, as in `tfs run`."""

from collections.abc import Callable

from tfs_core.config.schema import RunConfig
from tfs_core.contracts import Batch, LanguageModel, WrapContext
from tfs_core.models import LossModule, Objective
from tfs_core.ranks import OneRank
from tfs_core.wrapping import build_wrappers, wrapped, wrapper_choices


def objective_of(
    model: LanguageModel, config: RunConfig, batch: Batch, report: Callable[[str], None] = print
) -> Objective:
    """Return the objective of a model on the CPU. The wrappers use the batch for their trial runs."""
    context = WrapContext(
        model=model,
        model_name=config.model.name,
        device="cpu",
        ranks=OneRank(),
        trial_batch=batch,
        lengths_vary=config.data.batching.name == "padded",
        report=report,
        warn=report,
    )
    loss = LossModule(model, loss_chunk=config.runtime.loss_chunk)
    return Objective(model, wrapped(loss, build_wrappers(wrapper_choices(config)), context=context))
