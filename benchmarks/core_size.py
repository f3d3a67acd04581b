"""The size of the core: lines of code (no blanks, comments or docstrings) and lines in all. `make check` prints it.

Run: python benchmarks/core_size.py; exit code 1 past the limit, which is where a new mechanism must replace an old one.
"""

import ast
import sys
from pathlib import Path

LIMIT = 5800
CORE = Path(__file__).parent.parent / "tfs_core"


def code_lines(source: str) -> int:
    """Return how many lines of a module hold code."""
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(1 for n, line in lines if line.strip() and not line.strip().startswith("#") and n not in documentation)


def main() -> None:
    """Print the size, and fail past the limit."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(CORE.rglob("*.py"))]
    code, total = sum(map(code_lines, sources)), sum(len(source.splitlines()) for source in sources)
    print(f"tfs_core: {code:,} lines of code, {total:,} in all, {len(sources)} files (limit: {LIMIT:,} of code)")
    sys.exit(code > LIMIT)


if __name__ == "__main__":
    main()
