"""Conformance check for plugins: `tfs plugins check` in a process with only the plugins that are needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata

from tfs_core.plugins import canonical
from tfs_core.registry import get_registry
from tfs_lab.testing.results import Check, Finding, check, expect

COMMAND = "from tfs_core.cli.main import main; main()"
ENVIRONMENT = {"TFS_STRICT_PLUGINS": "1", "TFS_DISABLE_PLUGINS": ""}
"""Strict mode raises every problem of a plugin. With `TFS_PLUGINS`, an unrelated broken plugin fails no test."""


@check("good citizen")
def plugin_is_sound(distribution: str) -> Finding:
    """The plugin registers without heavy imports; all its references resolve, fit their kind, and are documented."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "plugins", "check", distribution, "--json"],
        env={**os.environ, **ENVIRONMENT, "TFS_PLUGINS": ",".join([distribution, *_needed(distribution)])},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    expect(bool(done.stdout.strip()), done.stderr.strip().rpartition("\n")[2])
    findings = json.loads(done.stdout)
    problems = [f"{finding['subject']}: {finding['problem']}" for finding in findings if finding["problem"]]
    expect(not problems, "; ".join(problems))
    kinds = get_registry().kinds
    parts = [finding["subject"] for finding in findings if finding["subject"].partition(" '")[0] in kinds]
    expect(bool(parts), f"'{distribution}' registers no component of any kind ({', '.join(kinds)})")
    return ", ".join(parts)


def _needed(distribution: str) -> set[str]:
    """Return the plugins that the check needs: tfs-lab, and the plugins that the distribution requires."""
    try:
        requirements = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        requirements = []
    required = {canonical(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    return {plugin.distribution for plugin in get_registry().plugins[1:]} & {*required, "tfs-lab"}


PLUGIN_CHECKS: tuple[Check[str], ...] = (plugin_is_sound,)
