"""All checks of a model, ordered so that an early failure explains later ones."""

from __future__ import annotations

from collections.abc import Iterator

from tfs_lab.testing import capability_checks, gradients, invariances, loss_checks, operations, state_checks
from tfs_lab.testing.parity import check_parity
from tfs_lab.testing.results import Check, CheckResult
from tfs_lab.testing.small_model import SmallModel

MODEL_CHECKS: tuple[Check[SmallModel], ...] = (
    loss_checks.logits_have_the_right_shape,
    loss_checks.loss_is_the_sum_of_nats,
    loss_checks.nothing_valid_means_nothing_learned,
    loss_checks.backward_scales_and_adds,
    loss_checks.backward_consumes_the_loss,
    loss_checks.evaluation_leaves_training_alone,
    loss_checks.every_parameter_gets_a_gradient,
    loss_checks.bad_input_is_refused,
    operations.operation_gradients_are_correct,
    operations.operations_keep_what_they_cached,
    gradients.gradients_against_autograd,
    gradients.gradients_against_differences,
    gradients.gradients_with_dropout,
    invariances.logits_are_causal,
    invariances.padding_changes_nothing,
    invariances.rows_do_not_see_each_other,
    invariances.arguments_are_left_alone,
    invariances.eval_keeps_nothing,
    invariances.saved_tensors_are_unmodified,
    state_checks.same_seed_same_model,
    state_checks.save_and_load,
    state_checks.resume_is_exact,
    state_checks.cache_equals_the_full_forward,
    capability_checks.documents_do_not_see_each_other,
    capability_checks.features_make_the_logits,
    loss_checks.narrow_types_are_as_near_as_they_can_be,
    loss_checks.starts_near_uniform,
    loss_checks.learns_one_batch,
    loss_checks.flops_are_counted,
)


def check_model(subject: SmallModel, *, against: SmallModel | None = None) -> Iterator[CheckResult]:
    """Yield the result of every check as it is run; the checks of parity with another model come last."""
    for model_check in MODEL_CHECKS:
        yield model_check(subject)
    if against is not None:
        yield from check_parity(subject, against)
