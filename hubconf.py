"""torch.hub's entry: `torch.hub.load(REPOSITORY_OR_FOLDER, "load", "imagen-scenes")`; add source="local" for a folder."""

from api import load as load

dependencies = ["torch", "torchvision", "pytorch_lightning", "torchmetrics", "hydra", "omegaconf", "transformers", "PIL", "numpy"]
