"""`tfs replay BUNDLE`: repeat a step whose loss or gradient was not finite, and show where its numbers go wrong.

The trainer writes the bundle (`tfs_core.step_bundle`). The step is repeated in float32, bfloat16 and float64, each time
with a newly built model. `replay` is the main flow; the other functions follow in the order in which it calls them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfs_core.cli.trained import model_options
from tfs_core.contracts import IGNORED_TARGET, Batch, Tokenizer
from tfs_core.errors import CheckpointError, UsageError
from tfs_core.runs import CHECKPOINT_NAME, assets_folder, find_run, is_inside
from tfs_core.terminal import say

if TYPE_CHECKING:
    from tfs_lab.step_recording import Record, RepeatedStep

DTYPES = ("float32", "bfloat16", "float64")
REFERENCE = "float64"

ROUNDING = {"float32": 256 * 2.0**-23, "bfloat16": 16 * 2.0**-7}
"""Relative difference from float64 that rounding explains: several times the largest one measured in steps without
problems, of all three models. The second factor is the distance between 1 and the next larger number."""

NEGLIGIBLE = 1e-3
"""Share of the largest gradient's norm: the differences of smaller gradients are relative to this share, because some,
such as that of a key's bias under softmax, are zero but for rounding."""

MOST_SHOWN = 8
"""Number of rows in each table for people; `--json` has all."""

TEXT_SHOWN = 80
"""Number of characters shown of a document."""


@click.command()
@click.argument("target", metavar="BUNDLE|RUN")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@model_options
def replay(
    target: str,
    as_json: bool,
    model: str | None,
    device: str,
    assets: str | None,
    allow_local_code: bool,
) -> None:
    """Repeat a step whose loss or gradient was not finite, and show where its numbers go wrong.

    BUNDLE is the folder that the error message names, in `nonfinite` of the run's folder; RUN stands for the newest one
    of a run. The step is repeated in float32, bfloat16 and float64. Shown are the first modules with numbers that are
    not finite, those where float32 and bfloat16 differ from float64 by more than rounding explains, and the documents.
    """
    from tfs_core.checkpoint import read_state
    from tfs_core.trained import load_model
    from tfs_lab.step_recording import repeat_step

    folder = assets_folder(assets)
    bundle = find_bundle(target, folder)
    loaded = load_model(bundle, assets=folder, device=device, model=model, allow_local_code=allow_local_code)
    if loaded.device == "mps":
        raise UsageError("the device mps has no float64, which the others are compared with: add --device cpu")
    state = read_state(bundle, shape=bundle_shape())
    batches = read_batches(bundle, vocab_size=loaded.tokenizer.vocab_size)
    dropout = loaded.model.config.dropout
    steps = [repeat_step(loaded, state, batches, dtype=dtype, dropout=dropout) for dtype in DTYPES]
    compared = steps
    if dropout:  # number formats may draw different masks
        compared = [repeat_step(loaded, state, batches, dtype=dtype, dropout=0.0) for dtype in DTYPES]
    parameters = loaded.model.named_parameters()
    replayed = Replayed(
        bundle=bundle,
        state=state,
        model=loaded.config.model.name,
        dtype=loaded.model.config.dtype,
        dropout=dropout,
        device=loaded.device,
        batches=batches,
        nonfinite_parameters=[name for name, tensor in parameters if not bool(tensor.isfinite().all())],
        steps=steps,
        differences=list(differences(*compared)),
        documents=documents(state["documents"], batches, loaded.tokenizer),
    )
    if as_json:
        say(json.dumps(replayed.as_values(), allow_nan=False))
    else:
        for line in replayed.as_lines():
            say(line)


def find_bundle(target: str, assets: Path) -> Path:
    """Return the folder of a bundle, given itself or the run that has it. Raises CheckpointError when there is none."""
    path = Path(target)
    if CHECKPOINT_NAME.fullmatch(path.name):
        is_checkpoint = (path / "optimizer.safetensors").exists()
        found = [] if is_checkpoint or not path.is_dir() else [path]
        where = f"{path} is {'a checkpoint, not a bundle' if is_checkpoint else 'no folder'}"
    else:
        run = find_run(target, assets)
        bundles = [it for it in sorted(run.folder.glob("nonfinite/*")) if CHECKPOINT_NAME.fullmatch(it.name)]
        found = [it for it in bundles if is_inside(it, run.folder)]
        where = f"the run '{run.name}' has no bundle"
    if not found:
        raise CheckpointError(
            f"{where}. A bundle is written to the folder 'nonfinite' of a run when the loss or the gradient of a step "
            "is not finite; the error message of the run names it."
        )
    return found[-1]


def bundle_shape() -> dict[str, Any]:
    """Return the shape of a bundle's `state.json` (see `tfs_core.stored_json`)."""
    from tfs_core.checkpoint import RUN_STATE

    return {
        **RUN_STATE,
        "nonfinite": {"attempted_step": int, "tensor": str, "loss": str, "grad_norm": str},
        "documents": [{"document": [int], "start": int, "stop": int}],
    }


def read_batches(bundle: Path, *, vocab_size: int) -> list[Batch]:
    """Return the micro-batches of a bundle, on the CPU. Raises CheckpointError for any other tensors."""
    import torch

    from tfs_core.tensor_files import read_tensors

    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, tensor in read_tensors(bundle / "batches.safetensors").items():
        index, _, field = name.partition("/")
        parts[index][field] = tensor
    batches = []
    for index in sorted(parts, key=lambda it: (len(it), it)):
        tensors = parts[index]
        fields, shapes = {*tensors}, {tuple(it.shape) for it in tensors.values()}
        known = {"input_ids", "target_ids"} <= fields <= {"input_ids", "target_ids", "document_ids"}
        if not known or len(shapes) > 1 or any(it.dtype != torch.int64 or it.dim() != 2 for it in tensors.values()):
            raise CheckpointError(f"{bundle}: micro-batch {index} in batches.safetensors is not one of this tfs")
        is_valid = tensors["target_ids"] != IGNORED_TARGET
        ids = torch.cat([tensors["input_ids"].flatten(), tensors["target_ids"][is_valid]])
        if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
            raise CheckpointError(f"{bundle}: micro-batch {index} has ids that are not in the vocabulary")
        batches.append(Batch(**tensors, valid_targets=int(is_valid.sum())))
    if not batches:
        raise CheckpointError(f"{bundle}: batches.safetensors has no micro-batch")
    return batches


@dataclass(frozen=True)
class Difference:
    """How far the tensors of a repeated step in float32 and bfloat16 are from float64, relative to the norm there."""

    record: Record  # in float64
    float32: float
    bfloat16: float

    @property
    def is_rounding(self) -> bool:
        """True if rounding explains both differences."""
        return all(getattr(self, dtype) <= most for dtype, most in ROUNDING.items())


def differences(float32: RepeatedStep, bfloat16: RepeatedStep, float64: RepeatedStep) -> Iterator[Difference]:
    """Iterate over the differences in order of execution, of tensors that are finite in all three number formats."""
    narrow = [{record.key: record for record in step.records} for step in (float32, bfloat16)]
    least: dict[str, float] = defaultdict(float)
    for record in float64.records:
        if record.kind != "output" and record.finite:
            least[record.kind] = max(least[record.kind], NEGLIGIBLE * record.norm)
    for reference in float64.records:
        found = [records.get(reference.key) for records in narrow]
        norm = max(reference.norm, least[reference.kind])
        if (
            norm
            and reference.finite
            and all(it and it.finite and len(it.sample) == len(reference.sample) for it in found)
        ):
            distances = [reference.norm_of(it.sample - reference.sample) / norm for it in found if it]
            yield Difference(reference, *distances)


def documents(
    parts: Sequence[Mapping[str, Any]], batches: Sequence[Batch], tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """Return the parts of documents of the step, each with its micro-batch, row and text, as JSON values.

    `parts` come in the order of the rows, and each has as many targets there as tokens. Without this correspondence,
    which a batching of one's own may not have, there is one entry for each row, with `document` null.
    """
    rows = [
        (index, row, [token for token in targets if token != IGNORED_TARGET])
        for index, batch in enumerate(batches)
        for row, targets in enumerate(batch.target_ids.tolist())
    ]
    place = [(index, row, token) for index, row, tokens in rows for token in tokens]
    found = []
    if sum(part["stop"] - part["start"] for part in parts) == len(place):
        for part in parts:
            own, place = place[: part["stop"] - part["start"]], place[part["stop"] - part["start"] :]
            if own:
                found.append({**part, "micro_batch": own[0][0], "row": own[0][1], "tokens": [it[2] for it in own]})
    else:
        found = [{"document": None, "micro_batch": index, "row": row, "tokens": tokens} for index, row, tokens in rows]
    return [{**it, "text": tokenizer.decode(it["tokens"][: 4 * TEXT_SHOWN])[:TEXT_SHOWN]} for it in found]


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """All that is shown of a repeated step."""

    bundle: Path
    state: Mapping[str, Any]
    model: str
    dtype: str
    dropout: float
    device: str
    batches: Sequence[Batch]
    nonfinite_parameters: list[str]
    steps: list[RepeatedStep]  # in the order of DTYPES
    differences: list[Difference]
    documents: list[dict[str, Any]]

    def as_values(self) -> dict[str, Any]:
        """Return the result as JSON values; numbers that are not finite are null."""
        return {
            "bundle": str(self.bundle),
            "run": self.state.get("run"),
            "step": self.state["nonfinite"]["attempted_step"],
            "recorded": {key: self.state["nonfinite"][key] for key in ("loss", "grad_norm", "tensor")},
            "model": self.model,
            "dtype": self.dtype,
            "dropout": self.dropout,
            "device": self.device,
            "micro_batches": [list(batch.input_ids.shape) for batch in self.batches],
            "nonfinite_parameters": self.nonfinite_parameters,
            "repeated": {step.dtype: _step_values(step) for step in self.steps},
            "differences": [
                {
                    **_record_values(it.record),
                    "float32": it.float32,
                    "bfloat16": it.bfloat16,
                    "rounding": it.is_rounding,
                }
                for it in self.differences
            ],
            "documents": [{key: value for key, value in it.items() if key != "tokens"} for it in self.documents],
        }

    def as_lines(self) -> Iterator[str]:
        """Iterate over the lines of the report."""
        recorded = self.state["nonfinite"]
        yield (
            f"Step {recorded['attempted_step']} of {self.state.get('run')}: loss {recorded['loss']}, gradient norm "
            f"{recorded['grad_norm']}; model {self.model} in {self.dtype}, micro-batches "
            f"{', '.join(str(list(batch.input_ids.shape)) for batch in self.batches)}; repeated on {self.device}"
        )
        if self.nonfinite_parameters:
            yield f"Weights that are not finite before the step: {_listed(self.nonfinite_parameters)}"
        yield from self._repeated_lines()
        yield from self._difference_lines()
        yield from self._document_lines()

    def _repeated_lines(self) -> Iterator[str]:
        yield ""
        yield from _table(
            [("", "loss", "gradient norm"), *((it.dtype, f"{it.loss:.6g}", f"{it.grad_norm:.4g}") for it in self.steps)]
        )
        for step in self.steps:
            yield f"\n{step.dtype}:"
            yield f"  forward: {_forward_sentence(step, self.nonfinite_parameters)}"
            yield f"  backward: {_backward_sentence(step)}"
        own = next(it for it in self.steps if it.dtype == self.dtype)
        if math.isfinite(own.loss) and math.isfinite(own.grad_norm):
            yield (
                f"\nIn {self.dtype}, the number format of the run, the repeated step is finite: the numbers that were "
                "not depend on something that is not repeated, such as the device, the kernels, a wrapper, or random "
                "numbers that are not from torch."
            )

    def _difference_lines(self) -> Iterator[str]:
        beyond = [it for it in self.differences if not it.is_rounding]
        without = ", without dropout" if self.dropout else ""
        yield f"\nRelative difference from {REFERENCE}{without}:"
        if not beyond:
            worst = [max((getattr(it, dtype) for it in self.differences), default=0.0) for dtype in ROUNDING]
            yield f"  rounding explains all of them: at most {worst[0]:.1e} in float32 and {worst[1]:.1e} in bfloat16"
            return
        cells = [("", "norm", "float32", "bfloat16")]
        for it in beyond[:MOST_SHOWN]:
            norm = f"{it.record.norm:.2e}"
            cells.append((_described(it.record), norm, f"{it.float32:.1e}", f"{it.bfloat16:.1e}"))
        yield f"  larger than rounding explains for {len(beyond)} of {len(self.differences)} tensors, first for:"
        yield from _table(cells)

    def _document_lines(self) -> Iterator[str]:
        """Iterate over the documents, those of rows with numbers that are not finite first."""
        wrong = {
            (record.micro_batch, row)
            for record in filter(None, (step.first_nonfinite("output") for step in self.steps))
            for row in record.rows
        }
        ordered = sorted(self.documents, key=lambda it: (it["micro_batch"], it["row"]) not in wrong)
        yield f"\nDocuments of the step ({len(ordered)}):"
        for it in ordered[:MOST_SHOWN]:
            mark = "*" if (it["micro_batch"], it["row"]) in wrong else " "
            name = (
                ""
                if it["document"] is None
                else f", document {'.'.join(map(str, it['document']))}, {it['start']}-{it['stop']}"
            )
            text = json.dumps(it["text"], ensure_ascii=False)
            yield f"{mark} micro-batch {it['micro_batch']}, row {it['row']}{name}: {text}"
        if wrong:
            yield "* a row with numbers that are not finite in the first such output"


def _step_values(step: RepeatedStep) -> dict[str, Any]:
    firsts = {kind: step.first_nonfinite(kind) for kind in ("output", "gradient", "parameter")}
    return {
        "loss": _finite(step.loss),
        "grad_norm": _finite(step.grad_norm),
        **{f"first_nonfinite_{kind}": record and _record_values(record) for kind, record in firsts.items()},
    }


def _record_values(record: Record) -> dict[str, Any]:
    return {
        "kind": record.kind,
        "name": record.name,
        "micro_batch": record.micro_batch,
        "call": record.call,
        "inputs_finite": record.inputs_finite,
        "rows": list(record.rows),
        "norm": _finite(record.norm),
        "largest": _finite(record.largest),
    }


def _forward_sentence(step: RepeatedStep, nonfinite_parameters: Sequence[str]) -> str:
    record = step.first_nonfinite("output")
    if record is None:
        outputs = [it for it in step.records if it.kind == "output" and it.numel > 1]  # without the loss
        largest = max(outputs, key=lambda it: it.largest, default=None)
        where = f"; the largest number is {largest.largest:.3g}, in the {_described(largest)}" if largest else ""
        return f"all outputs are finite{where}"
    own = [name for name in nonfinite_parameters if name.startswith(f"{record.name}.")]
    if own:
        why = f"its own {_listed(own)} is not finite"
    elif record.inputs_finite is False:
        before = step.before(record)
        why = "its input is not finite already" + (f", after the finite {_described(before)}" if before else "")
    else:
        why = "computed from finite inputs"
    rows = f", rows {_listed(list(map(str, record.rows)))}" if record.rows else ""
    return f"the first output that is not finite is the {_described(record)}{rows}: {why}"


def _backward_sentence(step: RepeatedStep) -> str:
    record = step.first_nonfinite("gradient")
    if record is not None:
        before = step.before(record)
        after = f", after the finite {_described(before)}" if before else ""
        return f"the first gradient that is not finite is the {_described(record)}{after}"
    record = step.first_nonfinite("parameter")
    if record is not None:
        return f"all gradients of outputs are finite; the first that is not is the {_described(record)}"
    if not math.isfinite(step.grad_norm):
        return "all gradients are finite, but too large for their norm"
    return "all gradients are finite"


def _described(record: Record) -> str:
    words = {"output": "output of", "gradient": "gradient of the output of", "parameter": "gradient of the parameter"}
    call = f", call {record.call + 1}" if record.call else ""
    place = f" (micro-batch {record.micro_batch}{call})" if record.kind != "parameter" else ""
    return f"{words[record.kind]} {record.name}{place}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _table(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip_longest(*cells, fillvalue="")]
    for line in cells:
        first, *others = (
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join(["", first, *others])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
