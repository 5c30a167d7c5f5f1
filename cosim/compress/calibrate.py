"""How large operands get on calibration inputs: the fixed scales of static quantisation.

A batch is a call that drives a network, `batch(module)`: one forward, or an utterance from encoder
to the last token. So every family calibrates in its own way and nothing here knows of speech.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cosim.compress.codes import Percentile
from cosim.compress.network import Layer, State, Weight
from cosim.errors import CosimError
from cosim.passes.quantize import scale_name

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = Callable[["nn.Module"], object]
Reach = Literal["minmax"] | Percentile
Key = tuple[str, str]
"""Layer and operand, e.g. `("encoder.layers.0.fc1", "input")`."""
See = Callable[[Key, "Tensor"], None]
LIMIT = 127
"""Largest code of 8 bits."""
_SMALLEST = 2.0**-100
"""Range of an operand that was zero throughout: what is not zero later saturates."""
_BINS = 1 << 15
_HEADS = ("q", "k", "v")


@dataclass
class Ranges:
    """Magnitudes seen so far, by operand; `counts` of bins only where a percentile is asked for.

    A bin holds the float32 numbers whose upper 15 bits behind the sign are equal: its ends are less
    than 0.8 % apart.
    """

    has_counts: bool
    largest: dict[Key, float] = field(default_factory=dict)
    counts: dict[Key, NDArray[np.int64]] = field(default_factory=dict)

    def see(self, key: Key, values: "Tensor") -> None:
        """Take notice of the values of one call."""
        seen: NDArray[np.float32] = np.abs(values.detach().numpy()).ravel()
        largest = float(seen.max(initial=0))
        if not np.isfinite(largest):
            raise CosimError(f"{key[0]}: {key[1]}: found values that are not finite in calibration")
        self.largest[key] = max(largest, self.largest.get(key, _SMALLEST))
        if self.has_counts:
            found = np.bincount(seen.view(np.uint32) >> 16, minlength=_BINS)
            self.counts[key] = self.counts.get(key, np.zeros(_BINS, np.int64)) + found

    def ends(self, reach: Reach) -> dict[Key, float]:
        """Return the end of the range of each operand; a percentile is the end of its bin."""
        if not isinstance(reach, Percentile):
            return dict(self.largest)
        found = {}
        for key, counts in self.counts.items():
            wanted = reach.percentile / 100 * counts.sum()
            last = int(np.searchsorted(np.cumsum(counts), wanted))
            end = np.array([min(last + 1, _BINS - 1) << 16], np.uint32).view(np.float32)[0]
            found[key] = max(min(float(end), self.largest[key]), _SMALLEST)
        return found


def calibrate(
    module: "nn.Module",
    batches: Iterable[Batch],
    layers: Sequence[Layer],
    *,
    reach: Reach = "minmax",
) -> dict[Key, float]:
    """Return the end of the range of each operand of `layers` that a batch reached.

    `minmax` is the largest magnitude of all batches; a percentile is that of all their elements
    together. Raises CosimError for values that are not finite.

    Example:
        calibrate(module, [lambda network: network(features)], scan(module).layers)

    """
    ranges = Ranges(isinstance(reach, Percentile))
    watch(module, batches, layers, ranges.see)
    return ranges.ends(reach)


def watch(
    module: "nn.Module",
    batches: Iterable[Batch],
    layers: Sequence[Layer],
    see: See,
    *,
    has_probabilities: bool = False,
) -> None:
    """Call `see` with each operand of `layers` whenever a batch makes a product of it.

    Operands of attention are q, k and v, and with `has_probabilities` p, computed anew.
    """
    import torch  # noqa: PLC0415, slow to import

    modules = dict(module.named_modules())
    attending: list[str] = []
    hooks = []
    for layer in layers:
        place = modules[layer.name]
        if layer.kind == "attention":
            hooks += [
                place.register_forward_pre_hook(_enters(attending, layer.name)),
                place.register_forward_hook(_leaves(attending), always_call=True),
            ]
        elif layer.kind != "embedding":
            hooks.append(place.register_forward_pre_hook(_sees(see, layer.name)))
    try:
        with torch.inference_mode(), _watched_attention(see, attending, has_probabilities):
            for batch in batches:
                batch(module)
    finally:
        for hook in hooks:
            hook.remove()


def _sees(see: See, name: str) -> Callable[..., None]:
    def hook(_module: object, inputs: tuple[Any, ...]) -> None:
        see((name, "input"), inputs[0])

    return hook


def _enters(attending: list[str], name: str) -> Callable[..., None]:
    def hook(_module: object, _inputs: object) -> None:
        attending.append(name)

    return hook


def _leaves(attending: list[str]) -> Callable[..., None]:
    def hook(_module: object, _inputs: object, _result: object) -> None:
        attending.pop()

    return hook


def _watched_attention(see: See, attending: Sequence[str], has_probabilities: bool) -> Any:
    """Return a context in which q, k and v of every attention in a watched block are seen."""
    from torch.nn.functional import scaled_dot_product_attention  # noqa: PLC0415
    from torch.overrides import TorchFunctionMode  # noqa: PLC0415

    class Watched(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: object,
            args: tuple[Any, ...] = (),
            kwargs: Mapping[str, Any] | None = None,
        ) -> Any:
            del types
            if func is scaled_dot_product_attention and attending:
                for operand, value in zip(_HEADS, args, strict=False):
                    see((attending[-1], operand), value)
                if has_probabilities:
                    see((attending[-1], "p"), _probabilities(*args[:2], **(kwargs or {})))
            return func(*args, **(kwargs or {}))

    return Watched()


def _probabilities(q: "Tensor", k: "Tensor", scale: float | None = None) -> "Tensor":
    """Return the softmax of scores without bias or mask, the only ones that codes are kept for."""
    scores = q @ k.transpose(-1, -2)
    return (scores * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1)


def with_scales(state: State, selected: Sequence[Layer], reach: Reach) -> State:
    """Return the state with a scale for each operand of `selected`: its range over 127.

    They are tensors [1] beside the weights, stored and counted like them. The network is run with
    the weights that earlier entries made. A layer that no batch reaches has none, which a note
    tells. Raises CosimError without batches.
    """
    require_batches(state)
    layers = [layer for layer in selected if layer.takes_codes and layer.kind != "embedding"]
    found = calibrate(as_it_is(state), state.batches, layers, reach=reach)
    scales = {
        scale_name(*key): Weight(np.array([largest / LIMIT], np.float32))
        for key, largest in found.items()
    }
    state = tell_missed(state, layers, found)
    return replace(state, weights={**state.weights, **scales})


def require_batches(state: State) -> None:
    """Raise CosimError where there is nothing to calibrate with."""
    if not state.batches:
        raise CosimError(
            "activations.scale: static needs calibration inputs and found none; expected speech in "
            "`calibration:` of the experiment or --calibration, or `batches` of compress()"
        )


def tell_missed(state: State, layers: Iterable[Layer], found: Iterable[Key]) -> State:
    """Return the state with a note of the layers that no batch has reached."""
    reached = {name for name, _ in found}
    missed = [layer.name for layer in layers if layer.name not in reached]
    if not missed:
        return state
    return state.with_notes(
        f"calibration: no input reached {len(missed)} layers ({missed[0]}"
        f"{', ...' if len(missed) > 1 else ''}); a program that calls them is refused"
    )


def as_it_is(state: State) -> "nn.Module":
    """Return a copy of the network that computes with the weights as they are now."""
    import torch  # noqa: PLC0415, slow to import

    if state.module is None:
        raise ValueError("calibration: the state holds no module")
    module = copy.deepcopy(state.module)
    with torch.no_grad():
        for name, place in (*module.named_parameters(), *module.named_buffers()):
            if name in state.weights:
                place.copy_(torch.from_numpy(np.array(state.weights[name].values)))
    return module
