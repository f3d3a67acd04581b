"""Optional dependencies."""

from importlib.util import find_spec

from tfs_core.errors import DataError


def need(package: str, *, for_what: str, extra: str) -> None:
    """Raise DataError, with the pip command to run, when a package is not installed."""
    if find_spec(package) is None:
        raise DataError(
            f"{for_what}: the package {package} is missing. Install it: pip install 'tfs-datasets[{extra}]'"
        )
