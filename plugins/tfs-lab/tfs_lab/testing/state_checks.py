"""Checks of a model's state: initial values, saving, resuming, and the key/value cache."""

from __future__ import annotations

import copy
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tfs_core.contracts import LanguageModel, SupportsKeyValueCache
from tfs_lab.testing.gradients import DROPOUT
from tfs_lab.testing.loss_checks import close
from tfs_lab.testing.results import Finding, NotApplicable, check, expect
from tfs_lab.testing.small_model import SmallModel

STEPS_BEFORE, STEPS_AFTER = 3, 3


@check("same seed, same model")
def same_seed_same_model(subject: SmallModel) -> Finding:
    """The initial values depend on the generator alone, bit-identically, and not on torch's global random state."""
    torch.manual_seed(1)
    first = dict(subject.build(shake=0.0).named_parameters())
    torch.manual_seed(2)
    second = dict(subject.build(shake=0.0).named_parameters())
    other = dict(subject.build(shake=0.0, seed=subject.seed + 1).named_parameters())
    for name, tensor in first.items():
        expect(torch.equal(tensor, second[name]), f"{name} differs between two models of the same seed")
    expect(
        any(not torch.equal(tensor, other[name]) for name, tensor in first.items()),
        "another seed gives the same initial values: the generator is not used",
    )
    return f"{len(first)} parameters bit-identical"


@check("save and load")
def save_and_load(subject: SmallModel) -> Finding:
    """`state_dict`, saved as safetensors and loaded into another model, gives bit-identical logits."""
    model, other = subject.build(), subject.build(seed=subject.seed + 1)
    input_ids, _ = subject.batch()
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    missing = sorted({name for name, _ in model.named_parameters()} - set(state))
    expect(not missing, f"state_dict() lacks parameters: {', '.join(missing)}")
    loaded = safetensors.torch.load(safetensors.torch.save(_without_shared_memory(state)))
    for copied in (model, other):
        copied.eval()
    other.load_state_dict(loaded)
    expect(torch.equal(other.forward(input_ids), model.forward(input_ids)), "the logits differ after loading")
    name = next(iter(loaded))
    for broken, what in (
        ({key: value for key, value in loaded.items() if key != name}, f"without '{name}'"),
        ({**loaded, name: loaded[name][..., :-1]}, f"with '{name}' of another shape"),
    ):
        try:
            subject.build().load_state_dict(broken)
        except Exception:  # it must raise; the type of the error is not specified
            continue
        expect(False, f"load_state_dict accepted a state {what}")
    return f"{len(state)} tensors, logits bit-identical"


def _without_shared_memory(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with every tensor copied, because safetensors rejects tied tensors."""
    return {name: tensor.clone() for name, tensor in state.items()}


@check("resume")
def resume_is_exact(subject: SmallModel) -> Finding:
    """N + M optimizer steps are bit-identical to N steps, save, load into a new model, and M steps, with dropout."""
    model = subject.build(dropout=DROPOUT)
    optimizer = _optimizer(model)
    torch.manual_seed(subject.seed)
    _train(subject, model, optimizer, range(STEPS_BEFORE))
    saved = copy.deepcopy({name: tensor.detach() for name, tensor in model.state_dict().items()})
    saved_optimizer, random_state = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    uninterrupted = _train(subject, model, optimizer, range(STEPS_BEFORE, STEPS_BEFORE + STEPS_AFTER))

    resumed = subject.build(seed=subject.seed + 1, dropout=DROPOUT)
    resumed.load_state_dict(saved)
    optimizer = _optimizer(resumed)
    optimizer.load_state_dict(saved_optimizer)
    torch.set_rng_state(random_state)
    after_loading = _train(subject, resumed, optimizer, range(STEPS_BEFORE, STEPS_BEFORE + STEPS_AFTER))
    expect(uninterrupted == after_loading, f"the losses after loading are {after_loading}, not {uninterrupted}")
    expected = dict(model.named_parameters())
    for name, tensor in resumed.named_parameters():
        expect(torch.equal(tensor, expected[name]), f"{name} differs after resuming")
    return f"{STEPS_BEFORE} + {STEPS_AFTER} steps, weights and losses bit-identical"


def _optimizer(model: LanguageModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW([parameter for _, parameter in model.named_parameters()], lr=1e-2)


def _train(subject: SmallModel, model: LanguageModel, optimizer: Any, steps: range) -> list[float]:
    losses = []
    model.train()
    for step in steps:
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(model.loss(*subject.batch(seed=step))))
        model.backward(0.1)
        optimizer.step()
    return losses


@check("key/value cache")
def cache_equals_the_full_forward(subject: SmallModel) -> Finding:
    """With the cache, prompts of different lengths, continued token by token, get the logits of the full forward."""
    model = subject.build()
    if not isinstance(model, SupportsKeyValueCache):
        raise NotApplicable("the model has no key/value cache")
    model.eval()
    input_ids, _ = subject.batch()
    full = model.forward(input_ids)
    cache = model.make_cache(subject.batch_size)
    prompt_lengths = torch.arange(subject.batch_size) % (subject.seq_len - 1) + 1  # [batch_size], different lengths
    longest = int(prompt_lengths.max())
    positions = torch.arange(longest).expand(subject.batch_size, longest)
    padding = positions >= prompt_lengths[:, None]
    prompts = torch.where(padding, (input_ids[:, :longest] + 1) % subject.vocab_size, input_ids[:, :longest])
    logits = model.forward_with_cache(prompts, positions, cache)
    expect(
        close(logits[~padding], full[:, :longest][~padding]),
        "the logits of prompts of different lengths differ from those of the full forward",
    )
    position = prompt_lengths.clone()  # the position of the next token of each row
    while bool((position < subject.seq_len).any()):
        now = position.clamp(max=subject.seq_len - 1)[:, None]
        logits = model.forward_with_cache(input_ids.gather(1, now), now, cache)[:, 0]
        expected = full.gather(1, now[:, :, None].expand(-1, -1, subject.vocab_size))[:, 0]
        expect(close(logits, expected), f"the logits are not the full forward's at positions {now.flatten().tolist()}")
        position = position + 1
    return f"prompts of {int(prompt_lengths.min())} to {longest} tokens, continued to {subject.seq_len}"
