"""Train a transformer in one file: no configuration, registry or trainer. Text, model and batches come from tfs.

    python examples/train_by_hand.py                                      # Python's own standard library
    python examples/train_by_hand.py --model torch --text FILE --steps N  # autograd, a text file of yours

Takes    two to four minutes on two cores (most with `custom`, whose gradients are written by hand)
Expect   a loss from 5.3 down to about 1.7 nats per byte, and a sample that has the look of Python
`tfs run` with the same settings computes the same losses, to the last bit: tests/test_train_by_hand.py
"""

import argparse
import math
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tfs_custom.config import CustomConfig
from tfs_custom.model import Transformer as CustomTransformer
from tfs_datasets.config import TextConfig
from tfs_datasets.python_library import PythonLibrary
from tfs_datasets.text import TextFiles
from tfs_tokenizers.byte import ByteTokenizer
from tfs_torch.config import TorchConfig
from tfs_torch.model import Transformer as TorchTransformer

from tfs_core.data.batches import Batches, Rows
from tfs_core.data.prepare import prepare_tokens
from tfs_core.errors import TfsError
from tfs_core.terminal import escape_control_characters

ASSETS = Path("assets")  # the folder for prepared tokens: they are made once
TOKENIZER = ByteTokenizer()  # a token is one byte of the text; one more token means "end of text"
SEED = 1337  # decides the initial weights, the order of the batches and the sample
BATCH_SIZE, SEQ_LEN = 8, 128  # sequences in a batch, tokens in a sequence
MODEL: dict[str, Any] = {"d_model": 128, "n_heads": 4, "n_blocks": 4, "max_seq_len": SEQ_LEN}  # 0.8 M parameters
LEARNING_RATE, WARMUP_STEPS = 3e-3, 100  # the highest learning rate, and the step that reaches it
WEIGHT_DECAY, BETAS = 0.1, (0.9, 0.95)  # of AdamW
MAX_GRAD_NORM = 1.0  # a gradient with a larger norm is scaled down, so that one unusual batch does little harm
TEMPERATURE = 0.8  # of the sample: below 1 it prefers the likely tokens, at 1 it follows the model's probabilities


def make_batches(text: Path | None) -> Batches:
    """Return batches of a text file, or of the sources of Python's standard library."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    source = PythonLibrary(stdlib) if text is None else TextFiles(TextConfig(path=text), assets=ASSETS)
    # All tokens are in one array on disk, one document after the other ("packed"). It is cut into rows of SEQ_LEN
    # tokens, in every epoch at other places and in another order.
    # The target at each position is the token that comes next.
    tokens = prepare_tokens(source, TOKENIZER, assets=ASSETS).train
    rows = Rows(split=tokens, batching="packed", max_length=SEQ_LEN, end_of_text_id=TOKENIZER.end_of_text_id)
    return Batches(rows, batch_size=BATCH_SIZE, seed=SEED)


def make_model(name: str) -> CustomTransformer | TorchTransformer:
    """Return `custom` or `torch`: one function written twice. The same seed gives both the same initial weights."""
    generator = torch.Generator().manual_seed(SEED)
    if name == "custom":
        return CustomTransformer(CustomConfig(**MODEL), vocab_size=TOKENIZER.vocab_size, generator=generator)
    return TorchTransformer(TorchConfig(**MODEL), vocab_size=TOKENIZER.vocab_size, generator=generator)


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to a tenth of the peak at the last step."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * ((step + 1) / WARMUP_STEPS)
    progress = (step - WARMUP_STEPS + 1) / (steps - WARMUP_STEPS)  # from 0 to 1
    weight = (1.0 + math.cos(math.pi * progress)) / 2.0  # from 1 to 0
    return weight * LEARNING_RATE + (1.0 - weight) * (LEARNING_RATE / 10)


def train(model: CustomTransformer | TorchTransformer, batches: Batches, steps: int) -> Iterator[float]:
    """Take `steps` optimizer steps. After each, yield the loss of its batch before the update, in nats per token."""
    # Weight decay pulls matrices toward zero. Biases and gains are few, and shrinking them would not help.
    parameters = [parameter for _, parameter in model.named_parameters()]
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    vectors = [parameter for parameter in parameters if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=True)  # fused: one kernel updates all parameters

    for step in range(steps):
        # 1. Forward: the sum over all targets of -log(probability of the target).
        [batch] = batches.step(step)  # a step may have several micro-batches; here it has one
        loss = model.loss(batch.input_ids, batch.target_ids)  # []

        # 2. Backward: the loss is a sum, so this factor makes the gradients those of the mean over the targets.
        model.backward(1.0 / batch.valid_targets)

        # 3. Clip the gradient: its direction stays, its norm becomes MAX_GRAD_NORM at most.
        grad_norm = torch.nn.utils.get_total_norm([it.grad for it in parameters if it.grad is not None])  # []
        if grad_norm > MAX_GRAD_NORM:
            torch.nn.utils.clip_grads_with_norm_(parameters, MAX_GRAD_NORM, grad_norm)

        # 4. Update the parameters, and clear the gradients, because backward adds to them.
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item() / batch.valid_targets


@torch.no_grad()
def sample(model: CustomTransformer | TorchTransformer, n_tokens: int) -> str:
    """Return a text that the model writes, one token at a time, from the beginning of a document."""
    model.eval()
    generator = torch.Generator().manual_seed(SEED)
    ids = [TOKENIZER.end_of_text_id]
    for _ in range(n_tokens):
        logits = model.forward(torch.tensor([ids[-SEQ_LEN:]]))  # [1, seq_len, vocab_size]
        probabilities = (logits[0, -1] / TEMPERATURE).softmax(dim=-1)  # [vocab_size]
        ids.append(int(torch.multinomial(probabilities, 1, generator=generator)))
    return TOKENIZER.decode(ids)


def main() -> None:
    """Train, print the loss now and then, and print a sample."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["custom", "torch"], default="custom", help="gradients by hand, or autograd")
    parser.add_argument("--text", type=Path, help="a text file; without it, Python's standard library")
    parser.add_argument(
        "--steps", type=int, default=1500, help="optimizer steps; 0 for a sample of the untrained model"
    )
    arguments = parser.parse_args()
    try:
        batches = make_batches(arguments.text)
    except TfsError as error:  # such as a missing file
        parser.error(str(error))

    model = make_model(arguments.model)
    for step, loss in enumerate(train(model, batches, arguments.steps), start=1):
        if step % 100 == 0 or step in (1, arguments.steps):
            print(f"step {step:5}  loss {loss:.4f}", flush=True)
    print(escape_control_characters(sample(model, n_tokens=500)))  # or a sample could command the terminal


if __name__ == "__main__":
    main()
