"""The ten Mantine components that the pages have, imported without the two hundred that come with them.

`import dash_mantine_components` runs a module for each component there is: 0.2 s, two fifths of what a start imports.
Its own list of them is one module, so another list in that module's place makes the same package of fewer parts. That
holds for the whole process, so it is done where nobody else imports: by `tfs dash`, not by `launch` in a notebook.
"""

import sys
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from tfs_dash.front import MADE_FOR
from tfs_dash.page import has_foreign_pages

PACKAGE = "dash_mantine_components"

NEEDED = (
    "MantineProvider", "Menu", "MenuDropdown", "MenuItem", "MenuTarget", "MultiSelect", "SegmentedControl", "Select",
    "Slider", "TextInput",
)  # fmt: skip


def load() -> None:
    """Import these, and have `import dash_mantine_components` find no others.

    Does nothing beside another version, nor beside pages of others, which may use them all.
    """
    distribution = PACKAGE.replace("_", "-")
    if PACKAGE in sys.modules or version(distribution) != MADE_FOR[distribution] or has_foreign_pages():
        return
    package = find_spec(PACKAGE)
    assert package is not None
    assert package.origin is not None
    listed = ModuleType(f"{PACKAGE}._imports_")
    listed.__dict__["__all__"] = list(NEEDED)
    for name in NEEDED:
        spec = spec_from_file_location(f"{PACKAGE}.{name}", Path(package.origin).parent / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        setattr(listed, name, getattr(module, name))
    sys.modules[listed.__name__] = listed
