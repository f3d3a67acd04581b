"""The short list of Mantine components matches the pages' use, and the pages are the same with it."""

import ast
import subprocess
import sys
from pathlib import Path

import tfs_dash
from tfs_dash.few_components import NEEDED

SOURCES = sorted(Path(tfs_dash.__file__).parent.rglob("*.py"))

PAGES = """
import sys
from pathlib import Path

if sys.argv[2] == "few":
    from tfs_dash import few_components
    few_components.load()

import dash_mantine_components as dmc
from plotly.utils import PlotlyJSONEncoder
from tfs_dash import create_app
from tfs_dash.page import installed_pages
from tfs_dash.store import RunStore
from tfs_dash.view import View

store = RunStore(Path(sys.argv[1]))
app = create_app(sys.argv[1])
print(len(dmc.__all__) < 20, file=sys.stderr)
for layout in (app.layout(), *(page.page.layout(View(group="tag"), store) for page in installed_pages())):
    print(PlotlyJSONEncoder().encode(layout))
print(sorted(dist["relative_package_path"] for dist in dmc.Select._js_dist))
"""


def pages(assets: Path, components: str) -> subprocess.CompletedProcess[str]:
    """Run a process that prints the layouts of all pages, and True on stderr if it has few components."""
    command = [sys.executable, "-c", PAGES, str(assets), components]
    return subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")


def test_list_is_what_the_pages_use() -> None:
    used = {
        node.attr
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dmc"
    }
    assert used == set(NEEDED)


def test_pages_are_the_same_with_few_components_and_with_all(tmp_path: Path) -> None:
    few, everything = pages(tmp_path, "few"), pages(tmp_path, "all")
    assert (few.stderr.split()[-1], everything.stderr.split()[-1]) == ("True", "False")
    assert few.stdout == everything.stdout
    assert "SegmentedControl" in few.stdout
