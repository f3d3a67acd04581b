"""Every test that docs/reliability.md names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
NAMED = re.compile(r"`((?:tests|plugins)/[\w./-]+\.py)::(\w+)`")


def rows() -> list[str]:
    """Return the rows of the table of promises, without its head."""
    promised = PAGE.read_text(encoding="utf-8").partition("## Not promised")[0]
    return [line for line in promised.splitlines() if line.startswith("| ")][1:]


def test_every_named_test_exists() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 30
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in ((ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else "")
    ]
    assert missing == []


def test_every_promise_names_its_proof() -> None:
    assert len(rows()) >= 15
    unproven = [row for row in rows() if not NAMED.search(row) and not re.search(r"`benchmarks/\w+\.py`", row)]
    assert unproven == []
