"""The page Samples: generated text for one prompt over steps and runs, and example text at each loss."""

from collections.abc import Mapping, Sequence

from dash import html

from tfs_dash import units
from tfs_dash.page import MakePart, Page
from tfs_dash.parts import Component, controls, empty, nothing_chosen, part, picker, slider, table
from tfs_dash.sounds import Sample, at_step, prompts, samples_by_loss, samples_of
from tfs_dash.store import RunData, RunStore
from tfs_dash.view import View, chosen_runs

MAX_STOPS = 200
"""With more sampled steps than this, the slider moves freely instead of snapping to them."""


def _chosen_prompt(view: View, offered: Sequence[str]) -> str:
    wanted = "" if view.prompt == " " else view.prompt
    return wanted if wanted in offered else next(iter(offered), "")


def side_by_side(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return one card per run: its last sample of the chosen prompt up to the chosen step."""
    if not runs:
        return nothing_chosen(store)
    samples = {run.name: samples_of(run) for run in runs}
    everything = [sample for found in samples.values() for sample in found]
    if not everything:
        return empty(
            "No samples yet",
            [
                "A run writes samples at each validation if its configuration has prompts: ",
                html.Code("--set \"samples.prompts=['Once upon a time']\""),
            ],
        )
    prompt = _chosen_prompt(view, prompts(everything))
    step = view.step or max(sample.step for sample in everything)
    return html.Div(
        [_card(name, at_step(found, prompt, step), prompt) for name, found in samples.items()], className="samples"
    )


def _card(name: str, sample: Sample | None, prompt: str) -> Component:
    if sample is None:
        return html.Section(
            [html.H2(name), html.P("No sample of this prompt up to this step.", className="note")], className="panel"
        )
    loss = f" · loss {units.loss(sample.loss)}" if sample.loss is not None else ""
    return html.Section(
        [
            html.H2(name),
            html.P(f"step {sample.step:,}{loss}", className="note"),
            html.Pre([html.B(prompt, className="prompt"), sample.text], tabIndex=0),
        ],
        className="panel",
    )


def sounds(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return a table of samples by loss, high to low, or None for fewer than two."""
    del store
    samples = [sample for run in runs for sample in samples_of(run)]
    prompt = _chosen_prompt(view, prompts(samples))
    found = samples_by_loss([sample for sample in samples if sample.prompt == prompt])
    if len(found) < 2:
        return None
    lines = [
        [
            units.loss(sample.loss),
            units.loss(sample.bits_per_byte),
            html.Pre(_one_line(prompt + sample.text)),
            html.Td(f"{sample.run}, step {sample.step:,}", className="whole"),
        ]
        for sample in found
    ]
    return html.Section(
        [
            html.H2("Samples by loss"),
            table(["loss", "bits per byte", "text", "from"], lines, caption="from the chosen runs: high loss to low"),
        ],
        className="panel",
    )


def _one_line(text: str, length: int = 140) -> str:
    flat = text.replace("\n", " ⏎ ")
    return flat if len(flat) <= length else flat[:length] + "…"


class SamplesPage(Page):
    """The page Samples."""

    parts: Mapping[str, MakePart] = {"samples": side_by_side, "sounds": sounds}
    follows_runs = True  # the prompts and the step slider's range depend on the runs

    def layout(self, view: View, store: RunStore) -> Component:
        samples = [sample for run in chosen_runs(view, store)[0] for sample in samples_of(run)]
        offered = prompts(samples)
        steps = sorted({sample.step for sample in samples}) or [0]
        first, last = steps[0], steps[-1]
        shown = max(step for step in steps if step <= (view.step or last) or step == first)
        data = [{"value": prompt or " ", "label": repr(prompt)} for prompt in offered]
        stops = steps if len(steps) <= MAX_STOPS else ()
        title = f"up to step, {first:,} to {last:,}"
        row = (
            controls(
                picker("prompt", "prompt", _chosen_prompt(view, offered) or " ", data),
                slider("step", title, shown, low=first, high=last, step=1, stops=stops) if last > first else None,
            )
            if samples
            else None
        )
        return html.Div([html.H1("Samples"), row, part("samples"), part("sounds")])
