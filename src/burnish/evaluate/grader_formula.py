"""The formula of a `multi` grader: arithmetic over the names of its graders, and nothing else."""

import ast
import math
import operator
from collections.abc import Callable, Mapping

_SIGNS: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_MAX_LENGTH = 2000


class BadFormula(ValueError):
    """A formula that cannot be parsed or computed."""


def names_in(formula: str) -> set[str]:
    """Return the graders that a formula names. Raises BadFormula."""
    names: set[str] = set()
    _evaluate(_parse(formula), _NameRecorder(names))
    return names


def compute(formula: str, values: Mapping[str, float]) -> float:
    """Return the formula's value. `^` is power. Raises BadFormula."""
    return _evaluate(_parse(formula), values)


class _NameRecorder(dict[str, float]):
    """Gives every name a value, and records the names that were looked up."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return True

    def __getitem__(self, name: str) -> float:
        return 0.5


def _parse(formula: str) -> ast.expr:
    if len(formula) > _MAX_LENGTH:
        raise BadFormula(f"the formula is longer than {_MAX_LENGTH} characters")
    try:
        return ast.parse(formula.replace("^", "**").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadFormula("the formula cannot be parsed") from error


def _evaluate(part: ast.expr, values: Mapping[str, float]) -> float:
    try:
        result = float(_evaluate_node(part, values))
    except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, BadFormula):
            raise
        raise BadFormula(f"the formula cannot be computed: {error}") from error
    if not math.isfinite(result):
        raise BadFormula("the formula's value is not finite")
    return result


def _evaluate_node(part: ast.expr, values: Mapping[str, float]) -> float:
    match part:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_evaluate_node(inner, values)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SIGNS:
            return _SIGNS[type(sign)](_evaluate_node(left, values), _evaluate_node(right, values))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*[_evaluate_node(arg, values) for arg in args])
    raise BadFormula(f"`{ast.unparse(part)[:60]}` is neither a grader nor arithmetic")
