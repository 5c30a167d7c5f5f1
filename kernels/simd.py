"""Explicit AVX2 vectors inside numba: a small writer of LLVM IR, and typed rows from addresses.

numba's own vectoriser never finds the register tiles that a matrix product needs, so the inner
tiles are written as LLVM IR vectors. A generator takes a ``Writer`` and the values of its int64
arguments (addresses are int64 too), writes code, and becomes a numba intrinsic through ``tile``.
The only target dependent operations are the AVX2 multiply-adds of bytes and words.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

I1, I8, I16, I32, I64 = (ir.IntType(width) for width in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
F32X8 = ir.VectorType(F32, 8)
I32X8 = ir.VectorType(I32, 8)
I16X16 = ir.VectorType(I16, 16)
I8X32 = ir.VectorType(I8, 32)
I8X16 = ir.VectorType(I8, 16)
I8X8 = ir.VectorType(I8, 8)

Value = ir.Value
Generator = Callable[..., None]


def constant(kind: ir.Type, value: float) -> ir.Constant:
    """Vector of ``kind`` with every lane ``value``, or one number if ``kind`` is no vector."""
    is_vector = isinstance(kind, ir.VectorType)
    return ir.Constant(kind, [value] * kind.count if is_vector else value)


class Writer:
    """Writes vector IR at the current place of an llvmlite builder, which is ``b``."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.b = builder

    def call(self, name: str, result: ir.Type, arguments: Sequence[Value]) -> Value:
        """Call the LLVM intrinsic ``name``."""
        function = cgutils.get_or_insert_function(
            self.b.module, ir.FunctionType(result, [a.type for a in arguments]), name
        )
        return self.b.call(function, arguments)

    def at(self, address: Value, offset: int) -> Value:
        """``address`` plus a constant number of bytes."""
        return self.b.add(address, I64(offset)) if offset else address

    def load(self, kind: ir.Type, address: Value, offset: int = 0) -> Value:
        """Unaligned load of one ``kind`` at ``address + offset``."""
        pointer = self.b.inttoptr(self.at(address, offset), kind.as_pointer())
        loaded = self.b.load(pointer)
        loaded.align = 1
        return loaded

    def store(self, value: Value, address: Value, offset: int = 0) -> None:
        """Unaligned store at ``address + offset``."""
        pointer = self.b.inttoptr(self.at(address, offset), value.type.as_pointer())
        self.b.store(value, pointer).align = 1

    def shuffle(self, a: Value, b: Value, order: Sequence[int]) -> Value:
        """Pick lanes by number from ``a`` followed by ``b``."""
        lanes = ir.Constant(ir.VectorType(I32, len(order)), list(order))
        return self.b.shuffle_vector(a, b, lanes)

    def reduce(self, lanes: Value, combine: Callable[[Value, Value], Value]) -> Value:
        """Combine all lanes of a vector into one number, halving it each time."""
        count = lanes.type.count
        while count > 1:
            count //= 2
            upper = self.shuffle(
                lanes, lanes, [(i + count) % lanes.type.count for i in range(lanes.type.count)]
            )
            lanes = combine(lanes, upper)
        return self.b.extract_element(lanes, I32(0))

    def larger(self, a: Value, b: Value) -> Value:
        """Take lanes of ``a`` where they are greater, else of ``b``."""
        return self.b.select(self.b.fcmp_ordered(">", a, b), a, b)

    def splat(self, scalar: Value, kind: ir.VectorType) -> Value:
        """Vector of ``kind`` with ``scalar`` in every lane (bits reused when widths differ)."""
        lanes = kind.count * kind.element.width // scalar.type.width if _is_int(scalar) else 8
        wide = ir.VectorType(scalar.type, lanes)
        empty = ir.Constant(wide, ir.Undefined)
        first = self.b.insert_element(empty, scalar, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        full = self.b.shuffle_vector(first, empty, zeros)
        return full if wide == kind else self.b.bitcast(full, kind)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Multiply and add with one rounding, ``a * b + c``."""
        return self.call(f"llvm.fma.v{a.type.count}f32", a.type, [a, b, c])

    def madd_bytes(self, unsigned: Value, signed: Value) -> Value:
        """vpmaddubsw: int16 sums of two products u8 x s8; saturates, so callers bound the sum."""
        return self.call("llvm.x86.avx2.pmadd.ub.sw", I16X16, [unsigned, signed])

    def madd_words(self, a: Value, b: Value) -> Value:
        """vpmaddwd: int32 sums of two products s16 x s16."""
        return self.call("llvm.x86.avx2.pmadd.wd", I32X8, [a, b])

    def positive(self, value: Value) -> Value:
        """Take the larger of each signed lane and zero."""
        zero = constant(value.type, 0)
        return self.b.select(self.b.icmp_signed(">", value, zero), value, zero)

    def halves(self, packed: Value) -> tuple[Value, Value]:
        """Low and high nibble of each byte of a 32-byte vector."""
        mask = constant(I8X32, 15)
        words = self.b.lshr(self.b.bitcast(packed, I16X16), constant(I16X16, 4))
        return self.b.and_(packed, mask), self.b.and_(self.b.bitcast(words, I8X32), mask)

    def to_f32(self, value: Value) -> Value:
        """int32 lanes as float32, rounded to nearest even."""
        return self.b.sitofp(value, F32X8)

    def loop(
        self, count: Value, start: Sequence[Value], body: Callable[..., Sequence[Value]]
    ) -> list[Value]:
        """Run ``body(index, *carried)`` ``count`` times; the values it returns are carried on."""
        b = self.b
        before = b.block
        head, inside, after = (b.append_basic_block(name) for name in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        carried = [b.phi(value.type) for value in start]
        index.add_incoming(I64(0), before)
        for phi, value in zip(carried, start, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", index, count), inside, after)
        b.position_at_end(inside)
        fresh = body(index, *carried)
        following = b.add(index, I64(1))
        end = b.block
        b.branch(head)
        index.add_incoming(following, end)
        for phi, value in zip(carried, fresh, strict=True):
            phi.add_incoming(value, end)
        b.position_at_end(after)
        return carried


def _is_int(value: Value) -> bool:
    return isinstance(value.type, ir.IntType)


def tile(count: int) -> Callable[[Generator], Any]:
    """Make a numba intrinsic of a generator whose ``count`` arguments are int64."""

    def wrap(generate: Generator) -> Any:
        def typed(_context: Any, *arguments: Any) -> tuple[Any, Callable[..., Any]]:
            del arguments
            signature = types.void(*[types.int64] * count)

            def codegen(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
                generate(Writer(builder), *values)
                return context.get_dummy_value()

            return signature, codegen

        return intrinsic(_with_arity(typed, count))

    return wrap


def _with_arity(typed: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Give ``typed`` the fixed number of parameters that numba reads from an intrinsic."""
    names = ", ".join(f"a{i}" for i in range(count))
    source = f"def tile_{count}(context, {names}):\n    return typed(context, {names})\n"
    scope: dict[str, Any] = {"typed": typed}
    exec(source, scope)  # noqa: S102 (the text above, with a number in it)
    return scope[f"tile_{count}"]


@intrinsic
def _pointer(_context: Any, address: Any, dtype: Any) -> tuple[Any, Callable[..., Any]]:
    """CPointer to ``dtype`` at an int64 address."""
    if not isinstance(dtype, types.NumberClass):
        raise TypeError(f"found {dtype}, expected a number class")
    signature = types.CPointer(dtype.dtype)(types.int64, dtype)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return signature, codegen


@register_jitable
def row_at(address: Any, count: Any, dtype: Any) -> Any:
    """Contiguous array of ``count`` numbers at ``address``, so that loops over it vectorise."""
    return carray(_pointer(address, dtype), count)


@intrinsic
def bits_of(_context: Any, x: Any) -> tuple[Any, Callable[..., Any]]:
    """int32 with the bits of a float32."""
    if x != types.float32:
        raise TypeError(f"found {x}, expected float32")
    return types.int32(x), lambda _c, builder, _s, values: builder.bitcast(values[0], I32)


@intrinsic
def float_of(_context: Any, bits: Any) -> tuple[Any, Callable[..., Any]]:
    """float32 with the bits of an int32."""
    if bits != types.int32:
        raise TypeError(f"found {bits}, expected int32")
    return types.float32(bits), lambda _c, builder, _s, values: builder.bitcast(values[0], F32)


@intrinsic(prefer_literal=True)
def stack_bytes(_context: Any, size: Any) -> tuple[Any, Callable[..., Any]]:
    """Address of ``size`` (a literal) bytes on the stack of the calling kernel, aligned to 64."""
    if not isinstance(size, types.IntegerLiteral):
        raise TypeError(f"found {size}, expected a literal number of bytes")
    count = size.literal_value
    signature = types.int64(size)

    def codegen(_context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        with builder.goto_entry_block():
            slot = builder.alloca(ir.ArrayType(I8, count))
            slot.align = 64
        return builder.ptrtoint(slot, I64)

    return signature, codegen
