"""What the nets of a cascade keep of an image for the backward pass, with activation checkpointing and without it.

python -m benchmarks.activation_memory [--model imagen_paper --tokens 128 --publish]

The nets are built as their configuration says and run forward on tensors that have sizes and no contents, so that billions of parameters take no
memory here. Counted are the distinct tensors that autograd keeps, and the inputs of checkpointed blocks; weights, gradients and the optimiser come
on top. The attention is PyTorch's fused one. In float32; under bfloat16 autocast most of it halves. With --publish the table goes into docs/scale.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.tables import describe, fill
from networks.checkpointing import BLOCKS, checkpoint_blocks
from runtime.build import instantiate
from runtime.config import compose

PAGE = REPO / "docs" / "scale.md"


def kept(net: nn.Module, size: int, tokens: int) -> int:
    """Bytes that are kept of one image (1, 3, size, size) and its text after the net's forward pass."""
    weights = {p.untyped_storage()._cdata for p in [*net.parameters(), *net.buffers()]}
    found: dict[int, Tensor] = {}

    def keep(tensor: Any) -> Any:
        if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in weights:
            found[tensor.untyped_storage()._cdata] = tensor  # held, or another tensor could get its place
        return tensor

    def keep_inputs(block: nn.Module, args: tuple[Any, ...]) -> None:
        if "forward" in vars(block):  # checkpointed: its inputs are held for the way back
            for value in args:
                keep(value)

    hooks = [part.register_forward_pre_hook(keep_inputs) for part in net.modules() if isinstance(part, BLOCKS)]
    told = {"channels": torch.zeros(1, net.cond_channels, size, size)} if net.cond_channels else {}
    if net.tokens_dim:
        told |= {"tokens": torch.zeros(1, tokens, net.tokens_dim), "token_mask": torch.ones(1, tokens, dtype=torch.bool)}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(torch.zeros(1, 3, size, size), torch.zeros(1), **told)
    total = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    for hook in hooks:
        hook.remove()
    del out
    return total


def measure(model: str, tokens: int) -> list[dict[str, Any]]:
    """A line for each stage of a cascade. Raises ValueError for a model without stages of pixels."""
    cfg = compose("train", [f"model={model}", *(["data.root=images"] if model.endswith("_paper") else [])])
    if "stages" not in cfg.model:
        raise ValueError(f"--model {model}: it has no stages; choose a cascade, for instance imagen_paper")
    lines = []
    for name, stage in cfg.model.stages.items():
        size = (stage.get("lowres") or {}).get("crop_size") or stage.space.get("image_size")
        if size is None:
            continue  # of embeddings, not of pixels
        with FakeTensorMode():
            net = instantiate(stage.net).train()
            parameters = sum(p.numel() for p in net.parameters())
            plain = kept(net, size, tokens)
            blocks = checkpoint_blocks(net)
            lines.append({"stage": name, "parameters": parameters, "size": size, "blocks": blocks, "plain": plain, "checkpointed": kept(net, size, tokens)})
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    head = ["stage", "parameters of the net", "pixels a side in training", "kept an image, MiB", "with `checkpoint_activations`, MiB", "ratio"]
    rows = [
        [f"`{line['stage']}`", f"{line['parameters'] / 1e6:,.0f} M", str(line["size"]), f"{line['plain'] / 2**20:,.0f}",
         f"{line['checkpointed'] / 2**20:,.0f}", f"{line['plain'] / line['checkpointed']:.1f}"]
        for line in lines
    ]  # fmt: skip
    return markdown_table(head, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.activation_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="imagen_paper", help="a cascade of conf/model (default imagen_paper)")
    parser.add_argument("--tokens", type=positive(int), default=128, help="tokens of a caption (default 128)")
    parser.add_argument("--publish", action="store_true", help="write the table into docs/scale.md")
    args = parser.parse_args(argv)
    lines = measure(args.model, args.tokens)
    result = {
        "benchmark": "activation_memory", "settings": {"model": args.model, "tokens": args.tokens}, "machine": machine(torch.get_num_threads()),
        **provenance("torch"), "lines": lines,
    }  # fmt: skip
    write_json(RESULTS / "activation_memory.json", result)
    print(table(lines))
    if args.publish:
        PAGE.write_text(fill(PAGE.read_text(), "activation_memory", f"\n{table(lines)}\n\n{describe(result)}\n\n", PAGE.name))


if __name__ == "__main__":
    run(main)
