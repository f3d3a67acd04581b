"""True shape comments pass; each kind of error, and each unreached comment, is reported with its line."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
import torch
from tfs_lab.testing.shape_comments import ShapeReport, check_shape_comments

SIZES = {"batch": 2, "seq": 3, "width": 5}


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., ShapeReport]:
    """Return a function that checks source code by calling its `run()`."""

    def check(source: str, *, per_call: tuple[str, ...] = ()) -> ShapeReport:
        path = tmp_path / "commented.py"
        path.write_text("import torch\n" + dedent(source), encoding="utf-8")
        module = loaded(path)
        return check_shape_comments(module.run, [path], SIZES, per_call=per_call)

    return check


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("commented", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["commented"] = module
    spec.loader.exec_module(module)
    return module


TRUE = {
    "name": "x = torch.ones(2, 5)  # [batch, width]",
    "no dimension": "x = torch.tensor(1.0)  # []",
    "product": "x = torch.ones(2, 15)  # [batch, 3*width]",
    "two words": "x = torch.ones(6, 5)  # [batch*seq, width]",
    "sum and difference": "x = torch.ones(4, 4)  # [seq + 1, width - 1]",
    "quotient": "x = torch.ones(2)  # [width // batch]",
    "number": "x = torch.ones(2, 1)  # [batch, 1]",
    "any dimensions": "x = torch.ones(2, 3, 5)  # [..., width]",
    "text after it": "x = torch.ones(2, 5)  # [batch, width] as it came",
    "annotated": "x: torch.Tensor = torch.ones(2, 5)  # [batch, width]",
    "augmented": "x = torch.ones(2, 5)\n    x += torch.ones(5)  # [batch, width]",
    "item": "x = {}\n    x['a'] = torch.ones(2)  # [batch]",
    "slice": "x = torch.zeros(2, 5)\n    x[:, :3] = 1.0  # [batch, seq]",
    "two targets": "x, y = torch.ones(2), torch.ones(3)  # [batch], [seq]",
    "two targets with and": "x, y = torch.ones(2), torch.ones(3)  # [batch] and [seq]",
    "first of two targets": "x, y = torch.ones(2), None  # [batch]",
    "each of two targets": "x, y = torch.ones(2), torch.ones(2)  # each [batch]",
    "each of a list": "x = [torch.ones(2), torch.ones(2)]  # each [batch]",
    "each of a dict": "x = {'a': torch.ones(2)}  # each [batch] and so on",
    "several lines, comment last": "x = torch.ones(\n        2,\n        5,\n    )  # [batch, width]",
    "several lines, comment first": "x = torch.ones(  # [batch, width]\n        2,\n        5,\n    )",
    "hash in a string": "x = torch.ones(2, len('#[a]'), 1)  # [batch, 4, 1]",
    "loop variable": "for x in torch.ones(3, 2):  # [batch]\n        pass",
    "in a loop": "for _ in range(3):\n        x = torch.ones(2)  # [batch]",
    "in a with": "with torch.no_grad():\n        x = torch.ones(2)  # [batch]",
    "comprehension": "x = torch.stack(\n        [torch.ones(5) for _ in range(2)]\n    )  # [batch, width]",
    "reassigned": "x = torch.ones(2)  # [batch]\n    x = torch.ones(3)  # [seq]",
    "after an exception": (
        "x = torch.ones(3)\n    try:\n        x = torch.ones(0)[1]  # [batch]\n    except IndexError:\n"
        "        x = torch.ones(2)\n    x = torch.ones(2)  # [batch]"
    ),
}


@pytest.mark.parametrize("body", [text for name, text in TRUE.items() if name != "after an exception"], ids=str)
def test_true_comment_passes(report: Callable[..., ShapeReport], body: str) -> None:
    found = report(f"def run():\n    {body}\n")
    found.require()
    assert len(found.checked) == body.count("# [") + body.count("# each [")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("x = torch.ones(5, 2)  # [batch, width]", "'x' has shape [5, 2], its comment [batch, width] means [2, 5]"),
        ("x = torch.ones(2)  # [batch, width]", "'x' has shape [2], its comment [batch, width] means [2, 5]"),
        ("x = torch.ones(2)  # []", "'x' has shape [2], its comment [] means []"),
        ("x = torch.ones(2, 3)  # [..., width]", "'x' has shape [2, 3], its comment [..., width] means [2, 5]"),
        ("x, y = torch.ones(2), torch.ones(2)  # [batch], [seq]", "'y' has shape [2]"),
        ("x, y = torch.ones(2), torch.ones(2)  # [batch], [batch], [batch]", "3 shapes for 2 values"),
        ("x = torch.ones(2)\n    x = x + torch.ones(3, 1)  # [batch]", "'x' has shape [3, 2]"),
        ("x = torch.ones(\n        2,\n    )  # [seq]", "'x' has shape [2]"),
        ("x = torch.ones(2)  # [bach]", "no size was given for the word 'bach'"),
        ("x = torch.ones(2)  # [batch size]", "'batch size', which is no dimension"),
        ("x = torch.ones(2)  # [batch**1]", "'batch**1', which is no dimension"),
        ("x = [1, 2]  # [batch]", "'x' is a list, which has no shape"),
        ("for x in torch.ones(3, 2):  # [seq]\n        pass", "'x' has shape [2]"),
        ("x = [torch.ones(2), torch.ones(3)]  # each [batch]", "'x[1]' has shape [3]"),
        ("x = {'a': torch.ones(3)}  # each [batch]", "'x['a']' has shape [3]"),
        ("x, y = torch.ones(2), torch.ones(3)  # each [batch]", "'y' has shape [3]"),
        ("return torch.ones(2)  # [seq]", "'the returned value' has shape [2]"),
        ("return torch.ones(2), torch.ones(3)  # [batch], [batch]", "'the returned value' has shape [3]"),
        ("torch.ones(2).add_(1.0)  # [batch]", "this shape comment ends no assignment"),
    ],
)
def test_false_comment_is_told(report: Callable[..., ShapeReport], body: str, complaint: str) -> None:
    found = report(f"def run():\n    {body}\n")
    assert len(found.complaints) == 1
    assert complaint in found.complaints[0]
    with pytest.raises(AssertionError, match=r"commented\.py:\d+: "):
        found.require()


def test_complaint_names_the_line(report: Callable[..., ShapeReport]) -> None:
    found = report("def run():\n    x = torch.ones(2)  # [batch]\n    y = torch.ones(2)  # [seq]\n")
    assert "commented.py:4: 'y'" in found.complaints[0]


def test_comment_that_no_tensor_came_by_is_told(report: Callable[..., ShapeReport]) -> None:
    found = report("def run():\n    if False:\n        x = torch.ones(2)  # [batch]\n    y = None  # [seq]\n")
    assert [line.rpartition(": ")[2] for line in found.never_reached] == ["no tensor reached this shape comment"] * 2
    assert not found.complaints
    with pytest.raises(AssertionError, match=r"commented\.py:4"):
        found.require()


def test_statement_that_raised_is_not_held_against_the_old_value(report: Callable[..., ShapeReport]) -> None:
    found = report(f"def run():\n    {TRUE['after an exception']}\n")
    assert not found.complaints
    assert len(found.never_reached) == 1


def test_attribute_is_checked(report: Callable[..., ShapeReport]) -> None:
    found = report(
        """
        class Model:
            def __init__(self):
                self.weight = torch.ones(5, 2)  # [batch, width]

        def run():
            Model()
        """
    )
    assert "'self.weight' has shape [5, 2]" in found.complaints[0]


def test_parameter_is_checked_as_it_comes_in(report: Callable[..., ShapeReport]) -> None:
    found = report(
        """
        def double(
            x,  # [batch]
            y,  # [seq]
        ):
            x = torch.cat([x, x])
            return x

        def run():
            double(torch.ones(2), torch.ones(2))
        """
    )
    assert len(found.complaints) == 1
    assert "'y' has shape [2]" in found.complaints[0]


@pytest.mark.parametrize("header", ["class Cache(NamedTuple):", "@dataclass\nclass Cache:"])
def test_field_is_checked_on_every_instance_that_is_returned(report: Callable[..., ShapeReport], header: str) -> None:
    source = f"""
from dataclasses import dataclass
from typing import NamedTuple

{header}
    x: torch.Tensor  # [batch]
    inner: object = None

def forward(n):
    return torch.ones(1), [Cache(torch.ones(2), Cache(torch.ones(n)))]

def run():
    forward(2)
    forward(SECOND)
"""
    report(source.replace("SECOND", "2")).require()
    found = report(source.replace("SECOND", "3"))
    assert "'x' has shape [3]" in found.complaints[0]


def test_word_per_call_is_bound_anew_in_each_call(report: Callable[..., ShapeReport]) -> None:
    source = """
        def linear(x, weight):
            rows = x.flatten(0, -2)  # [n_rows, features_in]
            output = rows @ weight.T  # [n_rows, features_out]
            return WRONG

        def run():
            linear(torch.ones(2, 3, 5), torch.ones(7, 5))
            linear(torch.ones(7), torch.ones(4, 7)) if False else linear(torch.ones(2, 7), torch.ones(4, 7))
        """
    words = ("n_rows", "features_in", "features_out")
    report(source.replace("WRONG", "output"), per_call=words).require()
    found = report(source.replace("WRONG", "output.T  # [n_rows, features_out]"), per_call=words)
    assert "means [6, 7]" in found.complaints[0]


def test_recursion_keeps_calls_apart(report: Callable[..., ShapeReport]) -> None:
    report(
        """
        def shrink(x):
            y = x[1:]  # [n - 1]
            if len(y) > 1:
                z = shrink(y)
            whole = x  # [n]
            return whole

        def run():
            shrink(torch.ones(5))
        """.replace("y = x[1:]  # [n - 1]", "first = x  # [n]\n            y = x[1:]  # [n - 1]"),
        per_call=("n",),
    ).require()


def test_generator_is_checked_after_it_goes_on(report: Callable[..., ShapeReport]) -> None:
    source = """
        def double():
            x = torch.ones(3)  # [seq]
            x = yield x  # [batch]
            y = torch.cat([x, x])  # [2*batch]
            yield y

        def run():
            generator = double()
            next(generator)
            generator.send(torch.ones(SENT))
        """
    report(source.replace("SENT", "2")).require()
    assert "'x' has shape [3]" in report(source.replace("SENT", "3")).complaints[0]


def test_nested_function_and_property_of_the_same_name_are_kept_apart(report: Callable[..., ShapeReport]) -> None:
    report(
        """
        class Model:
            @property
            def weight(self):
                value = torch.ones(2)  # [batch]
                return value

            @weight.setter
            def weight(self, new):
                value = new + torch.ones(3)  # [seq]

        def run():
            def inner():
                with torch.no_grad():
                    return torch.ones(5)  # [width]
            inner()
            Model().weight = Model().weight[0]
        """
    ).require()


def test_comment_on_a_line_of_its_own_is_prose(report: Callable[..., ShapeReport]) -> None:
    found = report("def run():\n    # [1] Vaswani et al.\n    x = torch.ones(2)  # see [1]\n")
    assert not found.checked
    found.require()


def test_previous_tracer_is_put_back(report: Callable[..., ShapeReport]) -> None:
    before = sys.gettrace()
    with pytest.raises(ZeroDivisionError):
        report("def run():\n    return 1 // 0\n")
    assert sys.gettrace() is before


def test_torch_module_is_checked_by_its_own_file_only(report: Callable[..., ShapeReport]) -> None:
    report(
        """
        class Model(torch.nn.Module):
            def forward(self, x):
                y = torch.nn.functional.gelu(x)  # [batch, width]
                return y

        def run():
            Model()(torch.ones(2, 5))
        """
    ).require()
    assert torch.is_grad_enabled()
