"""Likelihoods of held-out images: nats per image as the model gives them, bits per dimension to compare with others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from evaluation.metrics.base import ImageBatch, Evaluator, NotComputed
from evaluation.metrics.intervals import means

# Pixels in [-1, 1] are 2 / 256 apart: a density in these units is 2^7 times the probability of a byte.
DENSITY_BITS = 7.0
CURVE = ("_terms_nats", "_terms_log_snr")  # ends of the names of columns (B, K)


class Likelihood(Evaluator):
    """Mean over real images of what the model says about their likelihood, with 95 % intervals.

    A module that has likelihoods names its columns, per image and in nats, as negative log-likelihoods or upper bounds
    of them (lower is better): `elbo_nats`, `iwae_50_nats`. A name that ends in `_density_nats` is a density of pixels
    in [-1, 1], all others are probabilities of the bytes (or of what the module made of them, binarised pixels for
    instance). Each column gives `…_nats` and `…_bpd`, bits per dimension: nats / (D log 2), plus 7 for a density, so
    that a uniform density of bytes is 8 either way.

    Bounds of different kinds, dequantised and discrete ones, binarised and grey data are different quantities: read the
    name. The likelihood of latents is none of images.

    Where other data was judged too, `auroc_<data>` is the share of pairs in which the other image is less likely than the
    model's own kind, by the last column: one half is chance, and below it the model finds the other data more likely.

    Source: Theis et al. 2016, section 3.1 (why dequantise); Papamakarios et al. 2017, appendix (bits per pixel);
    Nalisnick et al. 2019 (other data that is more likely).
    """

    name = "likelihood"
    headlines = ("bpd",)
    section = "likelihood"
    needs = frozenset({"likelihood"})
    unit = ""
    higher_is_better = False

    def __init__(self) -> None:
        self._dim, self._levels = 0, 2
        self._others: dict[str, dict[str, Tensor]] = {}
        self._how: dict[str, Any] = {}

    def prepare(self, prompts: Any) -> None:
        self._others = prompts.other_likelihoods or {}
        self._how = dict(getattr(prompts, "likelihood_protocol", None) or {})
        self.unit, self.higher_is_better = Likelihood.unit, Likelihood.higher_is_better
        if self._others:  # what the dicts lack is as in a table without them
            names = [f"auroc_{data}" for data in self._others]
            self.unit, self.higher_is_better = dict.fromkeys(names, "%"), dict.fromkeys(names, True)

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        self._dim = batch.real[0].numel()
        if not ((batch.real == 0) | (batch.real == 255)).all():
            self._levels = 256
        given = batch.extra["likelihood"]
        columns = {name: torch.as_tensor(column).double().cpu() for name, column in given.items()}
        if not columns:
            raise NotComputed("the model gave no likelihood")
        for name, column in columns.items():
            if not torch.isfinite(column).all():
                row, *_ = (~torch.isfinite(column)).nonzero()[0].tolist()
                value = float(column[row][~torch.isfinite(column[row])][0])
                raise NotComputed(f"{name} of image {batch.indices[row]} is {value}: one such image is the mean")
        return columns

    def compute(self) -> dict[str, float]:
        if not len(self.rows):
            raise NotComputed("likelihood has seen no images")
        nats, bits = {}, {}
        for name in self._names():
            stem, column = name.removesuffix("_nats"), self.rows.column(name)
            nats[f"{stem}_nats"] = column
            bits[f"{stem}_bpd"] = bits_per_dim(column, self._dim, density=stem.endswith("_density"))
        self.headlines = tuple(bits)
        own, others = self._column()
        return means(bits) | means(nats) | {f"auroc_{data}": auroc(own, other) for data, other in others.items()}

    def _names(self) -> list[str]:
        """Columns of one value per image; those of several are curves."""
        return [name for name in self.rows.names if not name.endswith(CURVE)]

    def _column(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The last column, which is the tightest bound, of the model's own data and of the others."""
        name = self._names()[-1]
        return self.rows.column(name), {data: columns[name] for data, columns in self._others.items()}

    def details(self) -> dict[str, Any]:
        """`likelihood`: the column and its values for the model's own data and for others, where there are any.

        `likelihood_terms`: per bound with curves, its terms as means over the images, in nats, with the log-SNR of each.
        """
        if not len(self.rows):
            return {}
        stems = [name.removesuffix(CURVE[0]) for name in self.rows.names if name.endswith(CURVE[0])]
        curves = {stem: [self.rows.column(f"{stem}{end}").mean(0).tolist() for end in CURVE] for stem in stems}
        terms = {"likelihood_terms": {stem: dict(zip(("nats", "log_snr"), c)) for stem, c in curves.items()}} if stems else {}
        return terms | self._histogram()

    def _histogram(self) -> dict[str, Any]:
        if not self._others:
            return {}
        own, others = self._column()
        values = {data: [round(v, 4) for v in column.tolist()] for data, column in {"own data": own, **others}.items()}
        return {"likelihood": {"column": self.rows.names[-1], "hist": values}}

    def protocol(self) -> dict[str, Any]:
        return {"dimensions": self._dim, "levels": self._levels, **self._how}


def bits_per_dim(nats: Tensor, dim: int, density: bool) -> Tensor:
    """Negative log-likelihoods in nats per image as bits per dimension.

    Args:
        dim: values per image, channels included.
        density: of pixels in [-1, 1] instead of a probability of bytes.
    """
    return nats / (dim * math.log(2)) + (DENSITY_BITS if density else 0.0)


def auroc(own: Tensor, other: Tensor) -> float:
    """Share of pairs in which the value of `other` (M,) exceeds that of `own` (N,); ties count half.

    Source: Hanley and McNeil 1982 (the area under the ROC curve as a rank statistic)
    """
    ordered = own.double().sort().values
    below, up_to = (torch.searchsorted(ordered, other.double(), right=right) for right in (False, True))
    return float((below + up_to).double().mean() / (2 * len(own)))
