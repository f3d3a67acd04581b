"""Import only the ten Mantine components that the pages use, instead of all two hundred.

`import dash_mantine_components` imports one module per component: 0.2 s, two fifths of the dashboard's import time. The
package lists them in one module, `_imports_`, which `load` replaces by a shorter one. This affects the whole process,
so `tfs dash` calls `load`, but `launch` in a notebook does not.
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
    """Import the components in NEEDED, so that `import dash_mantine_components` imports no others.

    A no-op if the package is imported already, if its version differs from MADE_FOR, or if another distribution has
    pages, since these pages may use any component.
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
