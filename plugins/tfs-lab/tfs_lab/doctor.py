"""`tfs doctor`: the state of the installation on one page, for bug reports and first aid. Works without torch.

`examine` is the main flow: one function per section, each of which returns facts and problems. Everything
that is printed passes `tfs_lab.public_text`, since the page is made to be sent to others.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

import click
from filelock import FileLock

from tfs_core.cli.plugins import install_command
from tfs_core.data.network import is_offline_mode
from tfs_core.durable import is_locked, write_durably
from tfs_core.plugins import describe, installed_plugins
from tfs_core.registry import get_registry
from tfs_core.run_folder import package_versions
from tfs_core.runs import assets_folder
from tfs_core.terminal import say
from tfs_lab.public_text import HIDDEN, is_secret, public_text

PACKAGES = """
tfs-core torch numpy safetensors click rich pluggy pydantic PyYAML filelock huggingface_hub datasets tokenizers dash
plotly pyarrow
""".split()  # noqa: SIM905 (a list would take sixteen lines)

VARIABLES = (
    "TFS_", "HF_", "HUGGINGFACE_", "TORCH", "PYTORCH_", "OMP_", "MKL_", "KMP_", "GOMP_", "CUDA_", "CUBLAS_", "CXX",
    "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
"""Environment variables whose names begin with one of these, in any case, change what tfs or its libraries do."""

LOW_DISK_BYTES = 1 << 30  # a checkpoint of a model with 50 M parameters takes 0.6 GB
HUB_SECONDS = 1.0
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
MEMORY_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/proc/meminfo"))


@dataclass
class Section:
    """The findings of one section."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """The problems, each with its remedy."""


@click.command()
@click.option("--assets", metavar="DIR", help="The folder for data and runs. [default: TFS_ASSETS, or ./assets]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def doctor(*, assets: str | None, as_json: bool) -> None:
    """Show the state of the installation: versions, devices, disk, plugins and network, and their problems.

    The page can be sent with a bug report: secrets, host names and user names are left out. The exit code is 0 without
    problems and 1 with problems; each problem says what to do.
    """
    sections = {name: public(section) for name, section in examine(assets_folder(assets))}
    problems = sum(len(section.problems) for section in sections.values())
    if as_json:
        say(json.dumps({"ok": not problems, **{name: asdict(section) for name, section in sections.items()}}))
    else:
        for name, section in sections.items():
            say(name, bold=True)
            width = max(map(len, section.facts), default=0)
            for fact, value in section.facts.items():
                say(f"  {fact:{width}}  {value}")
            for problem in section.problems:
                say(f"  ! {problem}")
        say(f"\nProblems found: {problems or 'none'}")
    if problems:
        raise SystemExit(1)


def examine(assets: Path) -> Iterator[tuple[str, Section]]:
    """Iterate over the sections, as (name, findings)."""
    torch = Section()
    module = import_torch(torch)
    yield "versions", versions()
    yield "torch", torch
    yield "devices", devices(module)
    yield "threads", threads(module)
    yield "kernels", kernels(module)
    yield "disk", disk(assets)
    yield "plugins", plugins()
    yield "environment", environment()
    yield "hub", hub()


def public(section: Section) -> Section:
    """Return the section without secrets, host names, user names and home folders."""
    return Section(
        {name: public_text(value) for name, value in section.facts.items()},
        [public_text(problem) for problem in section.problems],
    )


def import_torch(section: Section) -> ModuleType | None:
    """Import torch and describe it in the section. Return None, with a problem in the section, when that fails."""
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        section.facts["torch"] = "not installed"
        section.problems.append(
            f"torch cannot be imported ({describe(error)}), and only reading runs, configurations and plugins works "
            f"without it. Install it: {install_command('torch')}"
        )
        return None
    except Exception as error:  # such as an OSError for a missing shared library
        section.facts["torch"] = "cannot be imported"
        section.problems.append(
            f"torch cannot be imported: {describe(error)}. Correct what it names, or reinstall torch."
        )
        return None
    section.facts["torch"] = f"{torch.__version__}, built for {torch.version.cuda or torch.version.hip or 'the CPU'}"
    return torch


def versions() -> Section:
    """Return the versions of Python, the system, and the packages that matter, the tfs plugins included."""
    distributions = dict.fromkeys([*PACKAGES, *sorted(plugin.distribution for plugin in installed_plugins())])
    packages = package_versions(distributions)
    return Section(
        {
            "Python": f"{platform.python_version()} ({platform.python_implementation()}), {sys.prefix}",
            "system": platform.platform(),
            **{name: version for name, version in packages.items() if version is not None},
        }
    )


def devices(torch: ModuleType | None) -> Section:
    """Return the processor, the memory, and the GPUs that torch finds."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    section = Section({"CPU": f"{_processor()}, {allowed} of {os.cpu_count()} cores allowed", "memory": _memory()})
    if torch is None:
        return section
    with warnings.catch_warnings(record=True) as caught:  # torch warns about the driver
        warnings.simplefilter("always")
        has_cuda = torch.cuda.is_available()
    if has_cuda:
        for index in range(torch.cuda.device_count()):
            try:
                free, total = torch.cuda.mem_get_info(index)
                name = torch.cuda.get_device_properties(index).name
                section.facts[f"cuda:{index}"] = f"{name}, {gibibytes(total)}, {gibibytes(free)} free"
            except RuntimeError as error:
                section.problems.append(
                    f"cuda:{index} cannot be used: {describe(error)}. End the process that uses it, or set "
                    "CUDA_VISIBLE_DEVICES to another device, or runtime.device: cpu."
                )
    elif NVIDIA_DRIVER.exists():
        reason = describe(caught[0].message) if caught and isinstance(caught[0].message, Warning) else "no reason given"
        built = f"this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch has no CUDA"
        section.problems.append(
            f"this machine has an NVIDIA driver, but torch finds no GPU: {built} ({reason}). Install a build that fits "
            "the driver; the README of tfs has a table."
        )
    if torch.backends.mps.is_available():
        section.facts["mps"] = f"{gibibytes(torch.mps.recommended_max_memory())} recommended at most"
    if not (has_cuda or torch.backends.mps.is_available()):
        section.facts["GPU"] = "none that torch can use"
    return section


def _processor() -> str:
    """Return the model name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _memory() -> str:
    """Return the size of the memory, the part of it that is available, and the limit of the container, if any."""
    limit, available = (_first_number(path, key) for path, key in zip(MEMORY_FILES, ("", "MemAvailable:"), strict=True))
    try:
        total = gibibytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        total = "unknown size"
    free = "" if available is None else f", {gibibytes(1024 * available)} available"
    return total + free + ("" if limit is None else f", at most {gibibytes(limit)} in this container")


def _first_number(path: Path, key: str) -> int | None:
    """Return the number after `key` in the first line of the file that begins with it; None when there is none."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    words = next((line.removeprefix(key).split() for line in lines if line.startswith(key)), [])
    return int(words[0]) if words and words[0].isdecimal() else None


def threads(torch: ModuleType | None) -> Section:
    """Return the number of threads by default, and the number that tfs would choose."""
    section = Section({"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set")})
    if torch is not None:
        from tfs_core.machine import available_threads  # imports torch

        section.facts |= {"torch": str(torch.get_num_threads()), "tfs": str(available_threads())}
    return section


def kernels(torch: ModuleType | None) -> Section:
    """Return the kernels and compilers that are available, as far as that can be asked without running them."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    found = shutil.which(compiler)
    section = Section({"C++ compiler": found or f"no {compiler}: runtime.compile needs one on a CPU"})
    if torch is None:
        return section
    libraries = {"oneDNN": torch.backends.mkldnn, "MKL": torch.backends.mkl, "OpenMP": torch.backends.openmp}
    cuda = torch.backends.cuda
    attention = {
        "flash": cuda.flash_sdp_enabled(),
        "memory-efficient": cuda.mem_efficient_sdp_enabled(),
        "cuDNN": cuda.cudnn_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    section.facts |= {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "libraries": ", ".join(name for name, backend in libraries.items() if backend.is_available()) or "none",
        "matmul": torch.get_float32_matmul_precision(),
        "attention": ", ".join(name for name, is_on in attention.items() if is_on) + " allowed",
    }
    return section


def disk(assets: Path) -> Section:
    """Return the free space of the assets folder, and whether files can be written, renamed and locked there.

    A folder that does not exist is not created: the folder in which it would be is tried instead.
    """
    path = assets.absolute()
    tried = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    section = Section({"assets": str(path) if tried == path else f"{path}, which does not exist yet"})
    elsewhere = "choose another place with --assets or TFS_ASSETS"
    try:
        free = shutil.disk_usage(tried).free
        section.facts["free"] = gibibytes(free)
        if free < LOW_DISK_BYTES:
            section.problems.append(f"only {gibibytes(free)} are free in {tried}. Make room, or {elsewhere}.")
        with tempfile.TemporaryDirectory(prefix=".tfs-doctor-", dir=tried) as folder:
            for content in (b"old", b"new"):  # the second replaces the first
                write_durably(Path(folder) / "file", content)
            section.facts["writing, renaming"] = "work"
            has_locks = _locks_work(Path(folder) / "lock")
    except OSError as error:
        section.facts["writing, renaming"] = "do not work"
        section.problems.append(
            f"files cannot be written in {tried}: {error.strerror or error}. Change its permissions, or {elsewhere}."
        )
        return section
    section.facts["locks"] = "work" if has_locks else "do not work"
    if not has_locks:
        section.problems.append(
            f"file locks do not work in {tried}, as on some network drives, so two processes could write to the same "
            f"run. For a local disk, {elsewhere}."
        )
    return section


def _locks_work(path: Path) -> bool:
    try:
        with FileLock(path):
            return is_locked(path)
    except (OSError, NotImplementedError):
        return False


def plugins() -> Section:
    """Return the state of each plugin, and its problems as `tfs plugins` reports them."""
    section = Section()
    for plugin in get_registry().plugins:
        state = f"disabled by {plugin.disabled_by}" if plugin.disabled_by else plugin.state
        section.facts[f"{plugin.distribution} ({plugin.name})"] = f"{plugin.version}, {state}"
        section.problems += [f"{plugin.distribution}: {clash}" for clash in plugin.clashes]
        section.problems += [
            f"{plugin.distribution} is {plugin.state}: {problem.rstrip('.')}. Upgrade it, reinstall it, or "
            f"leave it out: TFS_DISABLE_PLUGINS={plugin.distribution}"
            for problem in plugin.problems
        ]
    return section


def environment() -> Section:
    """Return the environment variables that change what tfs does; secret values are not shown."""
    names = sorted(name for name in os.environ if name.upper().startswith(VARIABLES))
    return Section({name: HIDDEN if is_secret(name) else os.environ[name] for name in names})


def hub() -> Section:
    """Return whether the Hugging Face Hub answers within HUB_SECONDS."""
    if is_offline_mode():
        return Section({"answer": "not asked: offline, since HF_HUB_OFFLINE is set"})
    try:
        endpoint = str(importlib.import_module("huggingface_hub.constants").ENDPOINT)
    except ModuleNotFoundError:
        return Section({"answer": "not asked: huggingface_hub is not installed"})
    reason = why_no_answer(endpoint)
    section = Section({"endpoint": endpoint, "answer": "yes" if reason is None else "no"})
    if reason is not None:
        section.problems.append(
            f"the Hugging Face Hub does not answer: {reason}. Downloads will fail: check the network, the proxy and "
            "HF_ENDPOINT. Without a network, set HF_HUB_OFFLINE=1, and downloaded data sets are used."
        )
    return section


def why_no_answer(url: str) -> str | None:
    """Return why a server does not answer a HEAD request within HUB_SECONDS; None when it answers, with any status.

    No token is sent. The request is not repeated.
    """
    reasons: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_SECONDS).close()
        except urllib.error.HTTPError:
            reasons.append(None)
        except urllib.error.URLError as error:
            reasons.append(str(error.reason))
        except Exception as error:  # OSError, ValueError for no URL, HTTPException for no HTTP
            reasons.append(describe(error))
        else:
            reasons.append(None)

    thread = threading.Thread(target=ask, daemon=True)  # a thread, because name resolution has no timeout
    thread.start()
    thread.join(HUB_SECONDS)
    return reasons[0] if reasons else f"nothing came within {HUB_SECONDS:g} second"


def gibibytes(n_bytes: int) -> str:
    """Return a number of bytes in GiB, such as `1.5 GiB`."""
    return f"{n_bytes / 2**30:,.1f} GiB"
