"""DALL-E 2 on scenes, measured: how near its prior comes to images, the way back to an image, and edits by words.

python -m benchmarks.unclip_tasks --ckpt RUN [--n 256 --images 48 --steps 50 --publish]

Similarities are mean cosines over captions of scenes that training did not have. For the way back each scene is drawn again from its own
embedding and noise at eta 0. For an edit one fact of a scene is another in the second caption; the scene parser says which of the two the
picture shows. With --publish the tables go into docs/dalle2.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.tables import describe, fill
from contracts import DrawsEmbeddings, Request
from datamodules.base import to_model_range
from datamodules.scenes import ScenesDataset
from evaluation.metrics.images import to_uint8
from evaluation.metrics.reconstruction import psnr
from evaluation.pictures.embedding_tasks import FARTHEST, reduced_u8, turned
from rng.hashing import stable_hash
from scenes.captions import caption
from scenes.grammar import COLOURS, Group, SceneSpec, get_preset
from scenes.parser import parse
from scenes.render import render
from scenes.scoring import score, wilson
from scenes.splits import split_of

PAGE = REPO / "docs" / "dalle2.md"
PRESET = "scenes_simple"
SCALES = (1.0, 2.0)  # of the prior's guidance
AT_ONCE = 16
# Fact -> the values that it can be edited to.
EDITS: dict[str, Callable[[Group], Sequence[Any]]] = {
    "colour": lambda group: COLOURS,
    "shape": lambda group: get_preset(PRESET).shapes,
    "count": lambda group: range(1, 5),
    "size": lambda group: ("small", "large"),
}


def picture_size(module: Any) -> int:
    """Side of the images that the last stage draws."""
    return list(module.stages.values())[-1].space.image_size


def similarities(module: Any, n: int) -> dict[str, dict[str, float]]:
    """Mean cosines of caption, drawn embedding and image, with their own and with another scene's, by the prior's guidance."""
    data = ScenesDataset(PRESET, picture_size(module), n, ("iid",), 0, "similarities")
    items = [data[(i, i)] for i in range(n)]
    image = torch.cat([module.embedder.images(torch.stack([x["image"] for x in items[i : i + 64]])) for i in range(0, n, 64)])
    text = module.embedder.texts([item["caption"] for item in items], module.device)
    (name,) = module.priors.values()
    rows = {"caption": mean_cosines(text["text_vector"], image, text["text_vector"])}
    for scale in SCALES:
        drawn = module.image_fields(text, list(range(n)), guidance_scale={name: scale})["image_embeds"]
        rows[f"prior, guidance {scale:g}"] = mean_cosines(drawn, image, text["text_vector"])
    return rows | {"image": mean_cosines(image, image, text["text_vector"])}


def mean_cosines(z: Tensor, image: Tensor, text: Tensor) -> dict[str, float]:
    """Mean cosine of unit vectors (N, E) with those of images and captions of their own scene, and with another scene's image."""
    other = image.roll(len(image) // 2, 0)
    return {
        "own image": (z * image).sum(1).mean().item(), "own caption": (z * text).sum(1).mean().item(),
        "another image": (z * other).sum(1).mean().item(),
    }  # fmt: skip


def changes(fact: str, n: int) -> list[tuple[SceneSpec, SceneSpec]]:
    """n scenes of one kind of object that training did not have, and what each becomes by another value of one fact."""
    pairs: list[tuple[SceneSpec, SceneSpec]] = []
    data = ScenesDataset(PRESET, 64, 40 * n, ("iid",), 0, "edits")
    for i in range(len(data)):
        spec = data.spec(i)
        if spec.kind != "single":
            continue
        (group,) = spec.groups
        others = [
            after for value in EDITS[fact](group) if value != getattr(group, fact)
            if split_of(after := SceneSpec("single", (replace(group, **{fact: value}),))) == "train"
        ]  # fmt: skip
        if others:
            pairs.append((spec, others[stable_hash("edit", fact, i) % len(others)]))
        if len(pairs) == n:
            return pairs
    raise ValueError(f"only {len(pairs)} of {n} scenes whose {fact} can become another: take fewer")


def pictures(specs: Sequence[SceneSpec], size: int) -> Tensor:
    """Scenes drawn, (N, 3, size, size) in [-1, 1]."""
    return torch.stack([to_model_range(render(spec, stable_hash("edit", i), size)[0]) for i, spec in enumerate(specs)])


@torch.inference_mode()
def edited(module: Any, pairs: Sequence[tuple[SceneSpec, SceneSpec]], share: float, steps: int) -> tuple[Tensor, Tensor]:
    """The given images and what becomes of them at a share of the way, (N, 3, S, S) uint8 each; a share of 0 is the way back."""
    given = pictures([before for before, _ in pairs], picture_size(module))
    drawn = []
    for start in range(0, len(pairs), AT_ONCE):
        part, image = pairs[start : start + AT_ONCE], given[start : start + AT_ONCE]
        request = Request(len(part), texts=[""] * len(part), images=image)
        z = module.embedding_of(request)
        x_T = module.noise_of(z, request, num_steps=steps)
        before, after = (module.captions_embedded([caption(pair[k], 0) for pair in part]) for k in (0, 1))
        way = turned(z, before, after, torch.tensor([share], device=z.device))[:, 0]
        drawn.append(module.draw_embedded(way, request, seeds=list(range(start, start + len(part))), x_T=x_T, num_steps=steps))
    out = to_uint8(torch.cat(drawn).float().cpu())
    return reduced_u8(given, out.shape[-1]), out


def shown(fact: str, spec: SceneSpec, image_u8: Tensor) -> bool:
    """Whether the parser reads this fact of a scene in a picture (C, H, W) uint8."""
    return score(spec, parse(image_u8.permute(1, 2, 0).numpy()))[fact] == 1


def share_of(hits: Sequence[bool]) -> dict[str, float]:
    """A share and its 95 % interval."""
    low, high = wilson(sum(hits), len(hits))
    return {"value": sum(hits) / len(hits), "low": low, "high": high}


def measure(module: Any, n: int, images: int, steps: int) -> dict[str, Any]:
    """Similarities, the way back, and for each kind of edit the shares of pictures that show the new fact and the old one."""
    pairs = {fact: changes(fact, images) for fact in EDITS}
    given, back = edited(module, pairs["colour"], 0.0, steps)
    specs = [before for before, _ in pairs["colour"]]
    found: dict[str, Any] = {
        "similarities": similarities(module, n),
        "way back": {
            "psnr_db": psnr(given, back).mean().item(),
            "given as told": share_of([shown("all_correct", *x) for x in zip(specs, given)]),
            "drawn as told": share_of([shown("all_correct", *x) for x in zip(specs, back)]),
        },
        "edits": {},
    }  # fmt: skip
    for fact in EDITS:
        _, after = edited(module, pairs[fact], FARTHEST, steps)
        found["edits"][fact] = {
            name: share_of([shown(of, pair[k], image) for pair, image in zip(pairs[fact], after)])
            for name, of, k in (("new", fact, 1), ("old", fact, 0), ("all-correct", "all_correct", 1))
        }
    return found


def table(found: dict[str, Any]) -> str:
    """The three parts as Markdown."""
    kinds = list(next(iter(found["similarities"].values())))
    cosines = [[name, *(f"{row[k]:.3f}" for k in kinds)] for name, row in found["similarities"].items()]
    back = found["way back"]
    edits = [[fact, *(percent(row[k]) for k in ("new", "old", "all-correct"))] for fact, row in found["edits"].items()]
    return "\n\n".join((
        markdown_table(["mean cosine of the embedding", *(f"with its {k}" if "own" in k else f"with {k}" for k in kinds)], cosines),
        f"The way back at eta 0: {back['psnr_db']:.1f} dB; the parser reads {percent(back['given as told'])} of the given images and "
        f"{percent(back['drawn as told'])} of those drawn again exactly as the scene is.",
        markdown_table(["edit of the", "shows the new", "shows the old", "all of the new caption"], edits),
    ))  # fmt: skip


def percent(x: dict[str, float]) -> str:
    """A share with its interval."""
    return f"{100 * x['value']:.0f} % [{100 * x['low']:.0f}, {100 * x['high']:.0f}]"


def main(argv: Sequence[str] | None = None) -> None:
    from runtime.checkpoint import load_module

    parser = argparse.ArgumentParser(prog="python -m benchmarks.unclip_tasks", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", required=True, help="a run, a checkpoint or a name in zoo/ of model=dalle2")
    parser.add_argument("--n", type=positive(int), default=256, help="captions of the similarities (default 256)")
    parser.add_argument("--images", type=positive(int), default=48, help="images of each kind of edit (default 48)")
    parser.add_argument("--steps", type=positive(int), default=50, help="of DDIM, on the way to the noise and back (default 50)")
    parser.add_argument("--trust", nargs="*", default=[], help="a CLIP that the run was trained with elsewhere, as trust= of sample.py")
    parser.add_argument("--publish", action="store_true", help="fill docs/dalle2.md")
    parser.add_argument("--out", type=Path, default=RESULTS / "unclip_tasks.json", help="where the JSON goes")
    args = parser.parse_args(argv)
    module, _, facts = load_module(args.ckpt, trust=args.trust)
    if not isinstance(module, DrawsEmbeddings) or len(module.priors) != 1:
        raise ValueError(f"--ckpt {args.ckpt}: {type(module).__name__} has not one prior and a decoder of its embeddings: give a run of model=dalle2")
    if (reason := module.sampling_refusal()) is not None:
        raise ValueError(f"--ckpt {args.ckpt}: {reason}")
    found = measure(module, args.n, args.images, args.steps)
    result = {
        "benchmark": "unclip_tasks", "weights": facts["sha256"],
        "settings": {"ckpt": Path(args.ckpt).name, "captions": args.n, "images": args.images, "steps": args.steps},
        "machine": machine(torch.get_num_threads()), **provenance("torch"), "found": found,
    }  # fmt: skip
    block = f"\n{table(found)}\n\n{describe(result)}\n\n"
    print(block)
    write_json(args.out, result)
    if args.publish:
        PAGE.write_text(fill(PAGE.read_text(), "unclip_tasks", block, PAGE.name))


if __name__ == "__main__":
    run(main)
