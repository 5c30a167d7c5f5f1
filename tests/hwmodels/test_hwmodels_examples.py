"""The examples in the docstrings of hwmodels run and print what they say."""

import doctest
import importlib
import pkgutil

import hwmodels


def test_docstring_examples_hold():
    tried = 0
    for module in pkgutil.iter_modules(hwmodels.__path__):
        result = doctest.testmod(importlib.import_module(f"hwmodels.{module.name}"))
        assert result.failed == 0, module.name
        tried += result.attempted
    assert tried >= 4
