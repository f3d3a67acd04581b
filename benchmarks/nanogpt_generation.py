"""Generation speed: tokens per second for batch size 1, greedy, with a prompt of 16 tokens and 240 new tokens.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/nanogpt_generation.py --nanogpt nanoGPT
    python benchmarks/nanogpt_generation.py --nanogpt nanoGPT --quick

d_model 256, 6 blocks, 4 heads, context 256, vocabulary 4096, float32, for all:

    nanoGPT                  its own `generate`, which recomputes the whole text for every token
    Hugging Face GPT2        `generate` of transformers with a key/value cache: the same function as nanoGPT and `torch`
    Hugging Face Qwen3       the same, with the weights of `baseline`: the same function as `baseline`
    torch, baseline          `tfs_generate.generation.generate`, with and without the cache
    ... compiled             the same with `--compile`; the compile time is printed separately
`generate` of tfs takes few threads and the default kernel for a single token by itself; `--threads 1` gives one to all.
All alternate in one process. Compare the ratios: medians over the rounds. It is an error if tfs generates different
tokens with and without the cache, or if `baseline` and Qwen3 with the same weights generate different tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tfs_generate.generation import Sampling, generate, single_token_cpu_settings, use_column_major_weights
from tfs_generate.token_step import TokenStep
from tfs_speed.token_step import CompiledStep
from torch import nn

from tfs_core.config import config_from_mapping
from tfs_core.contracts import LanguageModel
from tfs_core.models import build_model

D_MODEL, N_BLOCKS, N_HEADS, SEQ_LEN, VOCAB_SIZE = 256, 6, 4, 256, 4096
PROMPT = list(range(100, 116))
N_NEW = SEQ_LEN - len(PROMPT)
RIVALS = ("nanoGPT", "Hugging Face GPT2", "Hugging Face Qwen3")

Writer = Callable[[], list[int]]


def perturb_weights(module: nn.Module) -> None:
    """Add noise to the weights, so that the generated text does not repeat one token."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def nanogpt(folder: str) -> Writer:
    """Return a writer with nanoGPT's `generate`: it samples, and with top_k = 1 it is greedy."""
    sys.path.insert(0, folder)
    from model import GPT, GPTConfig

    sizes = {"n_embd": D_MODEL, "n_layer": N_BLOCKS, "n_head": N_HEADS, "block_size": SEQ_LEN}
    with contextlib.redirect_stdout(io.StringIO()):  # nanoGPT prints messages
        model = GPT(GPTConfig(**sizes, vocab_size=VOCAB_SIZE, dropout=0.0, bias=False)).eval()
    perturb_weights(model)
    return lambda: model.generate(torch.tensor([PROMPT]), N_NEW, top_k=1)[0, len(PROMPT) :].tolist()


def huggingface(model: nn.Module) -> Writer:
    """Return a writer with the `generate` of a transformers model."""
    model.eval()
    ids = torch.tensor([PROMPT])
    options = {"max_new_tokens": N_NEW, "do_sample": False, "use_cache": True, "eos_token_id": None, "pad_token_id": 0}
    return lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(PROMPT) :].tolist()


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": D_MODEL, "n_layer": N_BLOCKS, "n_head": N_HEADS, "n_positions": SEQ_LEN}
    model = GPT2LMHeadModel(GPT2Config(**sizes, vocab_size=VOCAB_SIZE, bos_token_id=0, eos_token_id=0))
    perturb_weights(model)
    return model


def qwen3(baseline: LanguageModel) -> nn.Module:
    """Return the transformers model with the function and the weights of a `baseline` model."""
    from tfs_baseline.huggingface import huggingface_weights
    from transformers import Qwen3Config, Qwen3ForCausalLM

    settings = baseline.config
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=D_MODEL,
        intermediate_size=settings.hidden_width,
        num_hidden_layers=N_BLOCKS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.head_width,
        max_position_embeddings=SEQ_LEN,
        rms_norm_eps=settings.norm_epsilon,
        rope_theta=settings.rope_theta,
        tie_word_embeddings=settings.tied,
    )
    model = Qwen3ForCausalLM(config)
    model.load_state_dict(huggingface_weights(baseline))
    return model


def ours(name: str) -> LanguageModel:
    sizes = {"d_model": D_MODEL, "n_heads": N_HEADS, "n_blocks": N_BLOCKS, "max_seq_len": SEQ_LEN}
    config = config_from_mapping(
        {
            "experiment_name": "generation",
            "data": {"dataset": "python-stdlib", "tokenizer": "byte", "max_length": SEQ_LEN},
            "model": {"name": name, **sizes},
            "training": {"max_steps": 1},
        }
    )
    model = build_model(config.model, vocab_size=VOCAB_SIZE, seed=1)
    perturb_weights(model)
    return model.eval()


def with_tfs(model: LanguageModel, *, use_cache: bool = True, token_step: TokenStep | None = None) -> Writer:
    def write() -> list[int]:
        generator = torch.Generator().manual_seed(0)
        greedy = Sampling(temperature=0)
        options = {"max_new_tokens": N_NEW, "sampling": greedy, "generator": generator}
        return list(generate(model, PROMPT, **options, use_cache=use_cache, token_step=token_step))

    return write


def compiled(name: str) -> Writer:
    """Return a writer with a compiled step."""
    model = ours(name)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    with single_token_cpu_settings(torch.device("cpu"), n_parameters, compiled=True):  # as `tfs generate` does
        step = CompiledStep(model, name=name, report=lambda said: print(f"{name}: {said}", flush=True))
    return with_tfs(model, token_step=step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", required=True, help="the folder with nanoGPT's model.py")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="number of threads for all; default: torch's choice")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    chosen = parser.parse_args()
    if not Path(chosen.nanogpt, "model.py").exists():
        sys.exit(f"{chosen.nanogpt} has no model.py; get it with git clone https://github.com/karpathy/nanoGPT")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)

    baseline, plain = ours("baseline"), ours("torch")
    rival = qwen3(baseline)
    for model in (baseline, plain):
        use_column_major_weights(model)  # as `tfs generate` does
    writers: dict[str, Writer] = {
        "nanoGPT": nanogpt(chosen.nanogpt),
        "Hugging Face GPT2": huggingface(gpt2()),
        "Hugging Face Qwen3": huggingface(rival),
        "torch without cache": with_tfs(plain, use_cache=False),
        "baseline without cache": with_tfs(baseline, use_cache=False),
        "torch": with_tfs(plain),
        "baseline": with_tfs(baseline),
        "torch compiled": compiled("torch"),
        "baseline compiled": compiled("baseline"),
    }
    speeds: dict[str, list[float]] = {side: [] for side in writers}
    written: dict[str, list[int]] = {}
    for turn in range(1 + (3 if chosen.quick else chosen.rounds)):
        for side, write in writers.items():
            started_at = time.perf_counter()
            written[side] = write()
            if turn > 0:  # the first round is warm-up
                speeds[side].append(N_NEW / (time.perf_counter() - started_at))
            assert len(written[side]) == N_NEW
    assert written["torch"] == written["torch compiled"] == written["torch without cache"]
    assert written["baseline"] == written["baseline compiled"] == written["baseline without cache"]
    assert written["baseline"] == written["Hugging Face Qwen3"]

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; the same tokens with and without the cache")
    print(f"{'side':<23} {'tokens/s':>9} {'best':>6}" + "".join(f"{'of ' + rival:>22}" for rival in RIVALS))
    for side, values in speeds.items():
        ratios = (statistics.median(a / b for a, b in zip(values, speeds[rival], strict=True)) for rival in RIVALS)
        line = "".join(f"{ratio:>21.2f}x" for ratio in ratios)
        print(f"{side:<23} {statistics.median(values):>9.0f} {max(values):>6.0f}{line}")
    different = {name: len(set(written[name])) for name in ("torch", "baseline")}
    print(f"different tokens among the {N_NEW}: {different}")


if __name__ == "__main__":
    main()
