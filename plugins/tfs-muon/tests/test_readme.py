"""The README names every option, and its links lead to files."""

import dataclasses
import re
from pathlib import Path

from tfs_muon.config import MuonConfig

PLUGIN = Path(__file__).parent.parent
README = (PLUGIN / "README.md").read_text(encoding="utf-8")
OPTIONS = README.partition("## Against AdamW")[0]


def test_readme_names_every_option() -> None:
    cells = re.findall(r"^\| (`.*`) \|", OPTIONS, flags=re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == {field.name for field in dataclasses.fields(MuonConfig)}


def test_readme_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (PLUGIN / link).exists()] == []
