"""Claim: every shipped recipe that changes the structure works for every family."""

import numpy as np
import pytest
from small_networks import NAMES, deviation, in_torch, network, plain

from cosim.compress.compressed import compress
from cosim.compress.recipe import load_recipe
from cosim.config import configs_root

AT_TRUE_SIZE_ONLY = {"low_rank_ffn_20", "low_rank_ffn_50"}  # matrices here have fewer columns
RECIPES = [
    path
    for path in sorted((configs_root() / "recipes").glob("*.yaml"))
    if path.stem not in AT_TRUE_SIZE_ONLY
    and any(getattr(entry, "changes_structure", False) for entry in load_recipe(path).methods)
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_takes_parameters_from_every_family(path, name):
    assert len(RECIPES) >= 5
    found = compress(network(name), load_recipe(path))
    assert found.elements <= plain(name).elements
    said = in_torch(found.module, name)
    assert np.isfinite(said).all()
    is_shared_already = name == "tiny_conformer" and path.stem == "share_pairs"
    assert (found.elements < plain(name).elements) is not is_shared_already
    assert (deviation(said, in_torch(network(name), name)) > 1e-3) is not is_shared_already
