"""The names of other tools lead to settings that exist."""

from dataclasses import fields
from typing import get_type_hints

import pytest
from tfs_baseline.config import BaselineConfig

from tfs_core.config.other_names import our_names
from tfs_core.config.schema import RunConfig

OURS = [(theirs, ours) for theirs, all_ours in our_names("settings").items() for ours in all_ours]


@pytest.mark.parametrize(("theirs", "ours"), OURS)
def test_setting_exists_and_the_other_name_is_not_one_of_ours(theirs: str, ours: str) -> None:
    sections = {**get_type_hints(RunConfig), "model": BaselineConfig}
    section, _, name = ours.rpartition(".")
    names = {field.name for field in fields(sections[section] if section else RunConfig)}
    assert name in names
    assert theirs not in names
    assert theirs == theirs.lower()
