"""Mutations of files: values in JSON and YAML, binary headers, bytes, and the kind of the file itself."""

import ast
import json
import os
import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

LONG_LINE_BYTES = 200 << 20
ESCAPES = "\x1b]0;x\x07\x1b[31m\x9b31m\u202e"

NAMES = (
    *("", ".", "-", "..", "/", "../canary/made", "../../../../canary/made", "canary/../../canary", "x" * 100_000),
    *(ESCAPES, "\udcff", "./model.py:Model", "C:\\x", "a\nb", "NaN", "1e5", "2020-01-01", "best", "step-00000004"),
)
"""Hostile strings."""

LITERALS = (
    *("0", "1", "-1", "-0.0", "0.5", "1e308", "-1e308", "1e999", "-1e999", "1e-400", "NaN", "-Infinity", "9" * 5000),
    *("2147483648", "9223372036854775808", "18446744073709551616", "100000000000", "null", "true", "[]", "{}", "[{}]"),
    *("[" * 100_000, "[" * 100_000 + "]" * 100_000, "[" * 200 + "]" * 200, '{"a": {"b": [1, "x"]}}', "[[1], [2]]"),
    *(r'"\ud800"', r'"\u0000"', *map(json.dumps, NAMES)),
)
"""Hostile values as JSON, some of them invalid."""

YAML_LITERALS = (
    *("!!python/object/apply:os.system [touch executed]", "&a [*a]", "&a {b: *a}", "0x" + "f" * 6000, "2020-01-01"),
    *(".nan", "-.inf", "1:2:3", "!!binary =", "!!timestamp x", "|", "\t- x", "{<<: [1]}", "{1: 2, null: 3}", "*a", "%"),
    "[&a [1, 1, 1, 1], "
    + ", ".join(f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]",
)
"""Hostile values as YAML only: tags, anchors, an exponential expansion of aliases."""

SHAPES = ("(0,)", "(1,)", "(-1,)", "(10**12,)", f"({2**40},)", f"({2**63},)", "(3, 3)", "()", "'x'", "(None,)", "[7]")
DTYPES = ("'|O'", "'<f8'", "'<u8'", "'<i2'", "'|S999999999'", "'|V0'", "[('a', '<i2')]", "'x\x1b[31m'", "7", "'>u2'")


class Mutator:
    """Mutates values and files. The same random state makes the same mutations; `notes` describes them."""

    def __init__(self, rng: random.Random, canary: Path) -> None:
        """`canary` is the folder outside of the case's own folder that links lead to."""
        self.rng = rng
        self.canary = canary
        self.notes: list[str] = []
        self.touched: list[Path] = []

    def note(self, text: str) -> None:
        """Add a line to the description of the case; very long values are shortened."""
        self.notes.append(text if len(text) < 300 else f"{text[:200]}... ({len(text):,} characters)")

    def file(self, path: Path, form: str) -> None:
        """Mutate a file of a form (json, yaml, ..., or a name in a file): its values, its bytes, or what kind it is."""
        roll = self.rng.random()
        if form == "kind" or roll < 0.15:
            self.kind(path)
            return
        self.touched.append(path)
        if roll < 0.3:
            form = "bytes"
        self.note(f"{path.name}, as {form}:")
        forms: dict[str, Callable[[bytes], bytes]] = {
            "json": self._json,
            "yaml": lambda data: self._tree(yaml.safe_load(data), "yaml"),
            "jsonl": self._jsonl,
            "safetensors": self._safetensors,
            "npy": self._npy,
            "name": lambda _: self.rng.choice(NAMES).encode("utf-8", "surrogatepass"),
            "bytes": self._bytes,
        }
        path.write_bytes(forms[form](path.read_bytes()))

    # Values

    def literal(self, form: str) -> str:
        """Return a hostile value as text."""
        return self.rng.choice(LITERALS + YAML_LITERALS if form == "yaml" else LITERALS)

    def _json(self, data: bytes) -> bytes:
        return self._tree(json.loads(data), "json")

    def _jsonl(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True) or [b"{}"]
        row = self.rng.randrange(len(lines))
        lines[row] = self._json(lines[row]) + b"\n"
        if self.rng.random() < 0.2:
            lines.insert(row, self.rng.choice(lines))
        return b"".join(lines)

    def _tree(self, root: Any, form: str) -> bytes:
        """Return a document with one to three mutated values, as text.

        Values that no Python object stands for, such as 1e999, are put in place of markers in the text.
        """
        box, holes = [deepcopy(root)], dict[str, str]()
        for number in range(self.rng.choice([1, 1, 1, 2, 3])):
            container, key = self._place(box)
            hole, child = f"hole-{number}-of-fuzz", container[key]
            change = self.rng.choice(
                ["hole"] * 6 + ["delete", "double", "rename", "swap", "wrap", "text", "newer", "nudge"]
            )
            if change == "hole":
                container[key], holes[hole] = hole, self.literal(form)
            elif change == "delete" and container is not box:
                del container[key]
            elif change == "double" and isinstance(container, dict):
                container[f"{hole}{key}"], holes[hole] = self._place(box)[1], ""
            elif change == "rename" and isinstance(container, dict):
                container[self.rng.choice(NAMES)] = container.pop(key)
            elif change == "swap":
                other, place = self._place(box)
                container[key] = deepcopy(other[place])
            elif change == "wrap":
                container[key] = self.rng.choice([[child], {str(key): child}])
            elif change == "text":
                container[key] = str(child)
            elif change == "newer" and isinstance(box[0], dict):
                box[0]["format_version"] = 2
            else:
                container[key] = child + 1 if isinstance(child, int) else self.rng.choice(NAMES)
            self.note(f"  {change} at {key!r} {holes.get(hole, '')}")
        text = yaml.safe_dump(box[0], sort_keys=False) if form == "yaml" else json.dumps(box[0])
        for hole, literal in holes.items():
            text = text.replace(f'"{hole}"' if literal and form == "json" else hole, literal)
        return text.encode("utf-8", "surrogatepass")

    def _place(self, root: Any) -> tuple[Any, Any]:
        """Return (container, key) of a value in a document. Each step down chooses among all children alike."""
        container, key = root, 0
        while (child := container[key]) and isinstance(child, dict | list) and self.rng.random() < 0.8:
            container, key = child, self.rng.choice([*child] if isinstance(child, dict) else range(len(child)))
        return container, key

    # Bytes and headers

    def _bytes(self, data: bytes) -> bytes:
        start = self.rng.randrange(len(data) + 1)
        stop = min(len(data), start + self.rng.choice([1, 2, 8, 100, 10_000]))
        odd = [b"", b"\0", b"\n", b"\xff", b"\xed\xa0\x80", b"\x1b[31m", b"\xef\xbb\xbf", b"[" * 100_000, b'"', b"\\"]
        new = self.rng.choice([*odd, data[start:stop] * 3, data[:start][::-1], self.rng.randbytes(8)])
        self.note(f"  bytes {start} to {stop} become {new!r}")
        return data[:start] + new + (data[stop:] if self.rng.random() < 0.8 else b"")

    def _safetensors(self, data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header, body = data[8 : 8 + length], data[8 + length :]
        part = self.rng.choice(["header", "header", "header", "length", "body"])
        if part == "header":
            header = self._json(header)
            length = len(header)
        elif part == "length":
            length = self.rng.choice([0, 1, length - 1, length + 1, 100 << 20, 2**63, 2**64 - 1])
            self.note(f"  the length of the header becomes {length}")
        else:
            body = self.rng.choice([b"", body[:-1], body + b"x", b"\xff" * len(body), body[::-1], b"\0" * len(body)])
            self.note(f"  the data becomes {body[:8]!r}... of {len(body)} bytes")
        return length.to_bytes(8, "little") + header + body

    def _npy(self, data: bytes) -> bytes:
        length = int.from_bytes(data[8:10], "little")
        header, body = ast.literal_eval(data[10 : 10 + length].decode("latin1")), data[10 + length :]
        values = {key: repr(value) for key, value in header.items()}
        key = self.rng.choice(["shape", "descr", "fortran_order", "more", "body"])
        if key == "body":
            body = self.rng.choice([b"", body[:-1], b"\xff" * len(body), b"\0" * len(body), body[::-1]])
        else:
            odd = {"shape": SHAPES, "descr": DTYPES, "fortran_order": ("True", "7"), "more": ("1", "[" * 3000)}
            values[key] = self.rng.choice(odd[key])
        self.note(f"  {key} becomes {values.get(key, body[:8])!r}")
        text = ("{" + ", ".join(f"{name!r}: {value}" for name, value in values.items()) + "}\n").encode()
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body

    # The kind of a file

    def kind(self, path: Path) -> None:
        """Make a file or a folder something else; see `become`."""
        kinds = ["copy", "secret", "outside", "dangling", "cycle", "fifo", "zero", "folder", "empty", "brackets"]
        self.become(path, self.rng.choice(kinds * 2 + ["long"]))

    def become(self, path: Path, kind: str) -> None:
        """Replace a file or a folder by a link, a pipe, a device, something empty, or something far too long."""
        self.note(f"{path.name} becomes: {kind}")
        self.touched.append(path)
        if kind == "copy":  # a link to a copy outside, which is whole
            target = self.canary / f"copy-{path.name}"
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        links = {
            "copy": self.canary / f"copy-{path.name}",
            "secret": self.canary / "secret.txt",
            "outside": self.canary,
            "dangling": self.canary / "made",
            "cycle": Path(path.name),
            "zero": Path("/dev/zero"),
        }
        if kind in links:
            path.symlink_to(links[kind])
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
            (path / "x").write_bytes(b"")
        else:
            content = {"empty": b"", "brackets": b"[" * 100_000, "long": b'{"x": "' + b"x" * LONG_LINE_BYTES}[kind]
            path.write_bytes(content)
