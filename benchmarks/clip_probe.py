"""Does a CLIP find captions and images of scenes, and what lies in the main directions of its image embeddings?

python -m benchmarks.clip_probe [--clip clip-scenes --n 3000 --sets 5]

Retrieval is among 256 distinct pairs of each split of the scenes, in several sets. Then scenes are embedded; a linear classifier reads each fact
of a scene (kind, colour, shape, count, size, relation) from the first components alone, fitted on one half and counted on the other.
For the default CLIP this draws docs/images/clip_probe.png and fills docs/clip.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, require, run, write_json
from benchmarks.tables import describe, fill
from datamodules.base import to_model_range
from datamodules.scenes import ScenesDataset, scene_spec
from evaluation.metrics.retrieval import distinct, retrieval
from rng.hashing import stable_hash
from scenes.grammar import SceneSpec
from scenes.render import render
from scenes.splits import SPLITS

PAGE, PICTURE = REPO / "docs" / "clip.md", REPO / "docs" / "images" / "clip_probe.png"
COMPONENTS = (1, 2, 4, 8, 16, 32, 64, 128)
PAIRS = 256  # of retrieval
RECALLS = tuple(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5))
RIDGE = 1e-3  # of the least squares, relative to the mean variance of the components
CLIP = "clip-scenes"
# Fact -> its value in a scene; None where a scene does not have it. A scene with "A right of B" shows "B left of A": the ordered one is asked.
FACTS: dict[str, Callable[[SceneSpec], Any]] = {
    "kind": lambda spec: spec.kind,
    "colour": lambda spec: spec.groups[0].colour if spec.kind == "single" else None,
    "shape": lambda spec: spec.groups[0].shape if spec.kind == "single" else None,
    "size": lambda spec: spec.groups[0].size if spec.kind == "single" else None,
    "count": lambda spec: spec.groups[0].count if spec.kind == "single" else None,
    "relation": lambda spec: spec.ordered().relation,
    "colour of the word": lambda spec: spec.word_colour,
}


def principal(embeds: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (N, E) of vectors along their principal components, and the variance (E,) along each, largest first."""
    centred = embeds.double() - embeds.double().mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    return centred @ directions.T, singular**2 / (len(embeds) - 1)


def probe(coordinates: Tensor, values: Sequence[Any]) -> tuple[float, float]:
    """Share of right answers of a linear classifier on every second row, fitted on the others; and of the commonest answer.

    The classifier is ridge regression on one indicator for each value; rows whose value is None are left out.
    """
    rows = [i for i, value in enumerate(values) if value is not None]
    x, kinds = coordinates[rows], sorted({values[i] for i in rows}, key=str)
    target = torch.tensor([kinds.index(values[i]) for i in rows])
    x = torch.cat([x / x.std(0).clamp(min=1e-12), torch.ones(len(x), 1, dtype=x.dtype)], 1)
    indicator = torch.nn.functional.one_hot(target, len(kinds)).double()
    fit, test = slice(0, None, 2), slice(1, None, 2)
    gram = x[fit].T @ x[fit] + RIDGE * len(x[fit]) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, x[fit].T @ indicator[fit])
    right = (x[test] @ weights).argmax(1) == target[test]
    commonest = target[fit].bincount().argmax()
    return right.double().mean().item(), (target[test] == commonest).double().mean().item()


def embedded(module: Any, n: int, batch: int = 64) -> tuple[Tensor, list[SceneSpec]]:
    """Embeddings (n, E) of scenes that training did not have, and their specs."""
    specs = [scene_spec("scenes", "iid", "probe", 0, i) for i in range(n)]
    parts = []
    for start in range(0, n, batch):
        part = range(start, min(start + batch, n))
        images = [to_model_range(render(specs[i], stable_hash("probe", i), module.image_size)[0]) for i in part]
        parts.append(module.embed_image(torch.stack(images)))
    return torch.cat(parts), specs


def measure(embeds: Tensor, specs: Sequence[SceneSpec]) -> dict[str, Any]:
    """Share of the variance and accuracy of every probe, by number of components."""
    coordinates, variance = principal(embeds)
    counts = [k for k in COMPONENTS if k <= embeds.shape[1]]
    rows: dict[str, Any] = {"variance": [(variance[:k].sum() / variance.sum()).item() for k in counts], "components": counts, "facts": {}}
    for fact, value in FACTS.items():
        values = [value(spec) for spec in specs]
        shares = [probe(coordinates[:, :k], values) for k in counts]
        rows["facts"][fact] = {"accuracy": [right for right, _ in shares], "guess": shares[0][1]}
    return rows


def recall(module: Any, split: str, pairs: int = PAIRS, tag: str = "probe") -> dict[str, float]:
    """Recall among so many distinct pairs of a split that training did not have; another tag takes another set of them."""
    data = ScenesDataset("scenes", module.image_size, 4 * pairs, (split,), 0, tag)
    keys = [repr(data.spec(i).canonical()) for i in range(len(data))]
    items = [data[(i, stable_hash(tag, split, i))] for i in distinct(keys).tolist()]
    items = [items[i] for i in distinct([item["caption"] for item in items], pairs).tolist()]
    image, text = [], []
    for start in range(0, len(items), 64):
        part = items[start : start + 64]
        image.append(module.embed_image(torch.stack([item["image"] for item in part])))
        text.append(module.embed_text([item["caption"] for item in part]))
    return retrieval(torch.cat(image), torch.cat(text)) | {"pairs": len(items)}


def recalls(module: Any, split: str, sets: int, pairs: int = PAIRS) -> dict[str, Any]:
    """Recall of several sets: how many pairs each had, and per direction and rank the mean, the lowest and the highest."""
    rows = [recall(module, split, pairs, f"probe {i}") for i in range(sets)]
    found: dict[str, Any] = {"pairs": [int(row["pairs"]) for row in rows]}
    for key in RECALLS:
        values = [row[key] for row in rows]
        found[key] = {"mean": sum(values) / sets, "low": min(values), "high": max(values)}
    return found


def retrieval_table(rows: dict[str, dict[str, Any]]) -> str:
    """Recall in percent as Markdown, a split a line: the mean, and between which values the sets lie."""
    head = ["split", "pairs", *(f"{'caption of an image' if 'image_to' in k else 'image of a caption'}, at {k[-1]}" for k in RECALLS)]
    lines = []
    for name, row in rows.items():
        shares = [f"{100 * row[k]['mean']:.1f} [{100 * row[k]['low']:.1f}, {100 * row[k]['high']:.1f}]" for k in RECALLS]
        fewest, most = min(row["pairs"]), max(row["pairs"])
        lines.append([f"`{name}`", str(most) if fewest == most else f"{fewest} to {most}", *shares])
    return markdown_table(head, lines)


def table(rows: dict[str, Any]) -> str:
    """The result as Markdown, a fact a line."""
    lines = [["share of the variance", "–", *(f"{v:.2f}" for v in rows["variance"])]]
    lines += [[fact, f"{part['guess']:.2f}", *(f"{v:.2f}" for v in part["accuracy"])] for fact, part in rows["facts"].items()]
    return markdown_table(["components", "commonest answer", *map(str, rows["components"])], lines)


def plot(rows: dict[str, Any], embeds: Tensor, specs: Sequence[SceneSpec], path: Path) -> None:
    """Accuracy by number of components, and the first two components of scenes of one kind of object, in their colours."""
    require("matplotlib", "matplotlib>=3.9")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for fact, part in rows["facts"].items():
        left.plot(rows["components"], part["accuracy"], marker="o", markersize=3, label=fact)
    left.plot(rows["components"], rows["variance"], color="grey", linestyle=":", label="share of the variance")
    left.set(xscale="log", xlabel="principal components", ylabel="right answers of a linear probe", ylim=(0, 1.02))
    left.set_xticks(rows["components"], [str(k) for k in rows["components"]])
    left.minorticks_off()
    left.legend(fontsize=7)
    coordinates, _ = principal(embeds)
    single = [i for i, spec in enumerate(specs) if spec.kind == "single"]
    colours = [specs[i].groups[0].colour for i in single]
    right.scatter(*coordinates[single, :2].T.tolist(), s=8, c=colours)
    right.set(xlabel="first component", ylabel="second component", title="scenes of one kind of object, in their colours", facecolor="#f4f4f4")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    from runtime.checkpoint import load_module

    parser = argparse.ArgumentParser(prog="python -m benchmarks.clip_probe", description=__doc__.splitlines()[0])
    parser.add_argument("--clip", default=CLIP, help="a run, a checkpoint or a name in zoo/ of model=clip")
    parser.add_argument("--n", type=positive(int), default=3000, help="scenes (default 3000)")
    parser.add_argument("--sets", type=positive(int), default=5, help="sets of pairs that retrieval is measured on (default 5)")
    parser.add_argument("--out", type=Path, help=f"where the JSON goes (default: benchmarks/results/clip_probe.json for {CLIP}, nowhere for others)")
    args = parser.parse_args(argv)
    module, _, facts = load_module(args.clip)
    embeds, specs = embedded(module, args.n)
    rows = measure(embeds, specs)
    by_split = {split: recalls(module, split, args.sets) for split in SPLITS if split != "train"}
    result = {
        "benchmark": "clip_probe", "settings": {"clip": Path(args.clip).name, "scenes": args.n, "sets": args.sets}, "weights": facts["sha256"],
        "machine": machine(torch.get_num_threads()), **provenance("torch"), "rows": rows, "retrieval": by_split,
    }  # fmt: skip
    block = f"\n{retrieval_table(by_split)}\n\n{table(rows)}\n\n{describe(result)}\n\n"
    print(block)
    if args.clip == CLIP:
        plot(rows, embeds, specs, PICTURE)
        PAGE.write_text(fill(PAGE.read_text(), "clip_probe", block, PAGE.name))
        print(f"{PAGE}; {PICTURE}")
    out = args.out or (RESULTS / "clip_probe.json" if args.clip == CLIP else None)
    if out:
        write_json(out, result)
        print(out)


if __name__ == "__main__":
    run(main)
