import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.expr import as_expr, evaluate, parse, product, simplify

SYMBOLS = ("frames", "past", "x_1")
LENGTHS = st.fixed_dictionaries({name: st.integers(1, 50) for name in SYMBOLS})
VALUES = st.fixed_dictionaries({name: st.integers(-20, 20) for name in SYMBOLS})
ATOMS = st.sampled_from(SYMBOLS) | st.integers(0, 9).map(str)
DIVISORS = st.integers(1, 9).map(str) | st.integers(1, 9).map(lambda n: f"(-{n})")


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
        | st.builds("(-{})".format, inner)
        | st.builds("({} // {})".format, inner, DIVISORS)
    )


TEXTS = st.recursive(ATOMS, _grow, max_leaves=9)
# divisors with symbols: never zero where every symbol is at least 1
SYMBOLIC_QUOTIENTS = st.builds(
    "({} // ({} * {} + {}))".format,
    TEXTS,
    st.sampled_from(SYMBOLS),
    st.sampled_from(SYMBOLS),
    st.integers(0, 3),
)


def by_python(text: str, bindings: dict[str, int]) -> int:
    return eval(text, {"__builtins__": {}}, dict(bindings))  # noqa: S307 (our own random text)


@given(TEXTS, VALUES)
def test_value_is_that_of_python_also_for_negative_floor_divisions(text, bindings):
    assert parse(text).evaluate(bindings) == by_python(text, bindings)


@given(SYMBOLIC_QUOTIENTS, SYMBOLIC_QUOTIENTS, LENGTHS)
def test_value_is_that_of_python_for_symbolic_divisors(left, right, bindings):
    text = f"{left} * 3 - {right}"
    assert parse(text).evaluate(bindings) == by_python(text, bindings)


@given(TEXTS | SYMBOLIC_QUOTIENTS)
def test_printed_text_parses_to_the_equal_expression(text):
    value = parse(text)
    assert parse(str(value)) == value
    assert str(parse(str(value))) == str(value)


@given(TEXTS | SYMBOLIC_QUOTIENTS, LENGTHS)
def test_python_reads_the_printed_text_to_the_same_value(text, bindings):
    assert by_python(str(parse(text)), bindings) == by_python(text, bindings)


@given(TEXTS, TEXTS, TEXTS)
def test_normal_form_does_not_depend_on_how_a_polynomial_is_written(a, b, c):
    a, b, c = parse(a), parse(b), parse(c)
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert a * (b + c) == a * b + a * c
    assert a - a == as_expr(0)
    assert hash(a * (b + c)) == hash(a * b + a * c)


@given(TEXTS, st.integers(1, 9))
def test_exact_multiples_leave_a_floor_division(text, number):
    a = parse(text)
    assert a * number // number == a
    assert (a * number + (number - 1)) // number == a


@given(st.integers(-9, 9), st.integers(1, 9), st.integers(1, 9))
def test_dividing_twice_is_dividing_once(shift, first, second):
    a = parse("frames") + shift
    assert a // first // second == a // (first * second)


@given(TEXTS, LENGTHS)
def test_renamed_expression_has_the_value_under_the_new_names(text, bindings):
    names = {"frames": "memory", "past": "x_1", "x_1": "past"}
    moved = {names[name]: value for name, value in bindings.items()}
    assert parse(text).rename(names).evaluate(moved) == parse(text).evaluate(bindings)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("(frames - 1) // 2 + 1", "((frames - 1)//2) + 1"),
        ("2*frames - frames - frames", "0"),
        ("frames * 2 * past", "2*frames*past"),
        ("-(past)", "-past"),
        ("3 - past", "-past + 3"),
        ("(4*past + 3) // 4", "past"),
        ("-7 // 2", "-4"),
        ("7 // past", "(7//(past))"),
        ("past // past", "1"),
        ("((frames - 3) // 2 - 2) // 2 + 1", "((frames - 3)//4)"),
        ("(past + frames) // (past - 1)", "((frames + past)//(past - 1))"),
    ],
)
def test_text_is_the_normal_form(text, printed):
    assert str(parse(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "a / b",
        "a ** 2",
        "a % 2",
        "f(a)",
        "a.b",
        "a[0]",
        "a if b else c",
        "a < b",
        "~a",
        "+a",
        "1.5",
        "True",
        "'a'",
        "a, b",
        "(a := 3)",
    ],
)
def test_anything_but_four_operators_is_refused_with_the_text(text):
    with pytest.raises(ValueError, match="expected symbols, integers and") as caught:
        parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["", "a +", "a b", "(a", "1a"])
def test_broken_text_is_refused_with_the_text(text):
    with pytest.raises(ValueError, match="not an integer expression") as caught:
        parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["a // 0", "3 // 0", "a // (b - b)"])
def test_division_by_zero_is_refused_when_it_is_written(text):
    with pytest.raises(ValueError, match="divides by zero"):
        parse(text)


def test_an_unbound_symbol_is_named():
    with pytest.raises(KeyError, match="past"):
        parse("frames + past").evaluate({"frames": 3})


def test_symbols_are_found_inside_floor_divisions():
    assert parse("(a + 1) // (b + 2) * c").symbols == {"a", "b", "c"}
    assert parse("a - a + 3").symbols == frozenset()


def test_simplify_gives_a_number_exactly_where_no_symbol_is_left():
    assert simplify(parse("a - a + 3")) == 3
    assert simplify(as_expr(0)) == 0
    assert simplify(parse("a + 3")) == parse("a + 3")
    assert simplify(7) == 7


def test_products_of_sizes_are_numbers_or_expressions():
    assert product(()) == 1
    assert product((2, 3)) == 6
    assert product((2, parse("past"), 3)) == parse("6*past")
    assert product((0, parse("past"))) == 0
    assert evaluate(product((2, parse("past + 1"))), {"past": 4}) == 10
