from __future__ import annotations

import pytest
import torch

from diffusion.random import keyed_generators, keyed_rand, keyed_randn, randn


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
    assert keyed_rand([0, 1], "t").tolist() == pytest.approx([0.44066930, 0.11770439], abs=1e-7)
    assert keyed_randn([0], (2,), "eps")[0].tolist() == pytest.approx([0.37539247, -0.95816845], abs=1e-6)


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


def test_randn_one_generator_and_dtype():
    one = randn((2, 3), torch.Generator().manual_seed(0), dtype=torch.float64)
    assert one.dtype == torch.float64
    assert torch.equal(one, torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def test_wrong_number_of_generators():
    with pytest.raises(ValueError, match="4 generators for a batch of 3"):
        randn((3, 1), keyed_generators([1, 2, 3, 4]))
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        randn((3, 1), keyed_generators([1, 2]))
