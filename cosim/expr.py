"""Integer expressions in symbols: sums and products of symbols, numbers and floor divisions.

Every expression is kept in one normal form (a sum of monomials), so that two expressions are equal
when their normal forms are equal; `+ - * //` are all there is.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce

Monomial = tuple["str | FloorDivision", ...]


@dataclass(frozen=True)
class FloorDivision:
    """`numerator // denominator` that does not simplify."""

    numerator: "Expr"
    denominator: "Expr"

    def __str__(self) -> str:
        numerator, denominator = (
            str(side) if len(side.terms) == 1 and side.symbols == frozenset() else f"({side})"
            for side in (self.numerator, self.denominator)
        )
        return f"({numerator}//{denominator})"


@dataclass(frozen=True)
class Expr:
    """Sum of coefficient times monomial, ordered by the monomial's text.

    Example:
        >>> frames = parse("frames")
        >>> print((frames - 1) // 2 + 1)
        ((frames - 1)//2) + 1
        >>> parse("2*frames - frames - frames + 3")
        Expr(terms=(((), 3),))
        >>> ((frames - 1) // 2 + 1).evaluate({"frames": 3000})
        1500

    """

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        text = ""
        for monomial, coefficient in sorted(self.terms, key=lambda term: -len(term[0])):
            factors = [str(atom) for atom in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            sign = "-" if coefficient < 0 else "+"
            text += f" {sign} " + "*".join(factors)
        return text[3:] if text.startswith(" + ") else "-" + text[3:]

    def __add__(self, other: "Dim") -> "Expr":
        sums = dict(self.terms)
        for monomial, coefficient in as_expr(other).terms:
            sums[monomial] = sums.get(monomial, 0) + coefficient
        return _normal(sums)

    def __sub__(self, other: "Dim") -> "Expr":
        return self + as_expr(other) * -1

    def __mul__(self, other: "Dim") -> "Expr":
        sums: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in as_expr(other).terms:
                monomial = tuple(sorted((*left, *right), key=str))
                sums[monomial] = sums.get(monomial, 0) + a * b
        return _normal(sums)

    def __floordiv__(self, other: "Dim") -> "Expr":
        divisor = as_expr(other)
        if not divisor.terms:
            raise ZeroDivisionError(f"{self} // 0")
        if divisor == self:
            return as_expr(1)
        if divisor.is_constant:
            value = divisor.constant
            if self.is_constant:
                return as_expr(self.constant // value)
            whole = {m: c // value for m, c in self.terms if c % value == 0}
            rest = {m: c for m, c in self.terms if c % value}
            if set(rest) <= {()}:  # the constant is all that does not divide
                return _normal(whole) + rest.get((), 0) // value
            if (once := _divided_once(rest, value)) is not None:
                return _normal(whole) + once
            return _normal(whole) + _normal({(FloorDivision(_normal(rest), divisor),): 1})
        return _normal({(FloorDivision(self, divisor),): 1})

    @property
    def is_constant(self) -> bool:
        """Whether no symbol is left."""
        return all(monomial == () for monomial, _ in self.terms)

    @property
    def constant(self) -> int:
        """The constant term."""
        return dict(self.terms).get((), 0)

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols in it."""
        found: set[str] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                if isinstance(atom, str):
                    found.add(atom)
                else:
                    found |= atom.numerator.symbols | atom.denominator.symbols
        return frozenset(found)

    def evaluate(self, bindings: Mapping[str, int]) -> int:
        """Return the value under `bindings`; KeyError names the first unbound symbol."""
        total = 0
        for monomial, coefficient in self.terms:
            product = coefficient
            for atom in monomial:
                if isinstance(atom, str):
                    product *= bindings[atom]
                else:
                    product *= atom.numerator.evaluate(bindings) // atom.denominator.evaluate(
                        bindings
                    )
            total += product
        return total

    def rename(self, names: Mapping[str, str]) -> "Expr":
        """Return the expression with symbols renamed."""
        result = as_expr(0)
        for monomial, coefficient in self.terms:
            product = as_expr(coefficient)
            for atom in monomial:
                if isinstance(atom, str):
                    product = product * parse(names.get(atom, atom))
                else:
                    product = product * (
                        atom.numerator.rename(names) // atom.denominator.rename(names)
                    )
            result = result + product
        return result


Dim = int | Expr


def _normal(sums: Mapping[Monomial, int]) -> Expr:
    kept = ((monomial, value) for monomial, value in sums.items() if value)
    return Expr(tuple(sorted(kept, key=lambda term: [str(atom) for atom in term[0]])))


def _divided_once(sums: Mapping[Monomial, int], divisor: int) -> Expr | None:
    """Return (a // b + c) // divisor as (a + b c) // (b divisor), None where there is no such a.

    Both are equal for all a and c while the number b and the divisor are positive.
    """
    found = [
        (monomial, atom)
        for monomial, value in sums.items()
        for atom in monomial[:1]
        if value == len(monomial) == 1
        and isinstance(atom, FloorDivision)
        and atom.denominator.is_constant
        and atom.denominator.constant > 0
    ]
    if divisor < 1 or len(found) != 1:
        return None
    monomial, inner = found[0]
    rest = _normal({other: value for other, value in sums.items() if other != monomial})
    b = inner.denominator.constant
    return (inner.numerator + rest * b) // (b * divisor)


def as_expr(value: Dim) -> Expr:
    """Return `value` as an expression."""
    if isinstance(value, Expr):
        return value
    return Expr((((), value),) if value else ())


def simplify(value: Dim) -> Dim:
    """Return an int where no symbol is left."""
    if isinstance(value, Expr) and value.is_constant:
        return value.constant
    return value


def evaluate(value: Dim, bindings: Mapping[str, int]) -> int:
    """Return the value of a number or expression under `bindings`."""
    return value.evaluate(bindings) if isinstance(value, Expr) else value


def product(dims: tuple[Dim, ...]) -> Dim:
    """Return the product of `dims`."""
    return simplify(reduce(operator.mul, (as_expr(dim) for dim in dims), as_expr(1)))


_OPERATORS: dict[type[ast.operator], Callable[[Expr, Expr], Expr]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@lru_cache(maxsize=4096)
def parse(text: str) -> Expr:
    """Return the expression written in `text`; ValueError for more than + - * // and for // 0."""

    def build(node: ast.expr) -> Expr:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](build(node.left), build(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return build(node.operand) * -1
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return as_expr(node.value)
        if isinstance(node, ast.Name):
            return Expr((((node.id,), 1),))
        raise ValueError(f"{text!r}: expected symbols, integers and + - * // only")

    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{text!r}: not an integer expression") from error
    try:
        return build(tree.body)
    except ZeroDivisionError as error:
        raise ValueError(f"{text!r}: divides by zero") from error
