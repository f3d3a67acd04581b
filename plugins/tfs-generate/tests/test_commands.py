"""`tfs generate` and `tfs chat` on a small run: output, and errors for wrong use."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tfs_generate.generation
from click.testing import CliRunner, Result
from tfs_generate.generation import Sampling

import tfs_core
from tfs_core.cli.main import tfs
from tfs_core.runs import find_run

Invoke = Callable[..., Result]


def small_config(documents: Path) -> dict[str, Any]:
    """Return the configuration of a run that takes a second."""
    data = {
        "dataset": {"name": "text", "path": str(documents)},
        "tokenizer": "byte",
        "max_length": 16,
        "validation_fraction": 0.4,
    }
    return {
        "experiment_name": "tiny",
        "data": data,
        "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16},
        "training": {"batch_size": 4, "max_steps": 3, "learning_rate": 1e-2, "warmup_steps": 0},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with documents, and an assets folder with the run `tiny`."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "documents").mkdir()
    for i in range(8):
        (folder / "documents" / f"{i}.txt").write_text(f"document {i}: the cat sat on the mat. " * 3, encoding="utf-8")
    tfs_core.run(small_config(folder / "documents"), assets=folder / "assets")
    return folder


@pytest.fixture
def invoke(trained: Path) -> Invoke:
    """Return `invoke(*arguments, input=...)`, which calls tfs with the assets of `trained`."""

    def call(*arguments: str, **options: Any) -> Result:
        extra = () if "--assets" in arguments else ("--assets", str(trained / "assets"))
        return CliRunner().invoke(tfs, [*arguments, *extra], **options)

    return call


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the assets that a test may modify; its runs still refer to the documents of `trained`."""
    shutil.copytree(trained / "assets", tmp_path / "assets")
    return tmp_path / "assets"


def writes(monkeypatch: pytest.MonkeyPatch, *pieces: str | BaseException) -> None:
    """Replace the model's output by these pieces, for any prompt; an exception among them is raised."""

    def stream_text(*_arguments: object, **_options: object) -> Iterator[str]:
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    monkeypatch.setattr(tfs_generate.generation, "stream_text", stream_text)


def asks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Return a list that records the prompts and the sampling arguments of every call."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def stream_text(_model: object, _tokenizer: object, prompt: str, **options: Any) -> Iterator[str]:
        asked.append((prompt, options))
        yield "answer"

    monkeypatch.setattr(tfs_generate.generation, "stream_text", stream_text)
    return asked


# --- generate -----------------------------------------------------------------------------------------------------


def test_generate_prints_the_prompt_and_what_follows_and_nothing_else_on_stdout(invoke: Invoke) -> None:
    result = invoke("generate", "tiny", "--prompt", "the cat", "--seed", "1", "--max-length", "5")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("the cat")
    assert result.stdout.endswith("\n")
    assert result.stderr == ""


def test_generate_writes_the_same_for_the_same_seed(invoke: Invoke) -> None:
    def text(*options: str) -> str:
        return str(invoke("generate", "tiny", "--prompt", "a", "--temperature", "2", "--top-k", "0", *options).stdout)

    assert text("--seed", "1") == text("--seed", "1") != text("--seed", "2")


def test_generate_says_which_seed_writes_the_same_again(invoke: Invoke) -> None:
    result = invoke("generate", "tiny", "--prompt", "a")
    seed = result.stderr.split()[1].rstrip(":")
    assert invoke("generate", "tiny", "--prompt", "a", "--seed", seed).stdout == result.stdout


def test_generate_at_temperature_zero_needs_no_seed(invoke: Invoke) -> None:
    arguments = ("generate", "tiny", "--prompt", "a", "--temperature", "0")
    first, second = invoke(*arguments), invoke(*arguments)
    assert first.stdout.startswith("a")
    assert (first.stdout, first.stderr) == (second.stdout, "")


def test_generate_takes_a_checkpoint_and_needs_no_data(invoke: Invoke, copied: Path, tmp_path: Path) -> None:
    checkpoint = find_run("tiny", copied).latest
    assert checkpoint is not None
    shutil.move(checkpoint, tmp_path / "elsewhere")
    shutil.rmtree(copied)
    result = invoke("generate", str(tmp_path / "elsewhere"), "--prompt", "a", "--assets", str(copied))
    assert result.exit_code == 0, result.output


def test_generate_tells_of_an_empty_prompt(invoke: Invoke) -> None:
    assert "no prompt: a new text begins" in invoke("generate", "tiny", "--max-length", "1").stderr


def test_generate_tells_of_a_prompt_longer_than_the_context_and_prints_all_of_it(invoke: Invoke) -> None:
    result = invoke("generate", "tiny", "--prompt", "x" * 40, "--max-length", "1")
    assert "the prompt has 40 tokens and the model sees 16" in result.stderr
    assert result.stdout.startswith("x" * 40)


def test_generate_reads_a_prompt_from_stdin_without_its_last_newline(invoke: Invoke) -> None:
    result = invoke("generate", "tiny", "--prompt", "-", "--seed", "3", input="the\ncat é\n")
    assert result.stdout == invoke("generate", "tiny", "--prompt", "the\ncat é", "--seed", "3").stdout


def test_generate_refuses_a_prompt_on_stdin_that_is_not_utf8(invoke: Invoke) -> None:
    result = invoke("generate", "tiny", "--prompt", "-", input=b"abc\xff")
    assert result.exit_code == 2
    assert "not UTF-8 text: byte 3" in result.stderr


def test_generate_refuses_a_prompt_on_the_command_line_that_is_not_utf8(invoke: Invoke) -> None:
    as_python_hands_it_on = b"caf\xe9".decode("utf-8", errors="surrogateescape")
    result = invoke("generate", "tiny", "--prompt", as_python_hands_it_on)
    assert result.exit_code == 2
    assert "the prompt is not UTF-8 text: after 3 characters comes the byte 0xe9" in result.stderr


def test_generate_prints_brackets_and_escape_codes_harmlessly(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    writes(monkeypatch, "\x1b[31m[bold]", "x[/bold]\x07", "\r\n")
    result = invoke("generate", "tiny", "--prompt", "[red]\x1b]0;title\x07")
    assert result.stdout == "[red]\\x1b]0;title\\x07\\x1b[31m[bold]x[/bold]\\x07\\r\n\n"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--temperature", "-1"), 2, "temperature must be 0"),
        (("--temperature", "nan"), 2, "temperature must be 0"),
        (("--temperature", "warm"), 2, "'warm' is not a valid float"),
        (("--top-p", "2"), 2, "top-p is a probability"),
        (("--top-k", "-5"), 2, "top-k must be 0"),
        (("--max-length", "0"), 2, "'--max-length': 0 is not in the range"),
        (("--seed", "-1"), 2, "'--seed': -1 is not in the range"),
        (("--model", "torhc"), 1, "torch"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_wrong_options_are_refused_in_a_sentence(
    invoke: Invoke, command: str, options: tuple[str, ...], code: int, message: str
) -> None:
    result = invoke(command, "tiny", *options, input="")
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_missing_run_is_answered_with_the_nearest_name(invoke: Invoke, command: str) -> None:
    result = invoke(command, "tinny")
    assert result.exit_code == 1
    assert "There is no run 'tinny'" in result.stderr
    assert "Did you mean 'tiny'?" in result.stderr


def test_top_k_above_the_vocabulary_chooses_among_all(invoke: Invoke) -> None:
    texts = {invoke("generate", "tiny", "--seed", "5", "--top-k", top_k).stdout for top_k in ("0", "257", "99999")}
    assert len(texts) == 1


# --- chat ---------------------------------------------------------------------------------------------------------


def test_chat_answers_each_line_until_the_input_ends(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    writes(monkeypatch, "an ", "answer\x1b[0m")
    result = invoke("chat", "tiny", input="hello\n\nagain\n")
    assert result.exit_code == 0
    assert result.stdout == 2 * "an answer\\x1b[0m\n"


@pytest.mark.parametrize(
    "word", ["quit", "exit", "q", "QUIT", "/quit", "/exit", "/bye", "/q", ":q", "exit()", "quit()"]
)
def test_chat_is_left_with_a_word(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    writes(monkeypatch, "never")
    result = invoke("chat", "tiny", input=f"{word}\nhello\n")
    assert (result.exit_code, result.stdout) == (0, "")


def test_chat_settings_change_how_the_next_answers_are_written(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asks(monkeypatch)
    invoke("chat", "tiny", input="a\ntemp 0.5\ntopk 40\ntopp 0.9\nlength 7\nb\n")
    (first, before), (second, after) = asked
    assert (first, before["sampling"], before["max_length"]) == ("a", Sampling(), 100)
    assert (second, after["sampling"], after["max_length"]) == ("b", Sampling(temperature=0.5, top_k=40, top_p=0.9), 7)
    assert after["seed"] == before["seed"] + 1, "the same line twice is not answered alike"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("temp hot", "temp takes a number, not 'hot'"),
        ("temp -1", "temperature must be 0"),
        ("topk 1.5", "topk takes a whole number, not '1.5'"),
        ("topp 2", "top-p is a probability"),
        ("length 0", "length must be at least 1, not 0"),
    ],
)
def test_chat_goes_on_after_a_wrong_setting(invoke: Invoke, line: str, message: str) -> None:
    result = invoke("chat", "tiny", input=f"{line}\n{line.split()[0]}\n")
    assert result.exit_code == 0
    first, second = result.stderr.splitlines()
    assert message in first
    assert second in ("temp 0.8", "topk 50", "topp 1.0", "length 100"), "the setting is as it was"


def test_chat_goes_on_after_a_line_that_is_not_utf8(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["caf\udce9", "quit"])
    monkeypatch.setattr("builtins.input", lambda _prompt="": next(lines))
    result = invoke("chat", "tiny")
    assert result.exit_code == 0
    assert "the prompt is not UTF-8 text: after 3 characters comes the byte 0xe9" in result.stderr


def test_chat_help_names_every_command(invoke: Invoke) -> None:
    said = invoke("chat", "tiny", input="help\n").stderr
    assert all(word in said for word in ("temp", "topk", "topp", "length", "help", "quit", "exit", "q,", "Ctrl-D"))


@pytest.mark.parametrize("line", ["/help", "/?", "/HELP", ":help"])
def test_chat_help_of_other_programs_is_ours(invoke: Invoke, line: str) -> None:
    assert invoke("chat", "tiny", input=f"{line}\n").stderr == invoke("chat", "tiny", input="help\n").stderr


@pytest.mark.parametrize(
    "lines",
    [
        ["/temp 0.5", "/topk 40", "/topp 0.9", "/length 7"],
        ["/set temperature 0.5", "/set top_k 40", "/set top_p 0.9", "/set max_tokens 7"],
        ["/set parameter temperature 0.5", "/set parameter top_k 40", "/top-p 0.9", "/set parameter num_predict 7"],
    ],
)
def test_chat_settings_of_other_programs_are_ours(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    asked = asks(monkeypatch)
    result = invoke("chat", "tiny", input="\n".join([*lines, "/set", "/temperature", "b"]) + "\n")
    ((_, options),) = asked
    assert (options["sampling"], options["max_length"]) == (Sampling(temperature=0.5, top_k=40, top_p=0.9), 7)
    assert result.stderr.splitlines() == 2 * ["temp 0.5", "topk 40", "topp 0.9", "length 7"] + ["temp 0.5"]


def test_chat_says_that_there_is_nothing_to_clear(invoke: Invoke) -> None:
    assert "each line is continued on its own" in invoke("chat", "tiny", input="/clear\n").stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/hepl", "there is no command /hepl. Did you mean '/help'?"),
        ("/set temprature 1", "there is no command /temprature. Did you mean '/temperature'?"),
        ("/usr/bin", "To send the line as text, begin it with a space."),
        ("/temp 0.5 0.6", "/temp takes one value"),
        ("/quit now", "/quit takes no value"),
    ],
)
def test_chat_explains_a_command_that_it_does_not_know(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    asked = asks(monkeypatch)
    assert message in invoke("chat", "tiny", input=f"{line}\n").stderr
    assert asked == []


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        (" quit", "quit"),
        (" /help", "/help"),
        ("temp is the word", "temp is the word"),
        ("help me", "help me"),
        ("Q: a", "Q: a"),
        (":)", ":)"),
        ("// a comment", "// a comment"),
        ("bye", "bye"),
    ],
)
def test_chat_takes_what_is_no_command_as_text(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, line: str, prompt: str
) -> None:
    asked = asks(monkeypatch)
    invoke("chat", "tiny", input=f"{line}\n")
    assert [asked_prompt for asked_prompt, _ in asked] == [prompt]


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """Simulate these input lines; an exception stands for a key: KeyboardInterrupt for Ctrl-C, EOFError for Ctrl-D."""
    left = list(lines)

    def read(_prompt: str = "") -> str:
        line = left.pop(0)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)


def test_chat_ctrl_c_stops_the_answer_and_the_talk_goes_on(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    writes(monkeypatch, "begun", KeyboardInterrupt())
    typed(monkeypatch, "a", "b", EOFError)
    result = invoke("chat", "tiny")
    assert result.exit_code == 0
    assert result.stdout == "begun\nbegun\n"


def test_chat_ctrl_c_twice_leaves(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    writes(monkeypatch, "begun", KeyboardInterrupt())
    typed(monkeypatch, "a", KeyboardInterrupt, "never asked")
    assert invoke("chat", "tiny").exit_code == 0
    typed(monkeypatch, KeyboardInterrupt, KeyboardInterrupt, "never asked")
    assert invoke("chat", "tiny").exit_code == 0


def test_chat_ctrl_c_once_at_the_prompt_does_not_leave(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    writes(monkeypatch, "answer")
    typed(monkeypatch, KeyboardInterrupt, "a", KeyboardInterrupt, "b", EOFError)
    assert invoke("chat", "tiny").stdout == 2 * "answer\n"
