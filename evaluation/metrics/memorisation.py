"""Are generated images copies of training images? Distances to the nearest one, against those of held-out images."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.base import ImageBatch, Evaluator, check_n, check_u8
from evaluation.metrics.feature_distance import MIN_IMAGES
from evaluation.metrics.frechet import frechet_of_features
from evaluation.metrics.intervals import interval
from evaluation.metrics.nearest_neighbours import Space

PERCENTILE = 0.01
PIXELS = 8  # side of the blurred images
PAIRS = 16
BATCH = 1024


class Memorisation(Evaluator):
    """Whether generated images lie closer to training images than images do that were never trained on.

    In two spaces, the extractor's features and the pixels of blurred 8 x 8 images, since a copy with a little noise on
    it is far away in features: `memorised_…` is the share of images nearer to their nearest training image than 99 %
    of held-out images are (0.01 is nothing; exact copies are counted almost exactly), `z_u_…` the Mann-Whitney z of
    these distances against the held-out ones (0 is nothing, below -2 is nearer than chance). `fd_gap_…` is the Fréchet
    distance to n training images less that to n held-out ones (below 0: nearer to the training set). `…_real` has the
    prompts' own real images in place of the generated ones.

    A copy of a common motif (a plain red circle) is close without being memorised: look at the pairs.

    Source: Meehan et al. 2020 (z_u: C_T without cells); Stein et al. 2023, section 5 (the panel and its limits).
    """

    section = "memorisation"
    needs = frozenset({"train", "holdout"})

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        self.name = "memorisation"
        spaces = (extractor.id, "pixels")
        self.headlines = tuple(f"memorised_{space}" for space in spaces)
        self.gap = f"fd_gap_{extractor.id}"
        self.higher_is_better = {f"z_u_{space}": True for space in spaces} | {self.gap: True}
        self._details: dict[str, Any] = {}

    def prepare(self, prompts: Any) -> None:
        self._train, self._holdout = prompts.train, prompts.holdout

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        real, fake = batch.real, batch.fake
        check_u8(real=real, fake=fake, train=self._train)
        if fake.shape[1:] != self._train.shape[1:]:
            raise ValueError(f"training images are {tuple(self._train.shape[1:])}, generated {tuple(fake.shape[1:])}")
        columns = {"fake": self.extractor(fake), "real": self.extractor(real)}
        return columns | {"fake_pixels": blurred(fake), "real_pixels": blurred(real)}

    def compute(self) -> dict[str, float]:
        check_n("memorisation", len(self.rows), MIN_IMAGES, "shares of one in a hundred would not show")
        check_n("memorisation", len(self._holdout), 100, "held-out images set the scale of the first percentile")
        values: dict[str, float] = {}
        nearest: dict[str, tuple[Tensor, Tensor]] = {}
        hist: dict[str, Any] = {}
        for space in (self.extractor.id, "pixels"):
            near = self._nearest(space)
            held = near["holdout"][0][:, 0]
            for name, suffix in (("fake", ""), ("real", "_real")):
                distances = near[name][0][:, 0]
                below = (distances < held.quantile(PERCENTILE)).double()
                share = f"memorised_{space}"
                values[f"{share}{suffix}"] = float(below.mean())
                values[f"z_u_{space}{suffix}"] = mann_whitney_z(distances, held)
                if name == "fake":
                    values[f"{share}_low"], values[f"{share}_high"] = interval(below, share=True)
                    values |= {f"{share}_chance": PERCENTILE, f"{share}_n": len(below)}
            nearest[space] = near["fake"]
            hist = hist or {"fake": near["fake"][0][:, 0].tolist(), "holdout": held.tolist()}
        values |= self._gap()
        self._details = {"memorisation": {"pairs": self._pairs(nearest), "hist": hist}}
        return values

    def _features(self, image_u8: Tensor, space: str) -> Tensor:
        extract = blurred if space == "pixels" else self.extractor
        return torch.cat([extract(part) for part in image_u8.split(BATCH)])

    def _nearest(self, space: str) -> dict[str, tuple[Tensor, Tensor]]:
        suffix = "_pixels" if space == "pixels" else ""
        sets = {name: self.rows.column(f"{name}{suffix}") for name in ("fake", "real")}
        sets |= {"holdout": self._features(self._holdout, space), "train": self._features(self._train, space)}
        whole = Space(**sets)
        return {name: whole.nearest(name, "train") for name in ("fake", "real", "holdout")}

    def _gap(self) -> dict[str, float]:
        """Distance to training less distance to held-out images, with equally many of each."""
        train, holdout = (self._features(image, self.extractor.id) for image in (self._train, self._holdout))
        n = min(len(train), len(holdout))
        if n < MIN_IMAGES:
            return {}
        chosen = [spread(features, n) for features in (train, holdout)]
        gaps = {}
        for name, suffix in (("fake", ""), ("real", "_real")):
            to_train, to_holdout = (frechet_of_features(features, self.rows.column(name)) for features in chosen)
            gaps[f"{self.gap}{suffix}"] = to_train - to_holdout
        return gaps

    def _pairs(self, nearest: dict[str, tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
        """The closest pairs: half of them by features, half by pixels, each generated image once."""
        by_rank = []
        for space in nearest:
            order = nearest[space][0][:, 0].argsort(stable=True).tolist()
            by_rank.append([(rank, space, row) for rank, row in enumerate(order[:PAIRS])])
        chosen: dict[int, str] = {}
        for _, space, row in sorted(sum(by_rank, []), key=lambda entry: entry[0]):
            if len(chosen) < PAIRS:
                chosen.setdefault(row, space)
        pixels = Space(fake=self.rows.column("fake_pixels"), train=self._features(self._train, "pixels"))
        features = Space(fake=self.rows.column("fake"), train=self._features(self._train, self.extractor.id))
        pairs = []
        for row, space in chosen.items():
            i, j = torch.tensor([row]), nearest[space][1][row]
            pairs.append(
                {
                    "fake": self.rows.indices[row],
                    "train": int(j),
                    "feature_distance": float(features.exact("fake", i, "train", j).sqrt()),
                    "pixel_distance": float(pixels.exact("fake", i, "train", j).sqrt()),
                    "train_png": png_uri(self._train[int(j)]),
                }
            )
        return pairs

    def protocol(self) -> dict[str, Any]:
        rule = f"area mean to {PIXELS} x {PIXELS}"
        return self.extractor.describe() | {"pixels": rule, "percentile": PERCENTILE}

    def details(self) -> dict[str, Any]:
        return self._details

    def reset(self) -> None:
        super().reset()
        self._details = {}


def blurred(image_u8: Tensor) -> Tensor:
    """Pixels of an image averaged to 8 x 8, in [0, 1], (B, C * 64): blind to noise, edges and small shifts."""
    return F.adaptive_avg_pool2d(image_u8.float() / 255, PIXELS).flatten(1).cpu()


def mann_whitney_z(a: Tensor, b: Tensor) -> float:
    """Standard score of how often values of `a` exceed values of `b`; 0 for equal distributions, ties count half.

    Source: Mann and Whitney 1947.
    """
    n, m = len(a), len(b)
    both = torch.cat([a, b]).double()
    values, inverse, counts = both.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # mean rank of tied values
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    total = n + m
    ties = float((counts.double() ** 3 - counts).sum()) / (total * (total - 1))
    spread = (n * m / 12 * (total + 1 - ties)) ** 0.5
    return (u - n * m / 2) / spread if spread > 0 else 0.0


def spread(features: Tensor, n: int) -> Tensor:
    """n rows at even steps."""
    return features[torch.arange(n) * len(features) // n]


def png_uri(image_u8: Tensor) -> str:
    """A uint8 image (C, H, W) as a data URI."""
    array = image_u8.permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
