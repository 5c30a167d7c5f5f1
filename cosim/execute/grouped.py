"""Emitters of convolutions in groups: one panel each, or one filter a channel."""

from cosim.execute.builder import Builder
from cosim.execute.fusion import Tail, is_depthwise
from cosim.execute.layout import Array
from cosim.execute.pointwise import finish, norm_of
from cosim.execute.products import (
    ROW_BLOCK,
    WINDOW_BYTES,
    added,
    call_all,
    emit_conv1d,
    emit_conv2d,
    image_of,
    panel_of,
    product_of,
    time_major,
)
from cosim.ir import Op
from kernels import conv, panels
from kernels.depthwise import depthwise_conv1d


def emit_convolution(builder: Builder, op: Op) -> None:
    """Choose how a convolution is computed: by its groups, and the axes that it slides along."""
    is_image = op.kind.endswith("2d")
    if op.get("groups", 1) == 1:
        (emit_conv2d if is_image else emit_conv1d)(builder, op)
    elif is_depthwise(builder.graph, op):
        (_emit_depthwise_image if is_image else _emit_depthwise)(builder, op)
    elif is_image:
        found = f"{op.kind} {op.outputs[0]}: {op.get('groups', 1)} groups"
        raise ValueError(f"{found}, expected 1 or one per channel")
    else:
        _emit_groups(builder, op)


def _emit_groups(builder: Builder, op: Op) -> None:
    """Multiply the windows of each group, in a padded workspace of its own, by its filters."""
    product = product_of(builder, op)
    tail, groups = product.tail, op.integer("groups")
    filters, depth, taps = builder.shape(product.weight)
    frames = builder.fixed(op.inputs[0])[0].T
    padding = op.integer("padding")
    dtype = builder.graph.types[op.inputs[0]].dtype
    workspace = builder.buffer((groups, len(frames) + 2 * padding, depth), dtype)
    builder.calls.append(lambda _values, _past: conv.pad_groups(frames, workspace, padding=padding))
    memory = time_major(builder, tail)
    residual = None
    if tail.residual is not None:
        residual = builder.rows(added(tail.residual, builder))
    each, calls = filters // groups, []
    for i in range(groups):
        x = conv.windows(workspace[i], size=taps, stride=op.integer("stride"))
        own = slice(i * each, (i + 1) * each)
        calls.append(
            panels.bind(
                panel_of(builder, product, len(x), taps, part=(i, groups)),
                x,
                memory[:, own],
                x_scale=product.scale,
                bias=None if product.bias is None else product.bias[own],
                activation=product.step(),
                residual=None if residual is None else residual[:, own],
            )
        )
    call_all(builder, calls)


def _emit_depthwise(builder: Builder, op: Op) -> None:
    """Slide one filter over each channel; the norm and activation behind it are done in its tile.

    Weights of a few bits are widened to floats beforehand.
    """
    tail = builder.tails.get(op.outputs[0], Tail(op.outputs[0]))
    x = builder.rows(op.inputs[0], (0, 2, 1))
    filters = builder.weights.depthwise(op.inputs[1])
    out = time_major(builder, tail)
    bias = builder.get(op.inputs[2]) if len(op.inputs) > 2 else None
    norm = None if tail.norm is None else norm_of(builder, tail.norm)
    activation = "none" if tail.activation is None else tail.activation.kind
    stride, padding = op.integer("stride"), op.integer("padding")
    _choose(builder, op, tail)

    def call(_values: list[Array], _past: int) -> None:
        depthwise_conv1d(
            x, filters, out, bias=bias, stride=stride, padding=padding, norm=norm,
            activation=activation,
        )  # fmt: skip

    builder.calls.append(call)


def _emit_depthwise_image(builder: Builder, op: Op) -> None:
    """Slide one square filter over each channel of an image.

    The windows of an output lie one behind the other in a workspace (taps, channels), so a filter
    of as many taps that steps from window to window is the same as one over time.
    """
    tail = builder.tails.get(op.outputs[0], Tail(op.outputs[0]))
    *_, down, across = builder.shape(op.inputs[1])
    if down != across:
        raise ValueError(f"conv2d {op.outputs[0]}: filters {down} x {across}, expected squares")
    image, taps = image_of(builder, op.inputs[0]), down * across
    channels, height, width = builder.shape(op.outputs[0])[1:]
    filters = builder.weights.depthwise(op.inputs[1])
    out = builder.new(tail.result, (0, 2, 3, 1))
    builder.put(tail.result, out)
    rows = out.transpose(0, 2, 3, 1).reshape(height * width, channels)
    block = min(len(rows), max(ROW_BLOCK, WINDOW_BYTES // (4 * taps * channels)))
    workspace = builder.buffer((block, taps * channels))
    bias = builder.get(op.inputs[2]) if len(op.inputs) > 2 else None
    activation = "none" if tail.activation is None else tail.activation.kind
    stride, padding = op.integer("stride"), op.integer("padding")
    _choose(builder, op, tail)

    def call(_values: list[Array], _past: int) -> None:
        blocks = conv.window_blocks(image, workspace, size=down, stride=stride, padding=padding)
        for first, windows in blocks:
            over_time = workspace[: len(windows)].reshape(-1, channels)
            depthwise_conv1d(
                over_time, filters, rows[first : first + len(windows)], bias=bias, stride=taps,
                activation=activation,
            )  # fmt: skip

    builder.calls.append(call)


def _choose(builder: Builder, op: Op, tail: Tail) -> None:
    is_float = builder.weights.program.constants[op.inputs[1]].encoding == "dense"
    reason = "one filter a channel" + ("" if is_float else ", widened to float beforehand")
    builder.choose(op, "depthwise_f32", reason, is_fallback=not is_float)
    finish(builder, tail, "depthwise_f32", f"done to the rows of {op.scope} while in cache")
