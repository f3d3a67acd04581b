"""The tokenizer `bpe`: byte-level byte-pair encoding, trained once on the training text of the run and cached.

Sennrich, Haddow & Birch (2016), "Neural Machine Translation of Rare Words with Subword Units",
https://arxiv.org/abs/1508.07909
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from tfs_core.data.documents import TrainingText
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.config import END_OF_TEXT, BpeConfig
from tfs_tokenizers.kept import trained_once
from tfs_tokenizers.tokenizer_json import byte_alphabet

log = logging.getLogger(__name__)


def train(documents: Iterator[str], *, vocab_size: int, min_frequency: int, special_tokens: Sequence[str] = ()) -> str:
    """Return the `tokenizer.json` of a BPE trained on the text. Memory grows with the distinct words, not the text."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(special_tokens) - 1,  # end of text has the last id, as in GPT-2
        min_frequency=min_frequency,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (*special_tokens, END_OF_TEXT)]
    )
    return str(tokenizer.to_str())


def build(
    config: BpeConfig,
    *,
    assets: Path,
    offline: bool,  # noqa: ARG001 (no network is needed)
    documents: TrainingText | None,
) -> ByteLevelTokenizer:
    """Return the tokenizer of the training text, trained now or taken from the cache."""
    tokenizer = trained_once(
        "bpe",
        asdict(config),
        assets=assets,
        documents=documents,
        train=lambda texts: train(texts, **asdict(config)),
        load=ByteLevelTokenizer,
    )
    warn_if_small(tokenizer, config)
    return tokenizer


def warn_if_small(tokenizer: ByteLevelTokenizer, config: BpeConfig) -> None:
    """Log a warning when training found fewer ids than requested."""
    if tokenizer.vocab_size < config.vocab_size:
        log.warning(
            "bpe: the training text gives %d ids, not the %d of vocab_size: no other pair of ids occurs %d times in it",
            tokenizer.vocab_size,
            config.vocab_size,
            config.min_frequency,
        )


def truncate(content: str, vocab_size: int) -> str:
    """Return the `tokenizer.json` with only the first merges, so that it has `vocab_size` ids.

    Training finds the merges one by one, so the result is identical to that of training with `vocab_size`. In files of
    other tools, several merges may give the same token, and a merge may precede those of its parts: it is left out.
    """
    rules = json.loads(content)
    vocabulary, merges = rules["model"]["vocab"], rules["model"]["merges"]
    letters = sorted(byte_alphabet(), key=lambda letter: vocabulary.get(letter, len(vocabulary)))
    smaller = {letter: token_id for token_id, letter in enumerate(letters)}
    first_merges = []
    for merge in merges:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        if first in smaller and second in smaller:
            if first + second not in smaller and len(smaller) == vocab_size - 1:  # end of text takes the last id
                break
            smaller.setdefault(first + second, len(smaller))
            first_merges.append(merge)
    rules["model"] |= {"vocab": smaller, "merges": first_merges}
    end_of_text = {"id": len(smaller), "content": END_OF_TEXT, "special": True}
    rules["added_tokens"] = [dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | end_of_text]
    return json.dumps(rules, ensure_ascii=False)
