"""Training of a BPE with `tokenizers`, as a program: `bpe.train` runs it in a process of its own.

`tokenizers` does not stop for Ctrl-C; a process can be stopped at any time. The program reads its standard input:

    a line of JSON: the options of `train`
    for each text, a line with its number of UTF-8 bytes, then these bytes
    a line with -1

and writes the `tokenizer.json` to its standard output. The other side leaves the input open until then: when the input
is closed earlier, the program ends at once, so that it never outlives the process that started it.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence

import tokenizers.pre_tokenizers
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.trainers import BpeTrainer

from tfs_tokenizers.config import END_OF_TEXT

LONGEST_WORD = 1024
"""In characters. Training divides longer words, since the time for the merges in a word grows with its length squared.
No merge crosses such a division; shorter words, and so their merges, stay as they are."""

WORDS = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}{1,most}| ?\p{N}{1,most}| ?[^\s\p{L}\p{N}]{1,most}|\s{1,most}(?!\S)|\s{1,most}"
).replace("most", str(LONGEST_WORD))
"""The rule of `ByteLevel` for words, which is GPT-2's, with at most `LONGEST_WORD` characters after the space."""


def train(texts: Iterator[str], *, vocab_size: int, min_frequency: int, special_tokens: Sequence[str]) -> str:
    """Return the `tokenizer.json` of a BPE trained on the texts."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [Split(Regex(WORDS), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(special_tokens) - 1,  # end of text has the last id, as in GPT-2
        min_frequency=min_frequency,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (*special_tokens, END_OF_TEXT)]
    )
    return str(tokenizer.to_str())


def received_texts() -> Iterator[str]:
    """Iterate over the texts on standard input. Ends the process when the input ends without a line with -1."""
    while line := sys.stdin.buffer.readline():
        n_bytes = int(line)
        if n_bytes < 0:
            threading.Thread(target=exit_with_input, daemon=True).start()
            return
        text = sys.stdin.buffer.read(n_bytes)
        if len(text) == n_bytes:
            yield text.decode("utf-8")
    os._exit(1)


def exit_with_input() -> None:
    """Wait for the end of standard input, and end the process."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    options = json.loads(sys.stdin.buffer.readline())
    content = train(received_texts(), **options).encode("utf-8")
    sys.stdout.flush()
    with open(sys.stdout.fileno(), "wb", closefd=False) as output:  # `sys.stdout.buffer` may be unbuffered: if the disk
        output.truncate(0)  # is full, it writes a part, without an error. Here, what other code has printed is removed.
        output.seek(0)
        output.write(content)
