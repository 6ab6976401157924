"""Likelihood on the page: what was measured and how, the terms of a bound, and data that the model knows beside others."""

from __future__ import annotations

from typing import Any

from evaluation.report.likelihood import likelihood, reconstruction
from tests.evaluation.report_models import cells, models, row


def result(details: dict[str, Any] | None = None, **metrics: Any) -> dict[str, Any]:
    return {"splits": {"<iid>": {"n": 4, "metrics": metrics, "details": details or {}}}}


def test_a_number_stands_with_its_interval_control_and_protocol() -> None:
    protocol = {"bound": "upper", "steps": None, "noise": {"kind": "<uniform>"}}
    bits = row(2.5, "bits/dim", section="likelihood", low=2.25, high=2.75, real=1.5, protocol=protocol)
    shown = likelihood(models(result(bits_per_dim=bits, psnr=row(20.0, section="reconstruction"))))
    assert cells(shown) == [
        ["metric", "split", "model", "value", "real images", "how it was measured"],
        ["bits_per_dim ↓ lower is better, bits/dim", "&lt;iid&gt;", "m0", "2.5 ± 0.25", "1.5",
         "bound upper, noise kind &lt;uniform&gt;"],
    ]  # fmt: skip
    assert "<b>2.5</b>" in shown and "<iid>" not in shown and "<uniform>" not in shown


def test_reconstruction_has_its_own_rows() -> None:
    shown = reconstruction(models(result(psnr=row(20.0, "dB", True, "reconstruction"), nll=row(1.0, section="likelihood"))))
    assert cells(shown)[1:] == [["psnr ↑ higher is better, dB", "&lt;iid&gt;", "m0", "20", "–", "–"]]
    assert reconstruction(models(result())) == likelihood(models(result())) == ""


def test_the_terms_of_a_bound_add_up_between_prior_and_decoder() -> None:
    curve = {"nats": [1.0, 20.0, 30.0, 4.0], "log_snr": [-10.0, -5.0, 5.0, 10.0]}
    shown = likelihood(models(result({"likelihood_terms": {"elbo": curve}})))
    assert "m0 (&lt;iid&gt;), terms of the elbo: prior 1 nats, steps 50 nats, decoder 4 nats" in shown
    assert cells(shown) == [
        ["term", "log-SNR", "nats per image"],
        ["prior", "-10", "1"], ["step", "-5", "20"], ["step", "5", "30"], ["decoder", "10", "4"],
    ]  # fmt: skip
    assert "20 nats at log-SNR -5" in shown and shown.count('class="mark"') == 2
    ends = likelihood(models(result({"likelihood_terms": {"elbo": {"nats": [1.0, 4.0], "log_snr": [-10.0, 10.0]}}})))
    assert [one[0] for one in cells(ends)] == ["term", "prior", "decoder"] and "<svg viewBox" not in ends


def test_own_and_other_data_have_quantiles_and_colours_apart() -> None:
    hist = {"own": [1.0, 2.0, 3.0], "<other>": [5.0, 6.0]}
    shown = likelihood(models(result(), result({"likelihood": {"hist": hist, "column": "nats <x>"}})))
    assert '<i class="c1"></i>own</li><li><i class="c2"></i>&lt;other&gt;' in shown
    assert cells(shown) == [
        ["images", "n", "10 % below", "median", "90 % below"],
        ["own", "3", "1.2", "2", "2.8"], ["&lt;other&gt;", "2", "5.1", "5.5", "5.9"],
    ]  # fmt: skip
    assert "nats &lt;x&gt; per image: own: median 2; &lt;other&gt;: median 5.5" in shown and "<other>" not in shown
