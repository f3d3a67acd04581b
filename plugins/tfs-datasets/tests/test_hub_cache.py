"""The cache of Hugging Face `datasets` is used without a network."""

import errno
from pathlib import Path
from typing import Any

import pytest
from tfs_datasets.config import HubConfig, KnownHubConfig
from tfs_datasets.hub import Request, build_known
from tfs_datasets.hub_connection import hub_errors_explained

from tfs_core.errors import DataError

COMMIT = "0123456789" * 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder of `datasets` with two training stories and one for validation."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "roneneldan___tiny_stories" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    for name, text in {
        "tiny_stories-train-00000-of-00002": "one",
        "tiny_stories-train-00001-of-00002": "two",
        "tiny_stories-validation": "three",
    }.items():
        datasets.Dataset.from_dict({"text": [text], "id": [1]}).save_to_disk(str(tmp_path / "made" / name))
        (file,) = (tmp_path / "made" / name).glob("*.arrow")
        file.replace(folder / f"{name}.arrow")
    return folder


def build(assets: Path, **options: Any) -> Any:
    return build_known("tinystories", KnownHubConfig(**options), assets=assets, offline=True)


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_cached_set_is_read(cache: Path, tmp_path: Path, revision: str) -> None:
    stories = build(tmp_path, revision=revision)
    assert [list(stories.documents(split)) for split in stories.splits()] == [["one", "two"], ["three"]]
    assert stories.fingerprint() == build(tmp_path, revision=COMMIT).fingerprint()


@pytest.mark.parametrize("revision", ["f" * 40, "v1"])
def test_cached_set_of_another_revision_is_not_read(cache: Path, tmp_path: Path, revision: str) -> None:
    with pytest.raises(DataError, match=f"it is not in .*tfs datasets download tinystories --revision {revision}"):
        build(tmp_path, revision=revision)


def test_cached_set_of_which_a_split_is_missing_is_not_read(cache: Path, tmp_path: Path) -> None:
    (cache / "tiny_stories-validation.arrow").unlink()
    with pytest.raises(DataError, match="Three ways out"):
        build(tmp_path)


def test_cached_set_with_a_dead_link_is_not_read(cache: Path, tmp_path: Path) -> None:
    shard = cache / "tiny_stories-train-00001-of-00002.arrow"
    shard.unlink()
    try:
        shard.symlink_to(tmp_path / "gone")
    except OSError:
        pytest.skip("this system does not let us make links")
    with pytest.raises(DataError, match="Three ways out"):
        build(tmp_path)


def test_stream_does_not_read_the_cache_whose_files_are_not_the_repositorys(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Three ways out"):
        build(tmp_path, streaming=True)


def test_full_disk_is_not_blamed_on_the_hub() -> None:
    with (
        pytest.raises(DataError, match=r"o/name: the download cannot be written: .*No space left.*Make room"),
        hub_errors_explained("o/name", revision="main", config=None),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_request_names_the_download_arguments(tmp_path: Path) -> None:
    request = Request.of(HubConfig(path="o/name", config="one"), tmp_path)
    assert request.download_arguments == "o/name --config one"
