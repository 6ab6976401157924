"""The shell around every script: help, overrides, one-line errors and exit codes."""

from __future__ import annotations

import os
import platform
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from files import Unreachable, printable
from runtime.config import CONF
from runtime.console import set_ctrl_c

VERSION = "0.1.0"
# What a user can put right: a wrong setting, a file that is not what it should be, a place that cannot be written.
USER_ERRORS = (
    ValueError, FloatingPointError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError,
    PermissionError, Unreachable,
)  # fmt: skip


def launch(main: Callable[[Sequence[str]], Any], config_name: str) -> None:
    """Runs `main` on the command line's overrides and exits: 0 done, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""
    argv = sys.argv[1:]
    if any(a in ("-h", "--help", "help") for a in argv):
        tell(f"{help_text(config_name)}\n")
        return
    if "--version" in argv:
        tell(f"{version_text()}\n")
        return
    code = guarded(lambda: started(main, config_name, argv))
    set_ctrl_c(signal.SIG_IGN)  # Python's own end alone is left, and would answer with a traceback
    sys.exit(code)


def tell(text: str) -> None:
    """Prints a long text; a reader that has read enough, such as `head`, ends it without a word."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's own end would write the rest once more


def started(main: Callable[[Sequence[str]], Any], config_name: str, argv: Sequence[str]) -> None:
    """Does what the flags that people know from Hydra ask for; without one, runs `main`.

    `-m` runs a sweep, `--cfg job` prints the composed configuration, with `--resolve` its references filled in, with `--package KEY` a
    part of it, `--info` says which file each group comes from, and `--config-dir DIR` adds configuration files of the user's own.

    Raises: ValueError for a flag without its value, and for a part that the configuration does not have.
    """
    flags, rest = separated(argv)
    rest = [*(f"hydra.searchpath=[file://{Path(folder).resolve()}]" for folder in flags["--config-dir"]), *rest]
    if flags["--cfg"] or flags["--package"]:
        tell(composed_text(config_name, rest, flags["--package"], resolve=bool(flags["--resolve"])))
    elif flags["--info"]:
        from runtime.config import compose

        chosen = {group: name for group, name in compose(config_name, rest).choices.items() if name is not None}
        width = max(map(len, chosen))
        tell("".join(f"{group:<{width}}  {group.partition('@')[0]}/{name}.yaml\n" for group, name in sorted(chosen.items())))
    elif flags["--multirun"]:
        from runtime.sweeps import sweep

        sweep(main, config_name, rest, guarded)
    else:
        main(rest)


def composed_text(config_name: str, overrides: Sequence[str], parts: Sequence[str], *, resolve: bool) -> str:
    """The composed configuration in YAML, or the last of the parts named. Raises: ValueError for a part that is not there."""
    from omegaconf import OmegaConf

    from runtime.config import compose

    cfg = compose(config_name, overrides)
    if not parts:
        return OmegaConf.to_yaml(cfg, resolve=resolve)
    part = OmegaConf.select(cfg, parts[-1], default=None)
    if part is None:
        raise ValueError(f"--package {parts[-1]}: the configuration has no such part, or it is null; --cfg job prints the whole")
    return OmegaConf.to_yaml(part, resolve=resolve) if OmegaConf.is_config(part) else f"{part}\n"


def separated(argv: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Flag -> what stands behind it, once for each time that it is given; and the overrides. Raises ValueError for a flag without its value."""
    found: dict[str, list[str]] = {flag: [] for flag in (*VALUED, *BARE)}
    rest, left = [], list(argv)
    while left:
        name, _, value = (text := left.pop(0)).partition("=")
        flag = SHORT_FLAGS.get(name, name)
        if flag in BARE:
            found[flag].append("")
        elif flag in VALUED:
            value = value or (left.pop(0) if left else "")
            if flag == "--cfg" and value != "job" or not value:
                raise ValueError(f"{flag} {value}".rstrip() + f": write {flag} {VALUED[flag]}")
            found[flag].append(value)
        else:
            rest.append(text)
    return found, rest


VALUED = {"--cfg": "job", "--config-dir": "DIR, a folder of configuration files", "--package": "KEY, such as model.optimizer"}
BARE = ("--multirun", "--resolve", "--info")
SHORT_FLAGS = {"-m": "--multirun", "-c": "--cfg", "-cd": "--config-dir", "-p": "--package"}


def guarded(action: Callable[[], Any]) -> int:
    """Runs an action and returns the exit code; what a user can put right is one line, with a traceback on demand."""
    try:
        action()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        line = user_error(error)
        if line is None or os.environ.get("HYDRA_FULL_ERROR") == "1" or "debug=true" in sys.argv:
            traceback.print_exc()
        if line is not None:
            print(f"error: {printable(line)}", file=sys.stderr)
        return 1 if line is None else 2
    return 0


def user_error(error: BaseException) -> str | None:
    """The message of what a user can put right, in one line, also from inside hydra's wrapping; else None."""
    chain, seen = [error], error
    while seen.__cause__ is not None:
        seen = seen.__cause__
        chain.append(seen)
    wrapped = any(type(e).__name__ == "InstantiationException" for e in chain)
    root = chain[-1]
    of_configuration = (type(root).__module__ or "").startswith(("omegaconf", "hydra"))  # some are ValueErrors too
    if isinstance(root, USER_ERRORS) and not of_configuration:
        text = root.args[0] if len(root.args) == 1 else str(root)
        if isinstance(root, OSError) and root.filename is not None:
            text = f"{root.filename}: {(root.strerror or '').lower()}"
        return " ".join(str(text).split())
    if of_configuration or wrapped and isinstance(root, (TypeError, ImportError)):
        lines = [line.strip() for e in chain for line in str(e).splitlines()]
        place = next((line.split(": ", 1)[1] for line in lines if line.startswith("full_key: ")), "")
        if missing := re.search(r"trying to access ([\w.]+): node `([\w.]+)` is not a container", str(root)):
            return f"{missing[2]}=null or a plain value: give a group of settings, {missing[1]} is read from it (at {place})"
        return " ".join(str(root).split("full_key:")[0].split()) + (f" (at {place})" if place else "")
    return None


def version_text() -> str:
    """The version of this repository, of Python and of the libraries that a result may depend on."""
    libraries = ("torch", "pytorch-lightning", "hydra-core")
    return ", ".join([VERSION, f"python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in libraries)])


def help_text(config_name: str) -> str:
    """What a newcomer needs: examples, and every choice with the first comment line of its file."""
    lines = [EXAMPLES[config_name].strip(), ""]
    for group, title in GROUPS[config_name].items():
        paths = (CONF / group).rglob("*.yaml")
        files = {path.relative_to(CONF / group).with_suffix("").as_posix(): path for path in paths}
        if files:
            lines.append(f"{group}=   {title}")
            wide = max(map(len, files))
            about = {name: first_comment(files[name].read_text()) for name in sorted(files)}
            lines += [f"  {name:<{wide}} {text}".rstrip() for name, text in about.items()] + [""]
    lines.append(f"Any other setting is named by its place in conf/, for instance {SETTINGS[config_name]}")
    return "\n".join(lines)


def first_comment(text: str) -> str:
    """The first line of a file if it is a comment (hydra's package directive is none)."""
    comments = [l.lstrip("# ").rstrip() for l in text.splitlines()[:3] if l.startswith("#") and "@package" not in l]
    return comments[0] if comments else ""


EXAMPLES = {
    "train": """
Train a model. Every setting has a default; change one with key=value.

  python train.py model=imagen                                  train with everything at its default
  python train.py model=imagen trainer.max_time=00:00:30:00     stop after half an hour (days:hours:minutes:seconds)
  python train.py model=imagen data=captions data.root=PHOTOS   your own captioned images
  python train.py model=imagen data=shards data.root=SHARDS     tar shards of captioned images: a folder, or a URL
  python train.py resume=runs/latest                            go on where the newest run stopped or was killed
  python train.py -m name=study seed=0,1,2                      several runs, one after another, and a table of their means
  python train.py model=imagen --cfg job -p model.optimizer     print the configuration, or a part; --config-dir DIR adds files of yours
  python train.py model=imagen --info                           which file each group comes from
  python train.py --version                                     of this repository and of the libraries that results depend on

A run writes runs/<model>/<data>/<name>/ with config.yaml, metrics.jsonl, samples/ and checkpoints/.
""",
    "sample": """
Draw images from a checkpoint: a file, a run directory, or a name in zoo/.

  python sample.py ckpt=runs/latest prompt="a red circle" n=8 out=samples
  python sample.py ckpt=runs/latest prompts=prompts.txt seed=1 guidance_scale=3 num_steps=50 sampler=ddim

  python sample.py ckpt=RUN task=inpaint image=A.png mask=MASK.png n=4     fill what is black in the mask
  python sample.py ckpt=RUN task=interpolate images=[A.png,B.png] n=8      from one image to another
  python sample.py ckpt=RUN task=film n=4                                 how images come out of noise, as PNG and GIF
  python sample.py ckpt=RUN task=invert image=A.png                        an image, its noise, and back

Image i is drawn from seed + i and does not depend on the batch size.
""",
}
GROUPS = {
    "train": {
        "model": "what to train",
        "data": "what to train on",
        "trainer": "where to train",
        "experiment": "settings that belong together, with what to expect",
        "distill": "draw in few steps what a trained model (init=RUN) draws in many",
        "text_encoder": "who reads the captions",
        "codec": "encoder and decoder of autoencoders",
        "likelihood": "what a variational autoencoder says of pixels",
        "players": "generator and discriminator of adversarial networks",
    },
    "sample": {"sampler": "how to draw"},
}
SETTINGS = {
    "train": "trainer.max_steps=1000, data.batch_size=32, logger.wandb=null, seed=1, name=first-try",
    "sample": "batch_size=16, ema=false, device=cpu",
}
