"""Names that other tools have for commands and settings of tfs, for the advice in errors: `other_names.yaml`."""

from functools import cache
from pathlib import Path
from typing import Literal

from tfs_core.config.document import read_yaml


@cache
def our_names(of: Literal["commands", "settings"]) -> dict[str, list[str]]:
    """Return {name in other tools, lower-case: what tfs has for it}."""
    ours: dict[str, list[str]] = {}
    for name, theirs in read_yaml(Path(__file__).with_suffix(".yaml")).values[of].items():
        for other in theirs.split():
            ours.setdefault(other, []).append(name)
    return ours


def our_setting(theirs: str, settings: list[str]) -> str:
    """Return the setting of tfs for another tool's name, "" if none is known. One among `settings` comes first."""
    ours = our_names("settings").get(theirs.lower(), [])
    here = [setting.rpartition(".")[2] for setting in ours if setting.rpartition(".")[2] in settings]
    return next(iter(here + ours), "")


def setting_of_option(option: str) -> str:
    """Return the setting that an option means, "training.batch_size" for `--batch-size`, "" if there is none."""
    name = option.lstrip("-").replace("-", "_")
    settings = {setting.rpartition(".")[2]: setting for ours in our_names("settings").values() for setting in ours}
    return name if "." in name else settings.get(name) or our_setting(name, [])
