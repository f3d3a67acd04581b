"""What pages ask for, checked before Dash takes it: Dash stumbles over what its own code never sends.

A question names a callback and gives the values of that one's inputs:

    {"output": "..now.data...index.data..",
     "outputs": [{"id": "now", "property": "data"}, {"id": "index", "property": "data"}],
     "inputs": [{"id": "tick", "property": "data", "value": 1}, ...], "state": [...], "changedPropIds": ["tick.data"]}

Values may be anything; what is done with them takes what makes no sense as if it had not been said (view.py).
"""

import json
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, request

from tfs_dash.security import UPDATE_PATH


def refuse_flawed(server: Flask, callbacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Have the server answer 400, and one sentence, to what is no question to one of the callbacks (Dash's map)."""

    @server.before_request
    def refuse() -> Response | None:
        if request.path != UPDATE_PATH:
            return None
        try:
            sentence = flaw(request.get_json(silent=True), callbacks)
        except RecursionError:  # brackets in brackets, thousands deep
            sentence = "That is nested too deeply."
        return None if sentence is None else Response(f"{sentence}\n", status=400, mimetype="text/plain")


def flaw(question: object, callbacks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what is wrong with a question, or None."""
    if not isinstance(question, dict):
        return "A question is a JSON object."
    output = question.get("output")
    callback = callbacks.get(output, {}) if isinstance(output, str) else {}
    if "callback" not in callback:  # there is none, or the browser answers it
        return "Nothing here has the output that the question names."
    outputs = callback["output"]
    if isinstance(outputs, list | tuple):
        fits = _all_fit(question.get("outputs"), [one.to_dict() for one in outputs])
    else:
        fits = _fits(question.get("outputs"), outputs.to_dict())
    if not fits:
        return "The question's outputs are not those of the output that it names."
    inputs = question.get("inputs")
    if not _all_fit(inputs, callback["inputs"]) or not _all_fit(question.get("state", []), callback["state"]):
        return "The question's inputs and state are not those of the output that it names."
    if not isinstance(outputs, list | tuple) and '["ALL"]' in (name := outputs.to_dict()["id"]):
        others = [
            given
            for given, place in zip(question.get("state", []), callback["state"], strict=True)
            if place["id"] == name
        ]
        if any(
            len(given) != len(question["outputs"]) for given in others
        ):  # a callback answers one for each of its state
            return "The question's outputs and state name different numbers of components."
    changed, names = question.get("changedPropIds", []), _names(inputs)
    if not isinstance(changed, list) or any(not isinstance(name, str) or name not in names for name in changed):
        return "What the question says has changed is none of its inputs."
    return None


def _all_fit(given: object, places: list[dict[str, str]]) -> bool:
    return (
        isinstance(given, list)
        and len(given) == len(places)
        and all(_fits(one, place) for one, place in zip(given, places, strict=True))
    )


def _fits(given: object, place: dict[str, str]) -> bool:
    """Say whether that is a component's property, and the one of the place; where the place is many, a list of them."""
    if '["ALL"]' in place["id"]:
        return isinstance(given, list) and all(_is_at(one, place) for one in given)
    return _is_at(given, place)


def _is_at(given: object, place: dict[str, str]) -> bool:
    if not isinstance(given, dict) or given.get("property") != place["property"]:
        return False
    if place["property"] == "id" and given.get("value") != given.get("id"):
        return False
    return _is_named(given.get("id"), place["id"])


def _is_named(given: object, name: str) -> bool:
    """Say whether an id is the one of that name; in a name that is a pattern, ["MATCH"] and ["ALL"] are any text."""
    if not name.startswith("{"):
        return given == name
    pattern = json.loads(name)
    return (
        isinstance(given, dict)
        and given.keys() == pattern.keys()
        and all(isinstance(text, str) and pattern[key] in (text, ["MATCH"], ["ALL"]) for key, text in given.items())
    )


def _names(inputs: Any) -> set[str]:
    """Return how `changedPropIds` would name the inputs."""
    flat = [one for entry in inputs for one in (entry if isinstance(entry, list) else [entry])]
    return {
        f"{one['id'] if isinstance(one['id'], str) else json.dumps(one['id'], sort_keys=True, separators=(',', ':'))}"
        f".{one['property']}"
        for one in flat
    }
