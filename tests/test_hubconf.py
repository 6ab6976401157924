"""What torch.hub reads before it loads anything."""

from __future__ import annotations

import importlib

import api
import hubconf


def test_every_dependency_is_a_module_that_the_requirements_bring() -> None:
    assert hubconf.load is api.load
    for name in hubconf.dependencies:
        assert importlib.import_module(name), name
