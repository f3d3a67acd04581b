"""Mutation testing: do the tests of a module notice a small error in it?

    python tests/mutants.py                        300 seeded mutants, two at a time (make mutants)
    python tests/mutants.py --count 30 --seed 2    another sample
    python tests/mutants.py --only trainer         mutants of one module

A mutant is one small change: another comparison, operator, constant or condition, or a statement or a keyword argument
left out. It is planted in a copy of the repository, and the module's own tests run there until the first failure. A
mutant that no test notices survives: write a test, or list it in SURVIVORS with the reason why the change cannot be
observed.

DeMillo, Lipton & Sayward (1978), "Hints on Test Data Selection: Help for the Practicing Programmer",
https://doi.org/10.1109/C-M.1978.218136
"""

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parent.parent
TIMEOUT_SECONDS = 180  # a mutant that makes the tests hang is noticed

TESTS: dict[str, list[str]] = {
    "tfs_core/contracts.py": ["tests/core/test_capabilities.py", "tests/core/test_models.py"],
    "tfs_core/data/batches.py": ["tests/core/test_batches.py"],
    "tfs_core/data/documents.py": ["tests/core/test_data_documents.py", "tests/core/test_division.py"],
    "tfs_core/data/store.py": [
        "tests/core/test_store.py",
        "tests/core/test_data_prepare.py",
        "tests/core/test_durable.py",
    ],
    "tfs_core/checkpoint.py": ["tests/core/test_checkpoint.py", "tests/core/test_ranks.py"],
    "tfs_core/checkpoint_folder.py": ["tests/core/test_checkpoint.py", "tests/core/test_durable.py"],
    "tfs_core/resume.py": ["tests/core/test_resume_settings.py", "tests/test_resume.py"],
    "tfs_core/trainer.py": [
        "tests/core/test_trainer.py",
        "tests/core/test_trainer_parts.py",
        "tests/core/test_observers.py",
    ],
    "tfs_core/stored_json.py": ["tests/core/test_stored_json.py"],
    "tfs_core/origin.py": ["tests/test_what_decides_a_step.py"],
    "tfs_core/run_folder.py": ["tests/core/test_run_folder.py", "tests/core/test_durable.py"],
    "tfs_core/builtin/jsonl.py": ["tests/core/test_jsonl.py"],
    "tfs_core/evaluator.py": ["tests/core/test_evaluator.py"],
    "plugins/tfs-generate/tfs_generate/generation.py": ["plugins/tfs-generate/tests/test_generation.py"],
}
"""The modules that are mutated, and the tests of each."""

SURVIVORS: dict[str, dict[str, str]] = {
    "tfs_core/data/batches.py": {
        "self._permutation = lru_cache()(lambda epoch: Permutation(self.rows, seed=seed, epoch=epoch))": "cache size",
        "input_ids = np.full((len(rows), seq_len), self.end_of_text_id)": "int64 is NumPy's default",
        "stop = min(row + (2 << 16), (epochs + 1) * self.rows)": "the size of a block of rows",
        "stop = min(row + (1 << 17), (epochs + 1) * self.rows)": "the size of a block of rows",
        "stop = min(row + (1 << 16), (epochs + 2) * self.rows)": "a block may end in a later epoch",
    },
    "tfs_core/data/documents.py": {
        "skipping = True": "the first piece begins a document, which sets it",
        "canonical = json.dumps(values, sort_keys=True, separators=(',', ':'))": "ASCII is the default",
    },
    "tfs_core/data/store.py": {
        "header = {'descr': self._dtype.str, 'fortran_order': True, 'shape': (self.length,)}": "it has one dimension",
        "file.write(values.astype(self._dtype).tobytes())": "a copy of the same values",
        "file.write(values.astype(self._dtype, copy=True).tobytes())": "a copy of the same values",
    },
    "tfs_core/stored_json.py": {
        "content = b'' if state.st_size > limit else file.read(limit + 2)": "one byte more than allowed is enough",
        "if content.count(b'[') + content.count(b'{') >= MAX_DEPTH and _is_deep(value):": "a quick test, for speed",
        "def read_json(path: Path, shape: Any, *, limit: int=1 << 25, version: int | None=None) -> Any:": "the default",
        "MAX_DEPTH = 51": "the tests use the constant",
    },
    "tfs_core/origin.py": {
        "return sha256(read_bytes(file, limit=2 << 24)).hexdigest()": "a limit far above any source code",
        "return sha256(read_bytes(file, limit=1 << 25)).hexdigest()": "a limit far above any source code",
    },
    "tfs_core/builtin/jsonl.py": {
        "MAX_WAITING_BYTES = 1 << 25": "the tests use a smaller one",
        "RETRY_SECONDS = 11.0": "the tests use a shorter time",
    },
    "tfs_core/evaluator.py": {
        "bytes_of = None if byte_lengths is None else torch.from_numpy(np.asarray(byte_lengths))": (
            "torch sums every integer type in int64"
        ),
    },
    "plugins/tfs-generate/tfs_generate/generation.py": {
        "FEW_THREADS_UP_TO = 3 ** 26": "a threshold for speed alone",
        "FEW_THREADS_UP_TO = 2 ** 27": "a threshold for speed alone",
        "if values[-2] == values[-2]:": "more candidates, of which the same are returned",
        "candidates = (scores >= values[-2]).nonzero()[:, 0]": "the two are equal there",
    },
}
"""Equivalent mutants: module -> changed line, as `ast.unparse` writes it -> why the change cannot be observed."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
NOT_MUTATED = ("strict", "encoding", "newline", "indent")
"""Keyword arguments that are not mutated: checks of tfs itself, what differs on other operating systems only, and the
layout of JSON."""
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One small change of a module."""

    module: str
    line: int
    before: str  # the line that is changed, as `ast.unparse` writes it
    after: str
    source: str  # of the whole module, changed

    @property
    def reason(self) -> str | None:
        """The reason why the mutant is equivalent, None if it is not listed."""
        return SURVIVORS.get(self.module, {}).get(self.after)

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.before}  ->  {self.after}"


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """Iterate over the mutated forms of a node."""
    mutated = copy.deepcopy(node)
    match mutated:
        case ast.Compare(ops=[operator, *_]) if type(operator) in COMPARISONS:
            mutated.ops[0] = COMPARISONS[type(operator)]()
            yield mutated
        case ast.BinOp(left=left, op=op) if type(op) in OPERATORS and not isinstance(left, ast.Constant):
            mutated.op = OPERATORS[type(op)]()
            yield mutated
        case ast.AugAssign(op=op) if type(op) in OPERATORS:
            mutated.op = OPERATORS[type(op)]()
            yield mutated
        case ast.BoolOp(op=op):
            mutated.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield mutated
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call() | ast.BoolOp() as test) | ast.IfExp(test=test):
            mutated.test = ast.UnaryOp(ast.Not(), test)
            yield mutated
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
            mutated.func = ast.Name(FUNCTIONS[name])
            yield mutated
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
    if isinstance(node, ast.Call):
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is not None and keyword.arg not in NOT_MUTATED:
                without = copy.deepcopy(node)
                del without.keywords[index]
                yield without


def mutants_of(module: str) -> Iterator[Mutant]:
    """Iterate over all mutants of a module.

    Annotations, class decorators, messages of errors, `assert` and some keyword arguments (`NOT_MUTATED`) are not
    mutated.
    """
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    lines = ast.unparse(tree).splitlines()
    left_out: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [argument for argument in ast.walk(node.args) if isinstance(argument, ast.arg)]
            parts = [node.returns, *(argument.annotation for argument in arguments)]
        elif isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.ClassDef):
            parts = [*node.decorator_list]
        elif isinstance(node, ast.Raise):
            parts = [node.exc, node.cause]
        elif isinstance(node, ast.keyword):
            parts = [node] if node.arg in NOT_MUTATED else []
        elif isinstance(node, (ast.JoinedStr, ast.Assert)):
            parts = [node]
        left_out |= {id(it) for part in parts if part is not None for it in ast.walk(part)}
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            children = value if isinstance(value, list) else [value]
            for index, child in enumerate(children):
                if not isinstance(child, ast.AST) or id(child) in left_out:
                    continue
                for mutated in changed(child):
                    new = [*children[:index], mutated, *children[index + 1 :]] if isinstance(value, list) else mutated
                    setattr(parent, field, new)
                    source = ast.unparse(ast.fix_missing_locations(tree))
                    pairs = zip(lines, source.splitlines(), strict=True)
                    before, after = next((old.strip(), new.strip()) for old, new in pairs if old != new)
                    yield Mutant(module, getattr(child, "lineno", 0), before, after, source)
                    setattr(parent, field, value)


def environment_of(copied: Path) -> dict[str, str]:
    """Return the environment in which Python imports the copy's packages."""
    plugins = [path.parent for folder in ("plugins", "examples") for path in copied.glob(f"{folder}/*/pyproject.toml")]
    path = os.pathsep.join(map(str, [copied, *plugins]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def notices(copied: Path, mutant: Mutant | None, tests: list[str]) -> bool:
    """Return whether a test fails, in a copy of the repository with the mutant planted."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    original = ""
    if mutant is not None:
        original = (copied / mutant.module).read_text(encoding="utf-8")
        (copied / mutant.module).write_text(mutant.source, encoding="utf-8")
    try:
        run = subprocess.run(
            command, cwd=copied, env=environment_of(copied), capture_output=True, timeout=TIMEOUT_SECONDS
        )
        return run.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        if mutant is not None:
            (copied / mutant.module).write_text(original, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="modules whose path contains this")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    modules = [module for module in TESTS if arguments.only in module]
    if not modules:
        parser.error(f"--only {arguments.only}: no such module. Modules: {', '.join(TESTS)}")
    every = [mutant for module in modules for mutant in mutants_of(module)]
    lines = {(mutant.module, mutant.after) for mutant in every}
    for module in modules:
        for line in SURVIVORS.get(module, {}):
            if (module, line) not in lines:
                parser.error(f"SURVIVORS lists a line of {module} that no mutant has: {line}")
    chosen = random.Random(arguments.seed).sample(every, min(arguments.count, len(every)))
    print(f"{len(chosen)} of {len(every)} mutants of {len(modules)} modules", flush=True)
    started_at = time.monotonic()
    ignore = shutil.ignore_patterns(".git", ".venv", "assets", "__pycache__", ".*_cache")
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(arguments.jobs):
            copies.put(Path(shutil.copytree(ROOT, Path(folder) / f"copy{number}", ignore=ignore)))

        def judge(mutant: Mutant) -> bool:
            copied = copies.get()
            try:
                noticed = notices(copied, mutant, TESTS[mutant.module])
            finally:
                copies.put(copied)
            if not noticed:
                print(f"survived  {mutant}" + (f"  (equivalent: {mutant.reason})" if mutant.reason else ""), flush=True)
            return noticed

        unchanged = copies.get()
        for module in modules:
            if notices(unchanged, None, TESTS[module]):
                raise SystemExit(f"the tests of {module} fail without a mutant: {' '.join(TESTS[module])}")
        copies.put(unchanged)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            noticed = list(pool.map(judge, chosen))
    survivors = [mutant for mutant, was_noticed in zip(chosen, noticed, strict=True) if not was_noticed]
    unexplained = [mutant for mutant in survivors if mutant.reason is None]
    print(
        f"{len(chosen)} mutants, {len(survivors)} survived, {len(unexplained)} of them unexplained "
        f"({100 * len(unexplained) / max(1, len(chosen)):.1f} %), {time.monotonic() - started_at:.0f} s"
    )
    sys.exit(1 if unexplained else 0)


if __name__ == "__main__":
    main()
