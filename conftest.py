"""What holds for the tests of the core and of every plugin."""

from contextlib import suppress

from hypothesis import settings

# PyTorch's compiler imports setuptools, which refuses to work when anything has imported `distutils` before it.
with suppress(ImportError):
    import setuptools  # noqa: F401

# Machines are busy: no test is timed, and a failure is the same tomorrow.
settings.register_profile("tfs", deadline=None, derandomize=True)
settings.load_profile("tfs")
