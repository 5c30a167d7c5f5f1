"""Importers of calls that multiply: convolutions and attention."""

from cosim.errors import CosimError
from cosim.ops.aten import AtenCall, Imported, UnsupportedCallError
from cosim.patterns import from_text


def read_convolution(call: AtenCall) -> Imported:
    """Import a convolution over one or two axes with the same padding at both ends of each."""
    if call.same_integer(5, 1) != 1:
        raise UnsupportedCallError(f"{call.target}: dilation other than 1 is not supported")
    values = {"stride": call.same_integer(3, 1), "padding": call.same_integer(4, 0)}
    groups = call.integer(6, 1)
    return Imported(call.names(0, 1, 2), values if groups == 1 else {**values, "groups": groups})


def read_attention(call: AtenCall) -> Imported:
    """Import attention in which every query sees every key, with a bias of scores or without."""
    found = {
        "dropout": bool(call.argument(4)),
        "is_causal": bool(call.argument(5)),
        "enable_gqa": bool(call.argument(7)),
    }
    if call.argument(3) is not None and call.types[call.name(3)].dtype != "f32":
        found["a mask that is not a float bias"] = True
    refused = [name for name, is_used in found.items() if is_used]
    if refused:
        raise UnsupportedCallError(f"{call.target}: {', '.join(refused)}: not supported")
    scale = call.number(6, _default_scale(call))
    return Imported(call.names(0, 1, 2, 3), {"scale": scale})


def read_block_attention(call: AtenCall) -> Imported:
    """Import the mark `block_attention`."""
    text = str(call.argument(3))
    try:
        pattern = from_text(text)
    except CosimError as error:
        raise UnsupportedCallError(f"{call.target}: {error}") from error
    scale = _default_scale(call)
    return Imported(call.names(0, 1, 2), {"scale": scale, "pattern": pattern.to_text()})


def _default_scale(call: AtenCall) -> float:
    depth = call.types[call.name(0)].shape[-1]
    if not isinstance(depth, int):
        raise UnsupportedCallError(f"{call.target}: head size {depth} is not fixed")
    return float(depth**-0.5)
