"""What the benchmarks share: one-line errors, the machine a number was measured on, JSON."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results"


def run(main: Callable[[], Any]) -> None:
    """Calls main and ends with one line on stderr and exit code 2 for what a user can put right."""
    try:
        main()
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def require(module: str, package: str) -> ModuleType:
    """Imports a module that only benchmarks need. Raises ModuleNotFoundError that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModuleNotFoundError(f"{module} is not installed: pip install '{package}'") from None


def positive(kind: type) -> Callable[[str], Any]:
    """An argparse type: a number above 0."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if value <= 0:
            raise ArgumentTypeError(f"{text!r}: give a number above 0")
        return value

    return parse


def arguments(name: str, about: str, settings: type, options: dict[str, str]) -> ArgumentParser:
    """The command line of one benchmark: a flag for each of some fields of its settings, and where its JSON goes.

    Args:
        settings: a dataclass with a number as each field's default.
        options: field -> what it is.
    """
    parser = ArgumentParser(prog=f"python -m benchmarks.{name}", description=about.splitlines()[0])
    for field, text in options.items():
        default = getattr(settings, field)
        flag = f"--{field.replace('_', '-')}"
        parser.add_argument(flag, type=positive(type(default)), default=default, help=f"{text} (default {default})")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="where the JSON goes")
    return parser


def publish(out: Path, result: dict[str, Any], table: str) -> None:
    """Writes the result and shows its table."""
    write_json(out, result)
    print(f"\n{table}\n\n{out}; python -m benchmarks.tables puts it into benchmarks/README.md")


def whole_data(overrides: Sequence[str]) -> list[str]:
    """The overrides, with all of Fashion-MNIST in place of the part that comes with the repository, unless they choose data."""
    return [*([] if any(word.startswith("data=") for word in overrides) else ["data=fashion_mnist"]), *overrides]


def machine(threads: int) -> dict[str, Any]:
    """Processor, cores, threads used, and how busy the machine was already (load in processes, 1-minute mean)."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
    }


def cpu_name() -> str:
    """The processor as it calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def provenance(*packages: str) -> dict[str, Any]:
    """Date, commit (with + for changed files) and versions; a package that is not installed is absent."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "commit": commit(), "versions": versions}


def commit() -> str:
    """Short hash of the checkout, with + when tracked files were changed; `unknown` outside a checkout."""

    def git(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *args], cwd=REPO, capture_output=True, text=True)

    try:
        head, changed = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else "unknown"


def peer_versions(python: str, names: Sequence[str], install: str) -> dict[str, str]:
    """Versions of a peer and what it needs, in its own Python.

    Raises: FileNotFoundError for no such Python; ModuleNotFoundError, with how to install it, for one without names[0].
    """
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {list(names)}}}))"
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except (FileNotFoundError, PermissionError):
        raise FileNotFoundError(f"--peer-python {python}: there is no such Python") from None
    if found.returncode:
        raise ModuleNotFoundError(f"{python} has no {names[0]}: {install}")
    return json.loads(found.stdout)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON through a temporary file in the same folder, which it makes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    fresh.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(fresh, path)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in lines)
