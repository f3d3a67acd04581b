"""Validation of callback requests before Dash handles them: malformed ones make Dash fail with a traceback.

A callback request names a callback by its output and gives the values of its inputs:

    {"output": "..now.data...index.data..",
     "outputs": [{"id": "now", "property": "data"}, {"id": "index", "property": "data"}],
     "inputs": [{"id": "tick", "property": "data", "value": 1}, ...], "state": [...], "changedPropIds": ["tick.data"]}

Only the structure is checked here. The values may be anything: invalid ones are ignored where they are used (view.py).
"""

import json
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, request

from tfs_dash.security import UPDATE_PATH


def refuse_malformed(server: Flask, callbacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Make the server answer 400 with a one-sentence reason to requests that match none of Dash's `callbacks`."""

    @server.before_request
    def refuse() -> Response | None:
        if request.path != UPDATE_PATH:
            return None
        try:
            sentence = find_flaw(request.get_json(silent=True), callbacks)
        except RecursionError:  # thousands of nested brackets
            sentence = "The request is nested too deeply."
        return None if sentence is None else Response(f"{sentence}\n", status=400, mimetype="text/plain")


def find_flaw(question: object, callbacks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return a sentence about the error in a callback request, or None for a valid request."""
    if not isinstance(question, dict):
        return "The request body must be a JSON object."
    output = question.get("output")
    callback = callbacks.get(output, {}) if isinstance(output, str) else {}
    if "callback" not in callback:  # unknown, or a client-side callback
        return "No callback of this server has the output that the request names."
    outputs = callback["output"]
    if isinstance(outputs, list | tuple):
        fits = _all_fit(question.get("outputs"), [one.to_dict() for one in outputs])
    else:
        fits = _fits(question.get("outputs"), outputs.to_dict())
    if not fits:
        return "The request's outputs do not match the callback that it names."
    inputs = question.get("inputs")
    if not _all_fit(inputs, callback["inputs"]) or not _all_fit(question.get("state", []), callback["state"]):
        return "The request's inputs and state do not match the callback that it names."
    if not isinstance(outputs, list | tuple) and '["ALL"]' in (name := outputs.to_dict()["id"]):
        others = [
            given
            for given, place in zip(question.get("state", []), callback["state"], strict=True)
            if place["id"] == name
        ]
        if any(
            len(given) != len(question["outputs"]) for given in others
        ):  # the callback returns one value per component in its state
            return "The request's outputs and state name different numbers of components."
    changed, names = question.get("changedPropIds", []), _names(inputs)
    if not isinstance(changed, list) or any(not isinstance(name, str) or name not in names for name in changed):
        return "The request's changedPropIds are not among its inputs."
    return None


def _all_fit(given: object, places: list[dict[str, str]]) -> bool:
    return (
        isinstance(given, list)
        and len(given) == len(places)
        and all(_fits(one, place) for one, place in zip(given, places, strict=True))
    )


def _fits(given: object, place: dict[str, str]) -> bool:
    """Return True if `given` matches the component property `place`, or is a list of matches for an ALL pattern."""
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
    """Return True if an id equals `name` or matches it as a pattern; ["MATCH"] and ["ALL"] match any string."""
    if not name.startswith("{"):
        return given == name
    pattern = json.loads(name)
    return (
        isinstance(given, dict)
        and given.keys() == pattern.keys()
        and all(isinstance(text, str) and pattern[key] in (text, ["MATCH"], ["ALL"]) for key, text in given.items())
    )


def _names(inputs: Any) -> set[str]:
    """Return the inputs in the notation of `changedPropIds`."""
    flat = [one for entry in inputs for one in (entry if isinstance(entry, list) else [entry])]
    return {
        f"{one['id'] if isinstance(one['id'], str) else json.dumps(one['id'], sort_keys=True, separators=(',', ':'))}"
        f".{one['property']}"
        for one in flat
    }
