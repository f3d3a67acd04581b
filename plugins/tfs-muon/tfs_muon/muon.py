"""Muon: momentum with an orthogonalized update, in which all singular values are about 1.

    B = momentum * B + (1 - momentum) * G                  exponential moving average of the gradient G
    U = momentum * B + (1 - momentum) * G                  Nesterov: the newest gradient is mixed in again
    O = orthogonalized U                                   U = X S Y^T becomes approximately X Y^T
    W = W - learning_rate * weight_decay * W               decoupled weight decay
    W = W - learning_rate * 0.2 * sqrt(max(rows, columns)) * O

The gradient of a hidden matrix has a few large singular values and many small ones, so a plain step moves mainly along
the few directions of the large ones. With all singular values at about 1, rare directions are learned too. Tables
(embeddings, the output matrix) are lists of vectors, one per token or position, not linear maps between feature spaces.
Tables and vectors are updated by AdamW, as in `torch.optim.AdamW`.

Both rules share one learning rate: the elements of an orthogonal matrix have a root mean square (RMS) of
1 / sqrt(max(rows, columns)), so the last line gives an update with an RMS of 0.2 * learning_rate, about that of AdamW's
updates. A learning rate and a weight decay tuned for AdamW then also fit Muon (Liu et al.).

Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/
Liu et al. (2025), "Muon is Scalable for LLM Training", https://arxiv.org/abs/2502.16982 (the size of an update)

Shapes in this file
    n_matrices     matrices of one shape, updated together (a parameter with more axes is a stack of matrices)
    rows, columns  of each of them; n_short is the smaller of the two, n_long the larger
"""

from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from tfs_core.errors import ConfigError
from tfs_muon.config import MuonConfig

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients (a, b, c) of the polynomial a s + b s^3 + c s^5 that each step applies to every singular value s. The
polynomial is steep at 0, so that small values grow fast, and larger values stay close to 1 (Jordan et al.)."""

UPDATE_SIZE = 0.2
"""The root mean square of the elements of an update, as a multiple of the learning rate."""

FUSED_ON = {"cpu", "cuda"}


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return True when the hardware multiplies bfloat16: processors with AVX512_BF16, GPUs since Ampere."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Return U S' Y^T for each matrix U S Y^T [n_matrices, rows, columns], with S' about 1 (0.7 to 1.2).

    Newton-Schulz iteration: an odd polynomial of a matrix applies the polynomial to each singular value, so only matrix
    products are needed, and no singular value is computed. On hardware that multiplies bfloat16, float32 is rounded to
    bfloat16, whose precision is enough for the direction of an update. A matrix of zeros stays zero.
    """
    a, b, c = COEFFICIENTS
    use_bfloat16 = matrices.dtype == torch.float32 and multiplies_bfloat16(matrices.device)
    dtype = torch.bfloat16 if use_bfloat16 else matrices.dtype
    tall = matrices.shape[-2] > matrices.shape[-1]

    # 1. Transpose tall matrices, so that the products below are as small as possible.
    x = matrices.to(dtype).mT if tall else matrices.to(dtype)  # [n_matrices, n_short, n_long]

    # 2. Divide by the Frobenius norm, the root of the sum of the squared singular values: all are then at most 1.
    norm = torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)  # [n_matrices, 1, 1]
    x = x / norm  # [n_matrices, n_short, n_long]

    # 3. x = (a + b (x x^T) + c (x x^T)^2) x
    for _ in range(steps):
        gram = x @ x.mT  # [n_matrices, n_short, n_short]
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # [n_matrices, n_short, n_short]
        x = torch.baddbmm(x, factor, x, beta=a)  # [n_matrices, n_short, n_long]

    result = x.mT if tall else x  # [n_matrices, rows, columns]
    return result.to(matrices.dtype)


class Muon(Optimizer):
    """Muon for the groups whose `rule` is `muon`, AdamW for those whose `rule` is `adamw`."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's own also takes a closure, unused here
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["rule"] == "adamw":
                self.update_by_adamw(parameters, group)
                continue
            # Matrices of one shape are batched: one large product is faster than many small ones.
            by_shape: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in parameters:
                by_shape[tuple(parameter.shape)].append(parameter)
            for same_shape in by_shape.values():
                self.update_by_muon(same_shape, group)

    def update_by_muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape [..., rows, columns] in place, by the formula at the top of this file."""
        momentum, learning_rate, weight_decay = group["momentum"], group["lr"], group["weight_decay"]
        rows, columns = parameters[0].shape[-2:]

        directions = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            state = self.state[parameter]
            if not state:
                state["mean"] = torch.zeros_like(parameter)
            # B = B + (1 - momentum) * (G - B); Nesterov: U = G + momentum * (B - G)
            mean = state["mean"].lerp_(gradient, 1.0 - momentum)
            directions.append(gradient.lerp(mean, momentum) if group["nesterov"] else mean)

        stacked = torch.stack(directions).reshape(-1, rows, columns)  # [n_matrices, rows, columns]
        updates = orthogonalize(stacked, group["newton_schulz_steps"])  # [n_matrices, rows, columns]
        step_size = learning_rate * UPDATE_SIZE * max(rows, columns) ** 0.5
        for parameter, update in zip(parameters, updates.view(len(parameters), *parameters[0].shape), strict=True):
            parameter.mul_(1.0 - learning_rate * weight_decay)
            parameter.add_(update, alpha=-step_size)

    def update_by_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters (any shape) in place as `torch.optim.AdamW` does, with the fused kernel where there is one.

        Kingma & Ba (2015), "Adam: A Method for Stochastic Optimization", https://arxiv.org/abs/1412.6980
        Loshchilov & Hutter (2019), "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101
        """
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device if group["fused"] else "cpu"),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def build(
    config: MuonConfig, *, named_parameters: Iterable[tuple[str, Tensor]], learning_rate: float, weight_decay: float
) -> Muon:
    """Return the optimizer of these parameters in up to three groups: hidden matrices, tables, vectors.

    Parameters have any shape. Vectors have no weight decay. Frozen parameters are in no group. Raises ConfigError when
    no matrix remains for Muon, or when a pattern of adamw_parameters that is not a default matches no name.
    """
    # The parameters of a model with a hand-written backward are plain tensors without requires_grad; they are trained.
    trained = {name: p for name, p in named_parameters if p.requires_grad or not isinstance(p, Parameter)}
    _require_matches(config.adamw_parameters, trained)
    matrices = {name: parameter for name, parameter in trained.items() if parameter.dim() >= 2}
    tables = {name for name in matrices if any(fnmatchcase(name, pattern) for pattern in config.adamw_parameters)}
    hidden = [parameter for name, parameter in matrices.items() if name not in tables]
    if not hidden:
        raise ConfigError(
            "training.optimizer: muon has no matrix to update: the model's only matrices are those of adamw_parameters "
            f"({', '.join(sorted(tables)) or 'none'}). Choose the optimizer adamw."
        )

    fused = all(parameter.device.type in FUSED_ON for parameter in trained.values())
    by_muon = {
        "rule": "muon",
        "lr": learning_rate,
        "momentum": config.momentum,
        "nesterov": config.nesterov,
        "newton_schulz_steps": config.newton_schulz_steps,
    }
    by_adamw = {
        "rule": "adamw",
        "lr": learning_rate * config.adamw_rate_ratio,
        "betas": config.betas,
        "eps": config.eps,
        "fused": fused,
    }
    groups = [
        {"params": hidden, "weight_decay": weight_decay, **by_muon},
        {"params": [matrices[name] for name in matrices if name in tables], "weight_decay": weight_decay, **by_adamw},
        {"params": [p for p in trained.values() if p.dim() < 2], "weight_decay": 0.0, **by_adamw},
    ]
    return Muon([group for group in groups if group["params"]], {})


def _require_matches(patterns: tuple[str, ...], names: Iterable[str]) -> None:
    default_patterns = MuonConfig().adamw_parameters
    for pattern in patterns:
        if pattern not in default_patterns and not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"training.optimizer.adamw_parameters: no parameter of the model is called '{pattern}'. "
                f"The parameters are {', '.join(names)}."
            )
