"""Tables in Markdown."""

import math
from collections.abc import Sequence
from typing import Any


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]], number: str) -> str:
    """A table whose first column is left-aligned; `number` formats floats, and one that is not known leaves its cell empty."""

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return "" if math.isnan(value) else number.format(value)

    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
