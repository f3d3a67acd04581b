"""`python-stdlib`: source code, the same in every run, without tests and generated tables."""

import ast
import platform
from pathlib import Path

import pytest
from tfs_datasets.python_library import PythonLibrary

from tfs_core.config.schema import Choice
from tfs_core.data.prepare import build_source
from tfs_core.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a small library with a file of every excluded kind."""
    for name in [
        "b.py",
        "a/__init__.py",
        "a/c.py",
        "a/test/test_c.py",
        "a/tests/test_c.py",
        "idlelib/run.py",
        "idlelib/idle_test/test_run.py",
        "encodings/cp037.py",
        "pydoc_data/topics.py",
        "site-packages/torch.py",
        "__pycache__/b.py",
        "_sysconfigdata__linux.py",
        "LICENSE.txt",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n", encoding="utf-8")
    (tmp_path / "latin.py").write_bytes(b"# na\xefve\n")
    return tmp_path


def test_library_is_source_files_in_the_order_of_their_names(folder: Path) -> None:
    found = list(PythonLibrary(folder).documents("train"))
    assert found == ["# a/__init__.py\n", "# a/c.py\n", "# b.py\n", "# idlelib/run.py\n"]


def test_library_has_the_same_text_for_any_line_ending(folder: Path) -> None:
    before = PythonLibrary(folder).fingerprint()
    (folder / "b.py").write_bytes(b"# b.py\r\n")
    assert PythonLibrary(folder).fingerprint() == before


def test_library_fingerprint_changes_with_any_document(folder: Path) -> None:
    before = PythonLibrary(folder).fingerprint()
    (folder / "b.py").write_text("# c.py\n", encoding="utf-8")
    assert PythonLibrary(folder).fingerprint() != before


def test_library_without_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no Python source in"):
        PythonLibrary(tmp_path)


def test_library_of_this_python_is_megabytes_of_source_code(tmp_path: Path) -> None:
    source = build_source(Choice("python-stdlib"), assets=tmp_path, offline=True)
    found = list(source.documents("train"))
    assert list(source.splits()) == ["train"]
    assert 5e6 < sum(map(len, found)) < 5e7
    assert any("def dataclass(" in document for document in found)
    assert not any("import unittest\nfrom test import support" in document for document in found)
    for document in found[:20]:
        ast.parse(document)
    assert platform.python_version() in source.description  # type: ignore[attr-defined]
