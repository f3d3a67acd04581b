"""Console output: a progress bar on a terminal, plain lines elsewhere, escaped control characters."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tfs_core import progress
from tfs_core.builtin.console import ConsoleConfig, ConsoleLogger, build, duration, short
from tfs_core.contracts import RunContext
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord

INFO = {
    "model": "torch",
    "parameters": {"total": 912384, "without_embeddings": 846848},
    "flops_per_token": 5.9e6,
    "device": "cpu",
    "threads": 2,
    "matmul": "medium",
    "bigram_bits_per_byte": 2.46,
}


def context(info: Mapping[str, Any] = INFO, start_step: int = 0) -> RunContext:
    folder = Path("assets") / "runs" / "story"
    return RunContext(folder=folder, name="story", config={}, info=info, total_steps=20, start_step=start_step)


def step_record(step: int, **changes: Any) -> StepRecord:
    values = {
        "step": step,
        "epoch": 0,
        "tokens": 8192 * step,
        "flops": 1e12 * step,
        "elapsed_seconds": 2.0 * step,
        "loss": 3.5,
        "learning_rate": 3e-4,
        "grad_norm": 1.0,
        "tokens_per_second": 17180.1,
    }
    return StepRecord(**{**values, **changes})


def validation_record(step: int, loss: float) -> ValidationRecord:
    return ValidationRecord(
        step=step,
        tokens=1,
        flops=1.0,
        elapsed_seconds=1.0,
        loss=loss,
        perplexity=7.389,
        bits_per_byte=1.75,
        tokens_evaluated=9,
    )


def sample(prompt: str, text: str) -> SampleRecord:
    return SampleRecord(step=5, prompt=prompt, text=text, settings={})


class Shown:
    """A console logger, and its output so far."""

    def __init__(self, run: RunContext | None = None, *, every_seconds: float = 0.0, encoding: str = "utf-8") -> None:
        self._bytes = io.BytesIO()
        file = io.TextIOWrapper(self._bytes, encoding=encoding, newline="\n")
        config = ConsoleConfig(every_seconds=every_seconds)
        self.logger = ConsoleLogger(config, run or context(), Console(file=file, highlight=False))

    @property
    def text(self) -> str:
        return self._bytes.getvalue().decode(self.logger._console.encoding)


def test_start_summary_says_what_is_trained_and_on_what() -> None:
    shown = Shown()
    shown.logger.on_start()
    for fact in (
        "run story: model torch, 912,384 parameters (846,848 without embeddings), 5.9 MFLOPs a token",
        "on cpu, 2 threads, matmul medium",
        "to step 20, to beat: a bigram model's 2.4600 bits/byte",
        str(Path("assets") / "runs" / "story"),
    ):
        assert fact in shown.text


def test_start_summary_leaves_out_what_is_not_known() -> None:
    shown = Shown(context(info={"parameters": None, "device": None}, start_step=7))
    shown.logger.on_start()
    assert "None" not in shown.text
    assert "from step 7 to step 20" in shown.text


def test_step_line_has_loss_rate_speed_and_time_left() -> None:
    shown = Shown()
    shown.logger.on_step(step_record(1))
    shown.logger.on_step(step_record(6))
    first, last = shown.text.splitlines()
    assert first == "step 1/20  loss 3.5000  lr 3.00e-04  17.2k tok/s", "the time left is not known yet"
    assert last == "step 6/20  loss 3.5000  lr 3.00e-04  17.2k tok/s  0:28 left"


def test_plain_lines_come_at_their_interval_and_at_the_end() -> None:
    shown = Shown(every_seconds=3600.0)
    for step in range(1, 21):
        shown.logger.on_step(step_record(step))
    assert [line.split()[1] for line in shown.text.splitlines()] == ["1/20", "20/20"]


def test_last_step_of_a_run_that_ends_early_is_shown() -> None:
    shown = Shown(every_seconds=3600.0)
    for step in range(1, 8):
        shown.logger.on_step(step_record(step))
    shown.logger.on_end("stopped")
    assert "step 7/20" in shown.text


def test_validation_line_has_three_units_and_marks_the_best() -> None:
    shown = Shown()
    for step, loss in ((5, 2.0), (10, 2.5), (15, 1.5)):
        shown.logger.on_validation(validation_record(step, loss))
    first, worse, better = shown.text.splitlines()
    assert first == "validation at step 5: loss 2.0000, perplexity 7.39, 1.7500 bits/byte  * best so far"
    assert "best" not in worse
    assert better.endswith("* best so far")


def test_best_loss_of_an_earlier_session_counts() -> None:
    info = {**INFO, "summary": {"best_validation": {"step": 3, "loss": 1.0}}}
    shown = Shown(context(info, start_step=4))
    shown.logger.on_validation(validation_record(5, 2.0))
    assert "best" not in shown.text


def test_sample_is_shown_with_escaped_control_characters() -> None:
    shown = Shown()
    shown.logger.on_sample(sample("def [bold]", " f(x):\n\treturn [/red] \x1b[31m\x07\x9b2J \u202e :smile: {x}"))
    expected = "def [bold] f(x):\n        return [/red] \\x1b[31m\\x07\\x9b2J \\u202e :smile: {x}\n"
    assert shown.text == "sample at step 5:\n" + expected


def test_long_line_is_neither_wrapped_nor_cut() -> None:
    shown = Shown()
    shown.logger.on_sample(sample("", "word " * 100 + "end"))
    assert "word " * 100 + "end" in shown.text


def test_text_that_the_output_cannot_encode_is_escaped() -> None:
    shown = Shown(encoding="ascii")
    shown.logger.on_sample(sample("", "Grüße \U0001f40d"))
    assert "Gr\\xfc\\xdfe \\U0001f40d" in shown.text


def test_warning_event_is_shown_with_its_message() -> None:
    shown = Shown()
    shown.logger.on_event(EventRecord(at="", step=3, kind="warning", details={"message": "the disk is nearly full"}))
    shown.logger.on_event(EventRecord(at="", step=3, kind="resumed", details={"checkpoint": "step-00000003"}))
    assert shown.text.splitlines() == [
        "warning at step 3: the disk is nearly full",
        "resumed at step 3: checkpoint step-00000003",
    ]


def test_settings_changed_on_a_resume_are_told_in_words() -> None:
    shown = Shown()
    details = {"checkpoint": "step-00000003", "changed": {"training.max_steps": [4, 8], "tags": [[], ["long"]]}}
    shown.logger.on_event(EventRecord(at="", step=3, kind="resumed", details=details))
    assert shown.text == (
        "resumed at step 3: checkpoint step-00000003, training.max_steps 8 instead of 4, tags ['long'] instead of []\n"
    )


def test_quiet_leaves_out_the_steps_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "is_shown", False)
    shown = Shown()
    shown.logger.on_start()
    shown.logger.on_step(step_record(1))
    shown.logger.on_validation(validation_record(1, 1.25))
    shown.logger.on_sample(sample("def", " f"))
    shown.logger.on_event(EventRecord(at="", step=1, kind="warning", details={"message": "nearly full"}))
    shown.logger.on_end("finished")
    for line in ("run story: model torch", "validation at step 1", "def f", "nearly full", "run story finished"):
        assert line in shown.text
    assert "step 1/20" not in shown.text


def test_end_summary_says_status_work_done_and_the_best() -> None:
    shown = Shown()
    shown.logger.on_step(step_record(20))
    shown.logger.on_validation(validation_record(20, 1.25))
    shown.logger.on_end("finished")
    assert shown.text.splitlines()[-2:] == [
        "run story finished at step 20, 164k tokens, 20 TFLOPs, 0:40, best validation loss 1.2500 at step 20",
        "  1.7500 bits/byte on the validation text; a bigram model: 2.4600",
    ]


def test_negative_interval_is_rejected() -> None:
    with pytest.raises(ValueError, match="every_seconds must be at least 0, not -1"):
        ConsoleConfig(every_seconds=-1)


def test_build_writes_to_standard_output_only(capsys: pytest.CaptureFixture[str]) -> None:
    logger = build(ConsoleConfig(), run=context())
    logger.on_start()
    logger.on_end("finished")
    captured = capsys.readouterr()
    assert "run story" in captured.out
    assert captured.err == ""


def test_forced_color_makes_no_progress_bar_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = Shown()
    shown.logger.on_start()
    shown.logger.on_step(step_record(1))
    shown.logger.on_end("finished")
    assert "step 1/20" in shown.text
    assert "\r" not in shown.text


INTO_A_PIPE = """
import sys
from test_console import context, step_record
from tfs_core.builtin.console import ConsoleConfig, build
from tfs_core.loggers import Loggers
loggers = Loggers([build(ConsoleConfig(every_seconds=0.0), run=context())], lambda line: print(line, file=sys.stderr))
loggers.on_start()
sys.stdin.readline()
for step in range(1, 21):
    loggers.on_step(step_record(step))
print("trained to the end", file=sys.stderr)
"""


def test_closed_output_does_not_end_the_run() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", INTO_A_PIPE], stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    ) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline().startswith(b"run story")
        run.stdout.close()
        run.stdin.write(b"go on\n")
        run.stdin.close()
        reported, end = run.stderr.read().decode().splitlines()
    assert "ConsoleLogger failed and was removed: BrokenPipeError" in reported
    assert end == "trained to the end"
    assert run.returncode == 0


@pytest.fixture(autouse=True)
def called_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "is_shown", None)  # a command called in another test may have set it


ON_A_TERMINAL = """
from test_console import context, step_record, validation_record, sample
from tfs_core.builtin.console import ConsoleConfig, build
from tfs_core.terminal import say
logger = build(ConsoleConfig(), run=context())
logger._interval = 0.0
logger.on_start()
for step in range(1, 20):
    logger.on_step(step_record(step, **CHANGES))
say("a warning on stderr", err=True)
logger.on_validation(validation_record(19, 1.25))
logger.on_sample(sample("def", " f\\x1b[2J"))
logger.on_end("stopped")
"""
BAR = "\u2501"

needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")


def on_a_terminal(columns: int, **changes: Any) -> str:
    """Return what a run prints on a terminal of this width; `changes` are of its step records."""
    import pty

    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "PYTHONPATH": str(Path(__file__).parent)}
    code = ON_A_TERMINAL.replace("CHANGES", repr(changes))
    with subprocess.Popen([sys.executable, "-c", code], stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        output = read_all(controller)
    assert process.returncode == 0, output
    return output


def drawn_and_left(output: str) -> tuple[list[str], list[str]]:
    """Return each line that was drawn over, and the lines left on the screen in the end, without colors."""
    drawn, left = [], [""]
    for part in re.split(r"(\r\n|\r\x1b\[2K|\r\x1b\[1A\x1b\[2K)", output):
        if part == "\r\n":
            left.append("")
        elif part.endswith("\x1b[2K"):
            drawn.append(left[-1])
            del left[-1 - part.count("\x1b[1A") :]
            left.append("")
        else:
            left[-1] += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", part)
    return drawn, left


@needs_terminal
def test_bar_on_a_terminal_has_lines_above_it_and_disappears() -> None:
    output = on_a_terminal(100)
    drawn, left = drawn_and_left(output)
    line = "step 19/20  loss 3.5000  lr 3.00e-04  17.2k tok/s  0:02 left"
    assert any(BAR in bar and bar.endswith(f" {line}") for bar in drawn)
    assert left[4:] == [
        "a warning on stderr",
        "validation at step 19: loss 1.2500, perplexity 7.39, 1.7500 bits/byte  * best so far",
        "sample at step 5:",
        "def f\\x1b[2J",
        line,
        "run story stopped at step 19, 156k tokens, 19 TFLOPs, 0:38, best validation loss 1.2500 at step 19",
        "  1.7500 bits/byte on the validation text; a bigram model: 2.4600",
        "",
    ]
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l"), "the cursor is shown again"


@needs_terminal
@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("loss", [3.5, 10.123])
def test_step_loss_and_time_left_fit_in_a_narrow_terminal(columns: int, loss: float) -> None:
    drawn, _ = drawn_and_left(on_a_terminal(columns, loss=loss))
    bars = [line for line in drawn if "19/20" in line]
    assert bars
    for bar in bars:
        assert f"loss {loss:.2f}" in bar
        assert bar.endswith("0:02 left")
        assert len(bar) <= columns - 4, "there is room for ^C"
        assert ("tok/s" in bar) == (columns >= 80)


def read_all(descriptor: int) -> str:
    chunks = []
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # on Linux: the other end of the pty is closed
            chunk = b""
        if not chunk:
            os.close(descriptor)
            return b"".join(chunks).decode()
        chunks.append(chunk)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (999.7, "1k"), (17180.1, "17.2k"), (1.5e9, "1.5G"), (2e18, "2E")],
)
def test_short_number_has_three_digits_and_a_letter(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (65, "1:05"), (59.9, "1:00"), (7207, "2:00:07"), (float("nan"), "?:??")]
)
def test_duration_reads_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
