"""Tiles of zeros as large as the array, on an array inside a core: beside what SASP publishes.

SASP (Palacios et al., GLSVLSI 2025, arXiv 2411.10285) prunes the weights of feed-forward layers in
blocks of the size of a TiC-SAT array, which passes over them. Here the same blocks are pruned in a
shipped model, those of least magnitude in each layer, and the utterance is simulated on the TiC-SAT
chip of that size. Both sides have 8-bit weights and activations.
"""

from collections.abc import Iterator, Mapping

from cosim.artefact import Artefact, ModelFacts, build, captured, facts_of
from cosim.bench.measure import Row
from cosim.calls import Caller
from cosim.chip import load_chip
from cosim.compress.compressed import compress
from cosim.compress.recipe import parse_recipe
from cosim.config import configs_root, load
from cosim.errors import CosimError
from cosim.evaluate import Progress
from cosim.ir import Graph
from cosim.models import LoadedModel, ModelConfig
from cosim.models import load as load_model
from cosim.simulate import simulate_workloads
from hwmodels.stats import RunStats

MODEL, SECONDS = "wav2vec2_base", 10.0
LAYERS = "*.feed_forward.*"
SIZES = (4, 8, 16, 32)
RATES = (0.5, 0.75)
_W8A8: Mapping[str, object] = {
    "method": "quantize",
    "layers": "*",
    "weight_bits": 8,
    "granularity": "channel",
    "activations": {"bits": 8, "scale": "dynamic", "per": "row"},
}


def tile_rows(text: str, progress: Progress) -> Iterator[Row]:
    """Yield a row per array size and share of pruned blocks whose case contains `text`.

    A case is called `ticsat_SIZE/PERCENT`. Raises CosimError where there is none.
    """
    chosen = [
        (size, rate) for size in SIZES for rate in RATES if text in f"ticsat_{size}/{rate:.0%}"
    ]
    if not chosen:
        raise CosimError(f"bench --tiles: no case contains {text!r}; cases are ticsat_SIZE/PERCENT")
    progress.stage(f"loading {MODEL}")
    loaded = load_model(load(configs_root() / "models" / f"{MODEL}.yaml", ModelConfig))
    facts, graphs = facts_of(loaded, is_zipped=False), captured(loaded)
    plain = _pruned(loaded, facts, graphs)
    progress.stage("pruning and simulating", total=len(chosen))
    dense: dict[int, RunStats] = {}
    for size, rate in chosen:
        if size not in dense:
            dense[size] = _simulated(plain, size)
        pruned = _pruned(loaded, facts, graphs, size=size, rate=rate)
        yield _row(size, rate, dense[size], _simulated(pruned, size), is_random=loaded.is_random)
        progress.advance()


def _pruned(
    loaded: LoadedModel,
    facts: ModelFacts,
    graphs: tuple[Graph, ...],
    *,
    size: int = 0,
    rate: float = 0.0,
) -> Artefact:
    """Return the model in 8 bits, before that with blocks of `size` x `size` pruned (0: none)."""
    prune = {
        "method": "prune_magnitude",
        "layers": LAYERS,
        "pattern": {"block": [size, size]},
        "rate": rate,
    }
    methods = [prune, _W8A8] if size else [_W8A8]
    recipe = parse_recipe({"methods": methods}, name=f"tiles{size}", source="bench --tiles")
    return build(loaded, compress(loaded.module, recipe), facts, graphs, is_zipped=False)


def _simulated(artefact: Artefact, size: int) -> RunStats:
    chip = load_chip(configs_root() / "hardware" / f"ticsat_{size}.yaml")
    return simulate_workloads(Caller(artefact).utterance(SECONDS, []), chip, chip.name)


def _row(size: int, rate: float, dense: RunStats, pruned: RunStats, *, is_random: bool) -> Row:
    inner = [layer for layer in dense.layers if ".feed_forward." in layer.name]
    return {
        "case": f"ticsat_{size}/{rate:.0%}",
        "chip": f"ticsat_{size}",
        "size": size,
        "rate": rate,
        "model": MODEL,
        "seconds": SECONDS,
        "is_random": is_random,
        "dense_cycles": dense.cycles.total,
        "cycles": pruned.cycles.total,
        "dense_array_cycles": dense.cycles.array,
        "array_cycles": pruned.cycles.array,
        "feed_forward_cycles": sum(layer.cycles.array for layer in inner),
        "dense_energy_j": dense.energy_j,
        "energy_j": pruned.energy_j,
        "notes": list(pruned.cycle_notes),
        "note": "",
    }
