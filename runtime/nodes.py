"""Are the arguments of everything that a configuration builds of the right names, types and ranges?

What a constructor's annotations say is checked with pydantic; what a number may be follows from its name, because a
name means the same everywhere (docs/conventions.md).
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import logging
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

import hydra.utils
from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it writes to stderr what an error of ours says in one line

Count = Annotated[int, Field(ge=1), "a whole number of at least 1"]
Devices = Annotated[int, Field(ge=-1), "a whole number"]
Whole = Annotated[int, Field(ge=0), "a whole number of at least 0"]
Seed = Annotated[int, Field(ge=0, lt=2**63), "a whole number from 0 to 2^63 - 1"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), "a number above 0"]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), "a number of at least 0"]
Finite = Annotated[float, Field(allow_inf_nan=False), "a number"]
Share = Annotated[float, Field(ge=0, le=1), "a number from 0 to 1"]


def _named(kind: Any, *names: str, **largest: int) -> dict[str, Any]:
    """Rows of the table below: names of one kind, and names with the largest number that they may have."""
    base, field, text = get_args(kind)
    rows = {name: Annotated[base, field, Field(le=most), f"{text} and at most {most:,}"] for name, most in largest.items()}
    return dict.fromkeys(names, kind) | rows


# The range of numbers by argument name, in all constructors of this repository. More than the largest would fill the memory
# or never end: a configuration from somebody else may have no more than that at any place (runtime/build.py).
RANGES: dict[str, Any] = {
    **_named(
        Count,
        "attn_resolutions", "components", "context_length", "critic_steps", "crop_size", "dim_mults", "dims", "emb_dim", "embed_dim", "embedding_dim",
        "every_steps", "fold", "group_width", "head_dim", "heads", "hidden", "latent_dim", "max_batches",
        "max_in_a_row", "mixed_shards", "num_classes", "num_images", "num_params", "num_tokens", "out_channels", "out_dim", "patch_size",
        "penalty_every", "size", "text_dim", "token_dim", "tokens_dim", "total_steps",
        batch_size=2**20, buckets=2**16, candidates=256, channels=2**12, dim=2**16, eval_importance_samples=10**5, fit_images=10**6, image_size=2**13,
        importance_samples=10**5, input_size=2**13, keep=10**6, max_length=2**16, max_letters=2**10, n=10**6, num_frequencies=2**16,
        num_steps=10**5, substeps=10**4, num_test_images=10**7, num_train_steps=10**6, num_val=10**7, num_val_images=10**7,
        train_images=10**7, layers=10**3, vocab_size=10**6,
    ),
    **_named(
        Whole,
        "cond_channels", "kl_warmup_images", "mid_blocks", "min_side", "num_layers", "num_res_blocks", "warmup_steps",
        num_workers=128, registers=2**10,
    ),
    **_named(Devices, devices=64),
    **_named(Seed, "seed", "data_seed"),
    **_named(
        Positive,
        "adam_lr", "beta_end", "beta_start", "clip_norm", "discriminator_lr", "eps", "ff_mult", "half_life_images",
        "init_logit_scale", "lr", "max_logit_scale", "mlp_ratio",
        "rho", "sigma_data", "sigma_max", "sigma_min", "std",
    ),
    **_named(
        NotNegative,
        "beta", "blur_sigma", "cache_gb", "eta", "every_sec", "final", "free_bits_nats", "gradient_penalty", "r1", "r2", "temperature",
        "weight_decay",
    ),
    **_named(
        Share,
        "aug_level", "augment_prob", "batch_share", "betas", "cond_drop_prob", "damage_prob", "decay", "decay_fraction", "dropout", "guidance_rescale",
        "label_smoothing", "max_aug_level", "max_bad_fraction", "momentum", "nothing_prob", "spelling", "test_fraction", "threshold_percentile", "truncation",
        "val_fraction",
    ),
    **_named(Finite, "centres", "guidance_scale", "init_logit_bias", "log_snr_max", "log_snr_min", "mean", "shift"),
}  # fmt: skip
HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def largest(name: str) -> int | None:
    """The largest whole number that an argument of a name may have, where there is one."""
    kind, *parts = get_args(RANGES.get(name)) or (None,)
    limits = [limit.le for part in parts for limit in getattr(part, "metadata", ()) if hasattr(limit, "le")]
    return limits[0] if kind is int and limits else None


def check_nodes(node: Any, where: str = "") -> None:
    """Raises ValueError, naming the setting, for a wrong name, type or range below a plain configuration node.

    Args:
        node: dicts, lists and scalars, resolved; dicts with `_target_` build something.
        where: its place in the configuration, for instance `model`.
    """
    if isinstance(node, dict):
        if "_target_" in node:
            _check_arguments(node, where)
        for key, value in node.items():
            check_nodes(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            check_nodes(value, f"{where}[{i}]")


def check_values(annotations: dict[str, Any], values: dict[str, Any], where: str = "") -> None:
    """Raises ValueError unless each of some plain values is what the annotation of its name says."""
    for name, value in values.items():
        wanted = ranged(annotations.get(name, Any), RANGES.get(name))
        if not builds(value) and not fits(value, wanted):
            raise ValueError(f"{where}{name}={shown(value)}: give {expected(wanted)}")
        if (wrong := unsuited(value, annotations.get(name, Any))) is not None:
            raise ValueError(f"{where}{name}: {wrong}")


HYDRAS_ARE = {"_partial_": bool, "_recursive_": bool, "_convert_": typing.Literal["none", "partial", "object", "all"]}


def _check_arguments(node: dict[str, Any], where: str) -> None:
    target = _found(node["_target_"], where)
    if "_args_" in node:
        raise ValueError(f"{where}._args_={shown(node['_args_'])}: give arguments by their names")
    for key, kind in HYDRAS_ARE.items():
        if key in node and not fits(node[key], kind):
            raise ValueError(f"{where}.{key}={shown(node[key])}: give {expected(kind)}")
    name, given = getattr(target, "__name__", str(target)), {k: v for k, v in node.items() if k not in HYDRAS}
    try:
        known, anything = arguments(target)
    except ValueError:  # some functions in C have no signature to compare with
        return
    if unknown := [key for key in given if key not in known and not anything]:
        raise ValueError(f"{where}.{unknown[0]}={shown(given[unknown[0]])}: {takes(name, unknown[0], known)}")
    module = getattr(target, "__module__", "") or ""
    if module.startswith("torch.optim"):
        check_values({}, {k: v for k, v in given.items() if k in ("lr", "weight_decay")}, f"{where}.")
    if not module.startswith("torch."):
        check_values(known, given, f"{where}.")


# What to change elsewhere, for names that another choice sets.
REMEDIES = {"binarize": " likelihood=bernoulli asks for it: colours need another, for instance likelihood=logistic_mixture."}


def takes(name: str, wrong: str, known: Any) -> str:
    """`Adam takes no "learning_rate". Did you mean lr? It takes …`"""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    hint = f" Did you mean {near[0]}?" if near else REMEDIES.get(wrong, "")
    return f"{name} takes no {wrong!r}.{hint} It takes {', '.join(known) or 'nothing'}"


def _found(target: Any, where: str) -> Any:
    """The class or function of a dotted name. Raises ValueError that names the nearest one."""
    place = f"{where}._target_={shown(target)}"
    if not isinstance(target, str) or "." not in target:
        raise ValueError(f"{place}: give the dotted name of a class or function, for instance torch.optim.Adam")
    try:
        return hydra.utils.get_object(target)
    except (ImportError, ValueError):  # hydra's own
        parent, _, last = target.rpartition(".")
        try:
            names = list(vars(hydra.utils.get_object(parent)))
        except (ImportError, ValueError, TypeError):
            names = []
        near = [name for name in names if name.lower() == last.lower()] or difflib.get_close_matches(last, names, n=1)
        hint = f" Did you mean {parent}.{near[0]}?" if near else ""
        raise ValueError(f"{place}: there is no such class or function.{hint}") from None


@functools.cache
def arguments(target: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """{argument: annotation} of a class or function, and whether it takes any others.

    A constructor's `**kwargs` stand for what the class above it takes.

    Raises: ValueError for what has no signature.
    """
    if not inspect.isclass(target):
        return _of_function(target)
    found: dict[str, Any] = {}
    for parent in target.__mro__:
        if "__init__" in vars(parent) and parent is not object:
            own, more = _of_function(parent.__init__)
            found = {**own, **found}
            if not more:
                return found, False
    return found, bool(found)


def _of_function(function: Any) -> tuple[dict[str, Any], bool]:
    parameters = inspect.signature(function).parameters.values()
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # names that only a type checker imports
        hints = {}
    named = {p.name: hints.get(p.name, Any) for p in parameters if p.kind not in VARIADIC and p.name != "self"}
    return named, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def builds(value: Any) -> bool:
    """Whether a plain value holds a node, which becomes something else before a constructor sees it."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(builds, value.values()))
    return any(map(builds, value)) if isinstance(value, list) else callable(value)


def unsuited(value: Any, annotation: Any) -> str | None:
    """Why what a node builds is not what an annotation asks for, or None: another class, or a call in part for an object."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return unsuited(value, inside[0])
    if origin in (Union, types.UnionType):
        found = [unsuited(value, a) for a in inside if a is not type(None)]
        return None if None in found else found[0]
    if isinstance(value, dict) and "_target_" not in value and origin is dict:
        return next((why for v in value.values() if (why := unsuited(v, inside[1]))), None)
    if isinstance(value, list) and inside and origin is not tuple:
        return next((why for v in value if (why := unsuited(v, inside[0]))), None)
    plain_class = inspect.isclass(annotation) and origin is None and not getattr(annotation, "_is_protocol", False)
    if not isinstance(value, dict) or "_target_" not in value or not plain_class or annotation in (object, Any):
        return None
    wanted, name = annotation.__name__, value["_target_"]
    target = _found(name, "")
    if value.get("_partial_") is True:
        return f"{name} is called in part (_partial_: true), where a {wanted} belongs"
    if inspect.isclass(target) and not issubclass(target, annotation):
        return f"{name} is no {wanted}"
    return None


def ranged(annotation: Any, limits: Any) -> Any:
    """An annotation with its numbers narrowed to `limits`: `int | None` of counts is `Count | None`."""
    if limits is None:
        return annotation
    if annotation in (int, float, Any):
        whole = annotation is int and get_args(limits)[0] is float
        return annotation if whole else limits
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated or not inside or origin is typing.Literal:
        return annotation
    if origin in (Union, types.UnionType):
        return Union[tuple(ranged(a, limits) for a in inside)]
    if origin is dict:
        return dict[inside[0], ranged(inside[1], limits)]
    if isinstance(inside[0], list) or inside[0] is Ellipsis:  # Callable[[…], …]
        return annotation
    return origin[tuple(a if a is Ellipsis else ranged(a, limits) for a in inside)]


def fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value is what an annotation says, without any conversion but whole numbers to floats."""
    try:
        # As JSON, in which a list may be any sequence, and no plain value is a module or a function.
        _adapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    except PydanticUserError:  # a type that pydantic does not know
        return True
    return True


@functools.lru_cache(maxsize=512)
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=STRICT)


WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def expected(annotation: Any) -> str:
    """What an annotation asks for, in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        texts = [text for text in annotation.__metadata__ if isinstance(text, str)]
        return texts[-1] if texts else expected(inside[0])
    if annotation in WORDS:
        return WORDS[annotation]
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(expected, inside)))
    if origin is typing.Literal:
        return ", ".join(map(shown, inside[:-1])) + f" or {shown(inside[-1])}" if len(inside) > 1 else shown(inside[0])
    if origin is dict or annotation is dict:
        return f"{{name: {expected(inside[1]) if inside else 'value'}}}"
    if origin is tuple and Ellipsis not in inside:
        return f"a list of {len(inside)}: {', '.join(map(expected, inside))}"
    if origin is not None and inside and not isinstance(inside[0], list) and inside[0] is not Ellipsis:
        return f"a list, each {expected(inside[0])}"
    if annotation is Any:
        return "a value"
    return "what is built by {_target_: …}"


def shown(value: Any) -> str:
    """A plain value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(v)}" for key, v in value.items()) + "}"
    if isinstance(value, str) and not value.strip():
        return repr(value) if value else ""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
