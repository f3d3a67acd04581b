"""All commands, options, links, files and make targets in README and docs exist."""

import re
import shlex
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import click
import pytest

from tfs_core.cli.main import tfs

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md"), *ROOT.glob("*/README.md")]
)
COMMAND = re.compile(r"(?:^ {4}|`|\$ )(tfs [a-z][^`\n#]*)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
FILE = re.compile(r"\b((?:configs|benchmarks|docs|tfs_core|plugins)/[\w./-]+\.(?:yaml|py|md))\b")
MAKE_TARGET = re.compile(r"(?:^ {4}|`)make ([a-z-]+)", re.MULTILINE)


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the click command that the words name, and the remaining words."""
    context = click.Context(tfs, info_name="tfs")
    command: click.Command = tfs
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            break
        context = found.make_context(words[0], [], parent=context, resilient_parsing=True)
        command, words = context.command, words[1:]
    return command, words


@pytest.mark.parametrize("pattern", [COMMAND, LINK, FILE, MAKE_TARGET], ids=["command", "link", "file", "make target"])
def test_pattern_finds_those_of_the_readme(pattern: re.Pattern[str]) -> None:
    assert len(pattern.findall(text_of(ROOT / "README.md"))) >= 3


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_in_the_docs_exist_with_their_options(page: Path) -> None:
    for line in COMMAND.findall(text_of(page)):
        try:
            words = shlex.split(line.replace("…", "").replace("[", " ").replace("]", " "))[1:]
        except ValueError:
            words = line.split()[1:]
        if not words or words[0].isupper():
            continue
        command, rest = find_command(words)
        assert command is not tfs, f"{page_id(page)}: `{line.strip()}` names no command"
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in rest:
            if re.fullmatch(r"--[a-z][a-z-]*", word):
                assert word in options, f"{page_id(page)}: `{line.strip()}`: {word} is no option of {command.name}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_targets_of_links_exist(page: Path) -> None:
    for target in LINK.findall(text_of(page)):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page_id(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    for name in FILE.findall(text_of(page)):
        assert (ROOT / name).exists() or (page.parent / name).exists(), f"{page_id(page)} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_in_the_docs_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for target in MAKE_TARGET.findall(text_of(page)):
        assert target in targets, f"{page_id(page)}: make {target}"


def test_every_phony_make_target_has_a_rule() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_python_in_the_readme_runs(tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code
    for block in code:
        script = tmp_path / "readme.py"
        script.write_text(block.replace('"configs/', f'"{ROOT.as_posix()}/configs/'), encoding="utf-8")
        subprocess.run([sys.executable, script], check=True, cwd=tmp_path, capture_output=True, timeout=300)


def test_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_first_screen_of_the_readme_has_the_picture_the_samples_and_the_commands() -> None:
    first_screen, _, _ = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## ")
    assert first_screen.count("\n") <= 60
    [picture] = re.findall(r"!\[[^]]+\]\(([^)]+\.png)\)", first_screen)
    assert 10_000 < (ROOT / picture).stat().st_size < 200_000
    assert first_screen.count("```text") == 2, "before and after training"
    assert "    make demo" in first_screen
    assert "    make test" in first_screen
    unexplained, _, _ = first_screen.partition("**bits per byte**: the loss in bits, divided by the number of bytes")
    assert unexplained != first_screen
    assert "bits per byte" not in unexplained.lower(), "explained where it first appears"


def test_readme_of_the_plugins_lists_every_folder() -> None:
    text = (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
    folders = [path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")]
    assert folders
    assert [name for name in folders if f"| [{name}]({name}/README.md) |" not in text] == []


def test_demo_installs_no_tool_of_the_tests() -> None:
    def lines(name: str) -> set[str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        return {line.partition("[")[0] for line in text.splitlines() if line.startswith("-")}

    demo = (ROOT / "requirements-demo.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith(("#", "-e ", "-c ")) for line in demo), "only tfs's own distributions"
    assert lines("requirements-demo.txt") <= lines("requirements-dev.txt")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "demo: $(DEMO_READY)" in makefile
    assert "-r requirements-demo.txt" in makefile


@pytest.fixture
def generated() -> ModuleType:
    """Return docs/generated.py as a module."""
    spec = spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_diff_shows_every_line_but_docstrings(
    generated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    same = "".join(f"        step_{number}()\n" for number in range(20))
    sources = {
        "one": f'class A:\n    """A."""\n\n    def run(self):\n        """Run.\n\n        Long.\n        """\n'
        f"        begin()\n{same}        return 1\n\n\nb = 2\n",
        "two": f'class A(B):\n    def run(self):\n        """Run."""\n        begin()\n{same}        return 2\n',
    }
    for name, text in sources.items():
        (tmp_path / "plugins" / name).mkdir(parents=True)
        (tmp_path / "plugins" / name / "model.py").write_text(text, encoding="utf-8")
    expected = ["--- one/model.py:A", "+++ two/model.py:A", "-class A:", "+class A(B):", "     def run(self):"]
    expected += ["         begin()", *(f"         step_{number}()" for number in range(20))]
    expected += ["-        return 1", "+        return 2"]
    assert generated.diff("one/model.py:A", "two/model.py:A").strip("\n").splitlines()[1:-1] == expected
    assert generated.source("two/model.py:A.run")[:2] == ["def run(self):", "    begin()"]


def test_table_of_the_plugins_has_a_row_for_every_folder(generated: ModuleType) -> None:
    rows = re.findall(r"^\| \[([\w-]+)\]\(\1/README\.md\) \| ", generated.plugin_table(), re.MULTILINE)
    folders = [path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")]
    assert folders
    assert sorted(rows) == sorted(folders)
