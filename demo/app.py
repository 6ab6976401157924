"""A page on this machine where a trained model draws what is typed.

python -m app [--ckpt imagen-scenes --port 7860 --host 127.0.0.1]      needs: pip install -r requirements-app.txt

The checkpoint is a run, a file, or a name in zoo/. Nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from api import Model, load

MOST = 16  # pictures at once
NEEDS = "this needs the package gradio: pip install -r requirements-app.txt"


def pictures(model: Model, told: str | int | None, n: float, seed: float, guidance: float | None, steps: float | None) -> list[Image.Image]:
    """What the page shows for its fields: `n` pictures from `seed` on.

    Args:
        told: the prompt of a model of text, the class of a model of classes; ignored by others.
        guidance, steps: of the first stage; None where the model has neither.
    Raises: ValueError for what the model does not take.
    """
    kind = model.module.conditioning
    given: dict[str, Any] = {"prompts": told or ""} if kind == "text" else {"labels": int(told or 0)} if kind == "label" else {}
    options: dict[str, Any] = {}
    if steps is not None:
        base = model.module.base
        options = {"guidance_scale": {base: float(guidance)}, "num_steps": {base: int(steps)}}
    return model.sample(**given, n=int(n), seed=int(seed), **options)


def defaults(model: Model) -> tuple[float, int] | None:
    """Guidance scale and number of steps of the first stage; None of a model without stages."""
    if not hasattr(model.module, "stages"):
        return None
    stage = model.module.stages[model.module.base]
    return stage.guidance_scale, stage.num_steps


def interface(model: Model, ckpt: str) -> Any:
    """The page, as gradio's Blocks. Raises: ValueError without gradio."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError(NEEDS) from None
    kind, staged = model.module.conditioning, defaults(model)

    def draw(told: str | int | None, n: float, seed: float, guidance: float | None = None, steps: float | None = None) -> list[Image.Image]:
        try:
            return pictures(model, told, n, seed, guidance, steps)
        except ValueError as error:
            raise gr.Error(str(error)) from None

    with gr.Blocks(title=f"{ckpt}: draw") as page:
        gr.Markdown(f"# {ckpt}\n{type(model.module).__name__}, {sum(p.numel() for p in model.module.parameters()):,} parameters")
        with gr.Row():
            with gr.Column():
                if kind == "text":
                    told = gr.Textbox(label="Prompt", value="a small red circle left of a large blue square", elem_id="prompt")
                elif kind == "label":
                    told = gr.Number(label="Class", value=0, precision=0, elem_id="prompt")
                else:
                    told = gr.Textbox(visible=False)
                n = gr.Slider(1, MOST, value=4, step=1, label="Pictures")
                seed = gr.Number(label="Seed", value=0, precision=0)
                fields = [told, n, seed]
                if staged:
                    fields.append(gr.Slider(0, 10, value=staged[0], step=0.5, label="Guidance"))
                    fields.append(gr.Slider(1, 100, value=staged[1], step=1, label="Steps"))
                button = gr.Button("Draw", variant="primary", elem_id="draw")
            gallery = gr.Gallery(label="Drawn", columns=4, elem_id="drawn", format="png")
        button.click(draw, fields, gallery, api_name="draw")
        if kind == "text":
            told.submit(draw, fields, gallery, api_name=False)
    return page


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="imagen-scenes", help="a run, a checkpoint or a name in zoo/ (default imagen-scenes)")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    args = parser.parse_args(argv)
    page = interface(load(args.ckpt), args.ckpt)
    import gradio as gr

    # Its own theme asks a server of fonts.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page.launch(server_name=args.host, server_port=args.port, theme=theme)
