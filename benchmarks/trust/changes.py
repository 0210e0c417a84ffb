"""Small changes of a module's code, as cosmic-ray makes them: a number one up or down, + for -, < for >=, a condition negated ..."""

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

_SWAPS = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "FloorDiv_Mul", "Mod_Add", "BitAnd_BitOr", "BitOr_BitAnd")
_COMPARISONS = ("Lt_GtE", "LtE_Gt", "Gt_LtE", "GtE_Lt", "Lt_LtE", "Gt_GtE", "LtE_Lt", "GtE_Gt", "Eq_NotEq", "NotEq_Eq")
OPERATORS = (
    *(f"core/ReplaceBinaryOperator_{swap}" for swap in _SWAPS),
    *(f"core/ReplaceComparisonOperator_{swap}" for swap in _COMPARISONS),
    *("core/NumberReplacer", "core/AddNot", "core/ReplaceAndWithOr", "core/ReplaceOrWithAnd", "core/ReplaceUnaryOperator_Delete_USub"),
    *("core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue", "core/ZeroIterationForLoop"),
)
_Place = tuple[int, int]
"""Line, from 1, and column, from 0."""


@dataclass(frozen=True, slots=True)
class Change:
    """A module as one change leaves it."""

    operator: str
    line: int
    was: str
    becomes: str
    source: str

    @property
    def text(self) -> str:
        """The changed line before and after, by which a change is known though lines above it come and go."""
        return f"{self.was}  ->  {self.becomes}"

    def __str__(self) -> str:
        return f"{self.line}: {self.text}"


def places_of(source: str) -> list[tuple[str, int]]:
    """Operator and number of every change of what runs, the number that cosmic-ray counts it by.

    Left out are annotations, decorators, the `*` before arguments that go by name, whether a `zip` is strict, which is there to find
    faults of ours, and the number of `reshape(-1)`, of which any below 0 means the same.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    silent = list(_silent(ast.parse(source)))
    nodes, places = list(ast_nodes(get_ast(source))), []
    for name in OPERATORS:
        operator, number = get_operator(name)(), 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                named_only = node.type == "operator" and node.parent is not None and node.parent.type == "parameters"
                if not (named_only or any(low <= start < high for low, high in silent)):
                    places.append((name, number))
                number += 1
    return places


def _silent(tree: ast.AST) -> Iterator[tuple[_Place, _Place]]:
    """Where what is left out begins and ends."""
    for node in ast.walk(tree):
        inner: list[ast.expr | None] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner += node.decorator_list
        if isinstance(node, ast.FunctionDef):
            inner.append(node.returns)
        if isinstance(node, ast.arg | ast.AnnAssign):
            inner.append(node.annotation)
        if isinstance(node, ast.keyword) and node.arg == "strict":
            inner.append(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reshape":
            inner += [word.operand for word in node.args if isinstance(word, ast.UnaryOp)]
        for part in filter(None, inner):
            yield (part.lineno, part.col_offset), (part.end_lineno or part.lineno, part.end_col_offset or 0)


def sample(source: str, num: int, rng: random.Random) -> tuple[list[Change], int]:
    """So many changes of a module drawn at random, and of how many."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    places, plain = places_of(source), _meaning(source)
    rng.shuffle(places)
    chosen: list[Change] = []
    for name, number in places:
        if len(chosen) == num:
            break
        mutated = mutate_code(source, get_operator(name)(), number)
        if mutated is None or _meaning(mutated) in ("", plain):
            continue
        lines = zip(source.splitlines(), mutated.splitlines(), strict=False)
        line, (was, becomes) = next((k, pair) for k, pair in enumerate(lines, 1) if pair[0] != pair[1])
        chosen.append(Change(name.removeprefix("core/"), line, was.strip(), becomes.strip(), mutated))
    return chosen, len(places)


def _meaning(source: str) -> str:
    """The syntax tree; nothing for what is no Python, as a `*` before a mapping's items."""
    try:
        return ast.dump(ast.parse(source))
    except SyntaxError:
        return ""
