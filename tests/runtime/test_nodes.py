"""Arguments of what a configuration builds: names, types and ranges, at their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from runtime.build import check_targets, instantiate
from runtime.config import CONF, compose
from runtime.nodes import RANGES, Count, Share, _found, arguments, check_nodes, expected, fits, largest, ranged, shown


class Parent:
    def __init__(self, lr: float = 1.0, name: str | None = None) -> None: ...


class Thing(Parent):
    def __init__(
        self,
        dim: int,
        dims: Sequence[int] = (),
        net: Callable[..., Any] | None = None,
        part: Closed | None = None,
        parts: dict[str, Closed] | None = None,
        listed: Sequence[Closed] = (),
        **kwargs: Any,
    ) -> None: ...


class Closed(Parent):
    def __init__(self, pair: tuple[float, float] = (0.0, 1.0), dropout: float = 0.0) -> None: ...


THING, CLOSED = f"{__name__}.Thing", f"{__name__}.Closed"


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"dim": -32}, "model.dim=-32: give a whole number of at least 1"),
        ({"dim": 1.0}, "model.dim=1.0"),
        ({"dim": True}, "model.dim=true"),
        ({"dim": "8"}, "model.dim=8"),
        ({"dim": None}, "model.dim=null"),
        ({"dims": [8, 0]}, r"model.dims=\[8,0\]: give a list, each a whole number of at least 1"),
        ({"dims": 8}, "model.dims=8: give a list"),
        ({"net": "unet"}, "model.net=unet: give what is built by"),
        ({"lr": "abc"}, "model.lr=abc: give a number above 0"),  # an argument of the class above
        ({"lr": float("inf")}, "model.lr=inf"),
        ({"name": 3}, "model.name=3: give text or null"),
        ({"foo": 1}, "model.foo=1: Thing takes no 'foo'. It takes lr, name, dim, dims, net|takes no 'foo'"),
        ({"net": {"_target_": CLOSED, "dropout": 2}}, "model.net.dropout=2: give a number from 0 to 1"),
        ({"net": {"_target_": CLOSED, "lr": 2}}, "model.net.lr=2: Closed takes no 'lr'"),
        ({"net": {"_target_": CLOSED, "binarize": "x"}}, "'binarize'. likelihood=bernoulli asks .*=logistic_mixture."),
        ({"net": {"_target_": CLOSED, "pair": [1]}}, "model.net.pair"),
        ({"net": {"_target_": f"{__name__}.Close"}}, "Did you mean .*Closed"),
        ({"_target_": 3}, "model._target_=3: give the dotted name"),
        ({"dim": 8, "dims": [], "lr": 1, "net": None, "_partial_": True}, None),
        ({"net": {"_target_": CLOSED, "pair": [1, 2.5]}}, None),
        ({"dim": 2**16}, None),
        ({"dim": 2**16 + 1}, "model.dim=65537: give a whole number of at least 1 and at most 65,536"),
        ({"_args_": [8]}, r"model._args_=\[8\]: give arguments by their names"),
        ({"_partial_": "maybe"}, "model._partial_=maybe: give true or false"),
        ({"_recursive_": 3}, "model._recursive_=3: give true or false"),
        ({"_convert_": "some"}, "model._convert_=some: give none, partial, object or all"),
        ({"part": {"_target_": THING}}, "model.part: .*Thing is no Closed"),
        ({"part": {"_target_": CLOSED, "_partial_": True}}, "model.part: .*Closed is called in part .* where a Closed belongs"),
        ({"part": {"_target_": CLOSED}}, None),
        ({"parts": {"a": {"_target_": CLOSED}, "b": {"_target_": THING}}}, "model.parts: .*Thing is no Closed"),
        ({"listed": [{"_target_": THING}]}, "model.listed: .*Thing is no Closed"),
    ],
)
def test_what_is_wrong_is_named_at_its_place(node: dict[str, Any], says: str | None) -> None:
    node = {"_target_": THING, **node}
    if says is None:
        check_nodes(node, "model")
    else:
        with pytest.raises(ValueError, match=says):
            check_nodes(node, "model")


@pytest.mark.parametrize("model", sorted(p.stem for p in (CONF / "model").glob("*.yaml")))
def test_every_model_passes_as_it_is(model: str) -> None:
    from omegaconf import OmegaConf

    cfg = compose("train", [f"model={model}", "run_dir=somewhere", "name=x", "data.root=images"] if "paper" in model
                  else [f"model={model}", "run_dir=somewhere", "name=x"])  # fmt: skip
    check_nodes(OmegaConf.to_container(cfg, resolve=True))


def test_an_optimiser_that_cannot_be_made_is_refused_with_the_model() -> None:
    cfg = compose("train", ["model=vae", "codec=mlp", "data.image_size=8"])
    with pytest.raises(Exception) as error:
        cfg.model.optimizer = {"_target_": "torch.optim.Adam", "_partial_": True, "betas": [0.5, 2]}
        instantiate(cfg.model)
    assert "model.optimizer: Invalid beta parameter" in str(error.value.__cause__)


def test_types_in_words_and_values_as_typed() -> None:
    assert expected(int | None) == "a whole number or null"
    assert expected(Literal["a", "b"]) == "a or b"
    assert expected(ranged(int | Sequence[int], Count)) == (
        "a whole number of at least 1 or a list, each a whole number of at least 1"
    )
    assert expected(ranged(float, Share)) == "a number from 0 to 1"
    assert shown({"a": [1, None, True]}) == "{a: [1,null,true]}" and shown("") == "" and shown(" ") == "' '"


@pytest.mark.parametrize(
    ("value", "annotation", "right"),
    [(1, float, True), (True, int, False), (True, float, False), ("1", int, False), ([1, 2], tuple[int, ...], True),
     ([1, 2], tuple[int, int, int], False), (None, int | None, True), (3, Callable[..., Any], False), ("x", Any, True)],
)  # fmt: skip
def test_strict_types(value: Any, annotation: Any, right: bool) -> None:
    assert fits(value, annotation) is right


def test_arguments_of_a_class_include_those_passed_on() -> None:
    assert set(arguments(Thing)[0]) == {"dim", "dims", "net", "part", "parts", "listed", "lr", "name"} and not arguments(Thing)[1]
    assert set(arguments(Closed)[0]) == {"pair", "dropout"}


def test_one_table_says_what_a_number_may_be_at_home_and_in_a_strangers_file() -> None:
    assert (largest("dim"), largest("num_workers"), largest("devices")) == (2**16, 128, 64)
    assert largest("seed") is None and largest("dropout") is None and largest("hidden") is None and largest("nothing") is None
    for name in RANGES:
        if (most := largest(name)) is not None:
            assert fits(most, RANGES[name]) and not fits(most + 1, RANGES[name])
            with pytest.raises(ValueError, match=f"at most {most:,}"):
                check_targets({name: most + 1}, "model")


def test_a_name_that_differs_in_its_capitals_is_found_and_nothing_else_is_said(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"there is no such class or function. Did you mean torch.optim.AdamW\?"):
        _found("torch.optim.Adamw", "model.optimizer")
    assert capfd.readouterr() == ("", "")
