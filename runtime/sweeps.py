"""`-m`: several runs one after another, each under a name of its own, and one table of what they reached."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from files import write_text
from runtime.config import CONF, NEW, as_typed, check_overrides, compose, composed, parse, typed

Row = tuple[dict[str, str], dict[str, Any]]  # what a job changed, by setting, and the newest value of every metric
SHOWN = ("train/loss", "val/", "eval/")  # beginnings of the figures in the table


def sweep(main: Callable[[Sequence[str]], Any], config_name: str, overrides: Sequence[str], guard: Callable[[Callable[[], Any]], int]) -> None:
    """Hydra's multirun, each job a run of its own in this process.

    Runs of train.py are called NAME-setting-value, with `name=` or the date and time for NAME. The same command with the
    same name goes on where it was stopped: what is finished is not trained again. At the end one table, printed and
    written to runs/sweeps/NAME.txt, has the mean and the standard deviation over seeds.

    Args:
        guard: runs an action and returns its exit code.
    Raises: ValueError with several devices, or with one folder for all; SystemExit with the code of a job that failed.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    overrides = typed(overrides)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        check_overrides(config_name, overrides, sweep=True)
        parsed = parse(overrides)
        settled = [o.input_line for o in parsed if not o.is_sweep_override()]
        cfg = composed(config_name, settled)
    for name in ("devices", "num_nodes"):
        if (value := cfg.get("trainer", {}).get(name, 1)) not in (1, "1", "auto"):
            why = "every process would run the whole sweep; sweep over single devices"
            raise ValueError(f"-m with trainer.{name}={value}: {why}")
    trains = config_name == "train"
    if trains and cfg.run_dir is not None:
        raise ValueError(f"-m with run_dir={cfg.run_dir}: every run needs a folder of its own, give name= instead")
    name = str(cfg.get("name") or time.strftime("%Y-%m-%d_%H-%M-%S"))
    swept = {o.key_or_group for o in parsed if o.is_sweep_override()}
    rows: list[Row] = []
    elsewhere = f"+optimizer@{NEW}="
    if trains:
        print(f"sweep: {name}; to go on after a stop, give the same command with name={name}", flush=True)

    def job(_: Any) -> None:
        given = HydraConfig.get().overrides
        search = [o for o in given.hydra if o.startswith("hydra.searchpath")]
        GlobalHydra.instance().clear()  # main composes anew
        argv = [*search, *(o.replace(elsewhere, "optimizer=") for o in given.task)]
        action = (lambda: rows.append(run_job(main, argv, swept, name))) if trains else (lambda: main(argv))
        if code := guard(action):
            sys.exit(code)

    # Hydra takes the optimiser apart from a model that has its own; compose() puts it in its place.
    sys.argv = [sys.argv[0], "-m", *(o if "optimizer" in cfg else re.sub("^optimizer=", elsewhere, o) for o in overrides)]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    if rows:
        text = table(rows)
        path = Path(cfg.paths.runs) / "sweeps" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f"{text}\n")
        print(f"\n{text}\n\n{path}", flush=True)


def run_job(main: Callable[[Sequence[str]], Any], argv: Sequence[str], swept: set[str], name: str) -> Row:
    """Trains one run of a sweep, goes on with it, or finds it finished.

    Raises: ValueError where a run of this name has other settings.
    """
    from runtime import run_dir

    parsed = parse(argv)
    changed = {o.key_or_group: as_typed(o).partition("=")[2].strip("'\"") for o in parsed if o.key_or_group in swept}
    argv = [*(a for a in argv if not a.startswith("name=")), f"name={job_name(name, changed)}"]
    own = any(a.startswith("logger.wandb.group=") for a in argv)
    if not own and (compose("train", argv).get("logger") or {}).get("wandb"):
        argv.append(f"logger.wandb.group={job_name(name, {})}")
    path = run_dir.place(cfg := compose("train", argv))
    if run_dir.holds_run(path):
        argv = [f"resume={path}", *continuing(cfg, path, parsed)]
    return changed, main(argv) or {}


def continuing(cfg: Any, path: Path, overrides: Sequence[Any]) -> list[str]:
    """The overrides that a run may go on with. Raises ValueError where the run that is there has other settings."""
    from omegaconf import OmegaConf

    from runtime import run_dir
    from runtime.foreign import read_foreign_config, settle
    from runtime.resume import flat, is_free

    settle(cfg)
    old, new = (dict(flat(OmegaConf.to_container(c, resolve=False))) for c in (read_foreign_config(path / run_dir.SOURCE), cfg))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not is_free(key) and key != "trainer.precision":
            raise ValueError(f"{run_dir.shown(path)} was trained with {key}={old.get(key)}, this sweep has {new.get(key)}: choose another name=")
    return [o.input_line for o in overrides if is_free(o.key_or_group) and o.key_or_group not in ("name", "paths.runs")]


def job_name(name: str, changed: Mapping[str, str]) -> str:
    """NAME-setting-value…, the settings by the last parts of their names, in letters that any file system takes."""
    parts = [name, *(f"{key.rpartition('.')[2]}-{value}" for key, value in changed.items())]
    return re.sub(r"[^\w.+-]+", "_", "-".join(parts))[:200]


def table(rows: Sequence[Row]) -> str:
    """A line a metric, a column for each combination of settings: its mean ± standard deviation over seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for changed, metrics in rows:
        label = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in changed.items() if key != "seed")
        groups.setdefault(label or "all", []).append(metrics)
    names = list(dict.fromkeys(name for _, metrics in rows for name, value in metrics.items()
                               if name.startswith(SHOWN) and isinstance(value, float)))  # fmt: skip
    lines = [["", *groups], ["runs", *(str(len(found)) for found in groups.values())]]
    lines += [[name, *(cell([m[name] for m in found if name in m]) for found in groups.values())] for name in names]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(f"{text:<{width}}" for text, width in zip(line, widths)).rstrip() for line in lines)


def cell(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, one value as it is, a dash for none."""
    if len(values) < 2:
        return f"{values[0]:.4g}" if values else "–"
    return f"{statistics.fmean(values):.4g} ± {statistics.stdev(values):.2g}"
