"""Noise for each sample: a function of its seed and tags alone, and of all bits of them."""

from __future__ import annotations

import threading
from collections import defaultdict
from hashlib import blake2b

import pytest
import torch

from rng import keyed

from rng.keyed import keyed_generators, keyed_rand, keyed_randn, randn


def test_row_depends_on_its_own_seed_and_tags_only():
    together = keyed_randn([3, 1, 7], (4, 5), "eps", "base")
    assert torch.equal(together[1:2], keyed_randn([1], (4, 5), "eps", "base"))
    assert torch.equal(together, keyed_randn(torch.tensor([3, 1, 7]), (4, 5), "eps", "base"))
    assert not torch.equal(together, keyed_randn([3, 1, 7], (4, 5), "eps", "sr"))
    assert not torch.equal(together[0], together[1])


def test_tags_do_not_run_together():
    assert not torch.equal(keyed_rand([1], "ab", "c"), keyed_rand([1], "a", "bc"))
    assert not torch.equal(keyed_rand([1], 2), keyed_rand([1], "2"))


def test_streams_are_the_same_on_every_machine():
    # Written down once: a change here changes every published sample.
    assert keyed_rand([0, 2**63 - 1], "t").tolist() == pytest.approx([0.60231394, 0.72777212], abs=1e-7)
    assert keyed_randn([0], (2,), "eps")[0].tolist() == pytest.approx([-0.32634047, 0.07090841], abs=1e-6)
    wide = keyed_randn([7], (32,), "eps")[0, ::8]  # torch draws 16 and more numbers in another way
    assert wide.tolist() == pytest.approx([0.78317016, -0.18797468, 0.38576949, -1.28784633], abs=1e-6)


def test_moments():
    u = keyed_rand(range(4000), "t")
    z = keyed_randn(range(4000), (4,), "eps")
    assert 0 <= u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * 12**-0.5 / 4000**0.5
    assert abs(z.mean()) < 4 / 16000**0.5 and abs(z.var() - 1) < 4 * (2 / 16000) ** 0.5
    assert torch.corrcoef(z.T).triu(1).abs().max() < 4.5 / 4000**0.5


def test_randn_continues_each_generator():
    generators = keyed_generators([5, 6], "x")
    first, second = randn((2, 3), generators), randn((2, 3), generators)
    assert not torch.equal(first, second)
    alone = keyed_generators([6], "x")
    assert torch.equal(first[1:], randn((1, 3), alone)) and torch.equal(second[1:], randn((1, 3), alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inference", [False, True])
def test_many_numbers_are_drawn_by_threads_to_the_same_values(monkeypatch: pytest.MonkeyPatch, inference: bool, dtype: torch.dtype) -> None:
    seeds, threads = range(9), set()
    plain = torch.stack([torch.randn(5, 7, generator=g, dtype=dtype) for g in keyed_generators(seeds, "x")])
    monkeypatch.setattr(keyed, "MANY", 9 * 5 * 7)
    real = torch.randn

    def noted(*size, **settings):
        threads.add(threading.get_ident())
        return real(*size, **settings)

    monkeypatch.setattr(torch, "randn", noted)
    with torch.inference_mode(inference):
        assert torch.equal(randn((9, 5, 7), keyed_generators(seeds, "x"), dtype=dtype), plain)
        assert threads and threading.get_ident() not in threads
        threads.clear()
        assert torch.equal(randn((8, 5, 7), keyed_generators(seeds[:8], "x"), dtype=dtype), plain[:8])
    assert threads == {threading.get_ident()}


def test_rows_of_one_number_and_no_rows() -> None:
    assert torch.equal(randn((3,), keyed_generators([1, 2, 3], "x")), torch.stack([torch.randn((), generator=g) for g in keyed_generators([1, 2, 3], "x")]))
    assert randn((0, 4), []).shape == (0, 4)


def test_randn_one_generator_and_dtype():
    one = randn((2, 3), torch.Generator().manual_seed(0), dtype=torch.float64)
    assert one.dtype == torch.float64
    assert torch.equal(one, torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def test_wrong_number_of_generators():
    with pytest.raises(ValueError, match="4 generators for a batch of 3"):
        randn((3, 1), keyed_generators([1, 2, 3, 4]))
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        randn((3, 1), keyed_generators([1, 2]))


def test_all_bits_of_a_seed_count() -> None:
    """200,000 seeds that agree in their lower 32 bits: the first numbers are all different."""
    first = torch.stack([torch.rand(2, generator=g) for g in keyed_generators([i << 32 for i in range(200_000)], "x")])
    assert len(first.unique(dim=0)) == len(first)


def test_two_samples_of_a_million_do_not_share_their_noise() -> None:
    """Seeds whose 64-bit hashes agree in the lower half, all that torch's manual_seed would keep of them."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for seed in range(400_000):
        groups[blake2b(repr((seed, "eps")).encode(), digest_size=8).digest()[:4]].append(seed)
    twins = [group for group in groups.values() if len(group) > 1]
    assert len(twins) > 5
    for group in twins:
        noise = keyed_randn(group, (256,), "eps")
        assert (noise[0] - noise[1]).abs().median() > 0.5
        assert abs(torch.corrcoef(noise)[0, 1]) < 4.5 / 256**0.5


def test_tags_are_independent() -> None:
    a, b = (keyed_randn(range(500), (64,), tag).flatten() for tag in ("eps", "aug_eps"))
    assert abs(torch.corrcoef(torch.stack((a, b)))[0, 1]) < 4.5 / len(a) ** 0.5


def test_neighbouring_seeds_are_independent() -> None:
    noise = keyed_randn(range(501), (64,), "eps")
    pairs = torch.stack((noise[:-1].flatten(), noise[1:].flatten()))
    assert abs(torch.corrcoef(pairs)[0, 1]) < 4.5 / pairs.shape[1] ** 0.5


def test_no_seeds_give_no_generators() -> None:
    assert keyed_generators([], "x") == [] and keyed_randn(range(3), (), "x").shape == (3,)


def test_a_key_must_have_a_stable_text() -> None:
    with pytest.raises(TypeError):
        keyed_generators([0.5], "x")


def test_a_torch_with_another_layout_of_states_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed, "_PLACE", 4)
    keyed._template.cache_clear()
    with pytest.raises(RuntimeError, match="keeps the state of a generator in a form"):
        keyed_generators([1], "x")
    keyed._template.cache_clear()
