"""Muon: a matrix's update moves every direction alike, the rare ones as far as the common ones.

    B = momentum * B + (1 - momentum) * G                  the running mean of the gradient G
    U = momentum * B + (1 - momentum) * G                  Nesterov: the newest gradient counts once more
    O = orthogonalized U                                   U = X S Y^T becomes, nearly, X Y^T
    W = W - learning_rate * weight_decay * W               pulled to zero, apart from the gradient
    W = W - learning_rate * 0.2 * sqrt(max(rows, columns)) * O

The gradient of a hidden matrix has a few large singular values and many small ones: a plain step goes along the few.
Setting them all to about 1 lets what is rarely seen be learned too. Tables (embeddings, the output matrix) are not
maps from one space of features to another but lists of vectors, of which a step sees some; they, and all vectors, are
left to AdamW, which is `torch.optim.AdamW`'s own update.

One learning rate for both: an orthogonal matrix's numbers have a root mean square of 1 / sqrt(max(rows, columns)), so
the last line makes an update of 0.2 learning rates a number, which is about what AdamW's updates have. A rate and a
weight decay that suit AdamW then suit Muon (Liu et al.).

Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/
Liu et al. (2025), "Muon is Scalable for LLM Training", https://arxiv.org/abs/2502.16982 (the size of an update)

Shapes in this file
    n_matrices     matrices of one shape, updated together (a parameter with more axes is a stack of matrices)
    rows, columns  of each of them; n_short is the lesser of the two, n_long the other
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
"""Of the polynomial a s + b s^3 + c s^5 that each step applies to every singular value s: steep at 0, so that small
ones grow fast, and never far from 1 afterwards (Jordan et al.)."""

UPDATE_SIZE = 0.2
"""The root mean square of an update, in learning rates."""

FUSED_ON = {"cpu", "cuda"}


def multiplies_bfloat16(device: torch.device) -> bool:
    """Say whether a device multiplies bfloat16 by instructions: processors with AVX512_BF16, GPUs since Ampere."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Return U S' Y^T for each matrix U S Y^T [n_matrices, rows, columns], S' being about 1 (0.7 to 1.2).

    By Newton-Schulz iteration: the polynomial of a matrix is the polynomial of its singular values, so products are
    all it takes, and no singular value is ever computed. float32 is rounded to bfloat16 where there are instructions
    for that: it is exact enough for a direction. A matrix of zeros stays zero.
    """
    a, b, c = COEFFICIENTS
    rounded = matrices.dtype == torch.float32 and multiplies_bfloat16(matrices.device)
    dtype = torch.bfloat16 if rounded else matrices.dtype
    tall = matrices.shape[-2] > matrices.shape[-1]

    # 1. Lay each matrix on its long side: the products below are then as small as they can be.
    x = matrices.to(dtype).mT if tall else matrices.to(dtype)  # [n_matrices, n_short, n_long]

    # 2. No singular value is more than the root of the sum of their squares: divided by it, they are 1 at most.
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
    def step(self) -> None:  # type: ignore[override]  # torch's own may also take a closure, which nobody here has
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["rule"] == "adamw":
                self.update_by_adamw(parameters, group)
                continue
            # Matrices of one shape take the products together: one large product is faster than many small ones.
            by_shape: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in parameters:
                by_shape[tuple(parameter.shape)].append(parameter)
            for alike in by_shape.values():
                self.update_by_muon(alike, group)

    def update_by_muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Change parameters of one shape in place, as the formula at the top of this file says."""
        momentum, learning_rate, weight_decay = group["momentum"], group["lr"], group["weight_decay"]
        rows, columns = parameters[0].shape[-2:]

        directions = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            state = self.state[parameter]
            if not state:
                state["mean"] = torch.zeros_like(parameter)
            # B = B + (1 - momentum) * (G - B), and for Nesterov the same with G and B in turn
            mean = state["mean"].lerp_(gradient, 1.0 - momentum)
            directions.append(gradient.lerp(mean, momentum) if group["nesterov"] else mean)

        stacked = torch.stack(directions).reshape(-1, rows, columns)  # [n_matrices, rows, columns]
        updates = orthogonalize(stacked, group["newton_schulz_steps"])  # [n_matrices, rows, columns]
        length = learning_rate * UPDATE_SIZE * max(rows, columns) ** 0.5
        for parameter, update in zip(parameters, updates.view(len(parameters), *parameters[0].shape), strict=True):
            parameter.mul_(1.0 - learning_rate * weight_decay)
            parameter.add_(update, alpha=-length)

    def update_by_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Change parameters in place by the update of `torch.optim.AdamW`, the fused kernel where there is one.

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

    Vectors do not decay. A frozen parameter, which wants no gradient, is in no group. Raises ConfigError when no matrix
    is left for Muon, or when a pattern of adamw_parameters, other than those it has by default, matches no name.
    """
    # The plain tensors of a model with a backward of its own want no gradient from autograd, and are trained as well.
    trained = {name: p for name, p in named_parameters if p.requires_grad or not isinstance(p, Parameter)}
    _require_matches(config.adamw_parameters, trained)
    matrices = {name: parameter for name, parameter in trained.items() if parameter.dim() >= 2}
    tables = {name for name in matrices if any(fnmatchcase(name, pattern) for pattern in config.adamw_parameters)}
    hidden = [parameter for name, parameter in matrices.items() if name not in tables]
    if not hidden:
        raise ConfigError(
            "training.optimizer: muon has no matrix to update; its adamw_parameters leave "
            f"{', '.join(sorted(tables)) or 'none'} to AdamW, and the model has no other. Choose the optimizer adamw."
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
    usual = MuonConfig().adamw_parameters
    for pattern in patterns:
        if pattern not in usual and not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"training.optimizer.adamw_parameters: no parameter of the model is called '{pattern}'. "
                f"The parameters are {', '.join(names)}."
            )
