"""`hub` and `gpt2` on a local fake Hub: download, verification, cache, and error messages."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tfs_tokenizers import bpe
from tfs_tokenizers import hub as hub_tokenizer
from tfs_tokenizers.config import HubConfig
from tfs_tokenizers.tokenizer_json import LARGEST_FILE

from tfs_core.errors import DataError

TEXT = "The quick brown fox — naïve, 東京 🦊. "
BUILD = """
import sys
from pathlib import Path
from tfs_core.errors import DataError
from tfs_tokenizers import gpt2, hub
from tfs_tokenizers.config import HubConfig
gpt2.PACKAGE = "a-package-that-is-not-installed"
name, revision = sys.argv[1:]
try:
    if name == "gpt2":
        tokenizer = gpt2.build(None, assets=Path("."), offline=False, documents=None)
    else:
        config = HubConfig(repository=name, revision=revision)
        tokenizer = hub.build(config, assets=Path("."), offline=False, documents=None)
    print(tokenizer.vocab_size, tokenizer.end_of_text, list(tokenizer.encode_batch(["Hello, world!"])[0]))
except DataError as error:
    print("error:", error)
"""
"""Prints the tokenizer's properties, or the error."""


@pytest.fixture
def models(hub: Any) -> Any:
    """Return a Hub with a tokenizer that has an unusual end of text."""
    content = bpe.train(iter([TEXT * 30]), vocab_size=280, min_frequency=2, special_tokens=["</s>"])
    publish(hub, "someone/something", content, end_of_text="</s>")
    return hub


def publish(hub: Any, repository: str, content: str, *, end_of_text: str | None = None) -> None:
    folder = hub.folder / "models" / repository
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8", newline="\n")
    if end_of_text is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end_of_text}), encoding="utf-8")


def build(
    python: Any, endpoint: str, name: str = "someone/something", revision: str = "main", **environment: str
) -> str:
    """Return the output of `BUILD` in a new process."""
    said = python("-c", BUILD, name, revision, endpoint=endpoint, **environment)
    assert said.exit_code == 0, said.errors
    return str(said.output.strip())


class TestDownload:
    """Download into the cache."""

    def test_tokenizer_is_downloaded_with_its_end_of_text(self, models: Any, python: Any) -> None:
        assert build(python, models.url).startswith("280 </s> [")

    def test_tokenizer_is_found_again_without_a_network(self, models: Any, python: Any, nowhere: str) -> None:
        first = build(python, models.url)
        asked = len(models.requests)
        assert build(python, models.url) == first
        assert len([request for request in models.requests[asked:] if "someone" in request.path]) == 0
        assert build(python, nowhere) == first

    def test_tokenizer_without_a_configuration_file_is_read(self, models: Any, python: Any) -> None:
        publish(models, "someone/bare", bpe.train(iter([TEXT]), vocab_size=257, min_frequency=2))
        assert build(python, models.url, "someone/bare").startswith("257 <|endoftext|> [")

    def test_gpt2_is_downloaded_and_found_again_without_a_network(
        self, hub: Any, python: Any, nowhere: str, gpt2_content: str
    ) -> None:
        publish(hub, "openai-community/gpt2", gpt2_content)
        expected = "50257 <|endoftext|> [15496, 11, 995, 0]"
        assert build(python, hub.url, "gpt2") == expected
        assert build(python, nowhere, "gpt2") == expected

    def test_gated_tokenizer_comes_with_the_users_own_login(self, models: Any, python: Any) -> None:
        models.gated.add("someone/something")
        assert build(python, models.url, HF_TOKEN="hf_good").startswith("280 </s> [")


class TestRefusals:
    """One-line messages that say what to do."""

    def test_unknown_repository(self, models: Any, python: Any) -> None:
        said = build(python, models.url, "someone/nothing")
        assert said == (
            f"error: there is no repository someone/nothing at {models.url}, or it is private: log in with "
            "`hf auth login`, or set HF_TOKEN."
        )

    def test_gated_repository(self, models: Any, python: Any) -> None:
        models.gated.add("someone/something")
        said = build(python, models.url)
        assert said.startswith("error: someone/something is gated")
        assert f"Accept its terms at {models.url}/someone/something, then log in with" in said

    def test_unknown_revision(self, models: Any, python: Any) -> None:
        said = build(python, models.url, revision="v2")
        assert said.startswith("error: someone/something has no revision 'v2'. Choose a branch, tag or commit of")

    def test_repository_without_a_tokenizer_json(self, models: Any, python: Any) -> None:
        (folder := models.folder / "models" / "someone" / "else").mkdir()
        (folder / "spiece.model").write_bytes(b"\0")
        said = build(python, models.url, "someone/else")
        assert said.startswith("error: someone/else has no tokenizer.json, the only tokenizer format that tfs reads")

    @pytest.mark.parametrize("repository", ["https://huggingface.co/gpt2", "a/b/c", "", "a b"])
    def test_invalid_repository_name(self, repository: str) -> None:
        with pytest.raises(ValueError, match="repository must be a name such as openai-community/gpt2"):
            HubConfig(repository=repository)

    def test_no_network_is_a_one_line_error(self, python: Any, nowhere: str) -> None:
        said = build(python, nowhere)
        assert said.startswith("error: someone/something: its tokenizer.json is not in ")
        assert "that cannot be reached. Go online once" in said
        assert len(said.splitlines()) == 1

    def test_offline_by_choice_is_a_one_line_error(self, models: Any, python: Any) -> None:
        said = build(python, models.url, HF_HUB_OFFLINE="1")
        assert "the network is switched off. Go online once" in said
        assert len(said.splitlines()) == 1


class TestUnreliableHub:
    """Temporary errors and wrong bytes."""

    def test_busy_hub_is_retried(self, models: Any, python: Any) -> None:
        models.faults.unavailable = {"tokenizer_config.json": 1}
        models.faults.too_many = {"tokenizer.json": 1}
        assert build(python, models.url).startswith("280 </s> [")

    def test_busy_hub_is_an_error_and_leaves_no_incomplete_cache(self, models: Any, python: Any, nowhere: str) -> None:
        models.faults.unavailable = {"tokenizer_config.json": 100}
        said = build(python, models.url)
        assert said == (f"error: someone/something: {models.url} is busy (HTTP 503). Try again later.")
        assert "its tokenizer.json is not in" in build(python, nowhere)  # nothing was cached without the end of text

    def test_dropped_connection_is_retried(self, models: Any, python: Any) -> None:
        models.faults.dropped = {"tokenizer.json": 1}
        assert build(python, models.url).startswith("280 </s> [")

    def test_wrong_bytes_are_downloaded_again(self, models: Any, python: Any) -> None:
        models.faults.corrupted = {"tokenizer.json": 1}
        assert build(python, models.url).startswith("280 </s> [")

    def test_wrong_bytes_each_time_are_refused_and_deleted(self, models: Any, python: Any) -> None:
        models.faults.corrupted = {"tokenizer.json": 3}
        said = build(python, models.url)
        assert said.startswith(
            "error: tokenizer.json of someone/something arrived with the wrong bytes. It was downloaded 3 times"
        )
        assert build(python, models.url).startswith("280 </s> [")


class TestCommands:
    """`tfs tokenizer` with a tokenizer of the Hub."""

    MAIN = ("-c", "from tfs_core.cli.main import main; main()", "tokenizer")
    HUB = "{name: hub, repository: someone/something}"

    def test_analyze_compare_and_pretokenize(self, models: Any, python: Any, tmp_path: Path) -> None:
        (tmp_path / "stories.txt").write_text(TEXT * 50, encoding="utf-8")
        data = "{name: text, path: stories.txt}"
        compared = python(*self.MAIN, "compare", self.HUB, "byte", "--data", data, "--json", endpoint=models.url)
        rows = json.loads(compared.output)["tokenizers"]
        assert [(row["vocab_size"], row["lossless"]) for row in rows] == [(280, True), (257, True)]
        analyzed = python(*self.MAIN, "analyze", data, "--tokenizer", self.HUB, endpoint=models.url)
        assert analyzed.exit_code == 0, analyzed.errors
        assert self.HUB in analyzed.output
        written = python(*self.MAIN, "pretokenize", data, self.HUB, endpoint=models.url)
        assert written.exit_code == 0, written.errors
        assert "a run with this data set and tokenizer uses it" in written.output


def test_huge_file_of_a_repository_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = SimpleNamespace(size=LARGEST_FILE + 1, etag="")
    monkeypatch.setattr(hub_tokenizer, "get_hf_file_metadata", lambda _url: huge)
    monkeypatch.setattr(hub_tokenizer, "hf_hub_download", None)
    monkeypatch.setattr(hub_tokenizer, "can_reach", lambda _address: True)
    with pytest.raises(
        DataError, match=r"tokenizer_config\.json of a/b has more than 256 MiB, so it is not downloaded"
    ):
        hub_tokenizer.from_hub(("a/b",), revision="main", offline=False, ways_out="")
