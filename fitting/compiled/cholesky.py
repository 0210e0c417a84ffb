"""Cholesky factorisation of the normal equations of LANES hands at once, in place; the gradient is their last row.

The matrix [61 + 1, 61] lies row by row in an array [rows, LANES]; only its lower triangle is read. Left-looking in blocks of columns: the
products with all columns before come from `add_products`, whose sums stay in registers.
"""

from fitting.compiled.kernel import kernel
from fitting.compiled.lanes import TILE, Lanes, Rows, everywhere, load, root, store, where
from fitting.compiled.layout import STEP
from fitting.compiled.sums import add_products, divide_row
from fitting.objective import NUM_UNKNOWNS
from fitting.solver import FLOOR


@kernel
def damped_factor(m: Rows, damping: Lanes) -> Lanes:
    """Factor the matrix after its diagonal has grown by the share `damping` and `FLOOR`; the gradient's row becomes L^-1 gradient.

    The diagonal becomes its inverse. Returns 1 where all pivots were positive, else 0 (and finite numbers).
    """
    n = NUM_UNKNOWNS
    for i in range(0, n * n, n + 1):
        entry = load(m, i)
        store(m, i, entry + (damping * entry + FLOOR))
    first, sound = n % TILE, everywhere(1.0)
    for start in range(first):
        add_products(1, 1, m, (start * n + start, n), m, (start * n, n, 1), m, (start * n, n, 1), start, -1.0)
        sound = _factor_block(m, start, start + 1, sound)
        for row in range(start + 1, n + 1):
            add_products(1, 1, m, (row * n + start, n), m, (row * n, n, 1), m, (start * n, n, 1), start, -1.0)
            divide_row(1, m, row * n + start, start * n + start, n)
    for start in range(first, n, TILE):
        for row in range(start, n, TILE):
            add_products(TILE, TILE, m, (row * n + start, n), m, (row * n, n, 1), m, (start * n, n, 1), start, -1.0)
        add_products(1, TILE, m, (n * n + start, n), m, (n * n, n, 1), m, (start * n, n, 1), start, -1.0)
        sound = _factor_block(m, start, start + TILE, sound)
        for row in range(start + TILE, n + 1):
            divide_row(TILE, m, row * n + start, start * n + start, n)
    return sound


@kernel
def _factor_block(m: Rows, start: int, stop: int, sound: Lanes) -> Lanes:
    """Factor a block of the diagonal, from which the products with earlier columns have been taken."""
    n = NUM_UNKNOWNS
    for i in range(start, stop):
        pivot = load(m, i * n + i)
        for k in range(start, i):
            pivot = pivot - load(m, i * n + k) * load(m, i * n + k)
        positive = pivot > 0.0
        sound = where(positive, sound, 0.0)
        inverse = 1.0 / root(where(positive, pivot, 1.0))
        store(m, i * n + i, inverse)
        for j in range(i + 1, stop):
            value = load(m, j * n + i)
            for k in range(start, i):
                value = value - load(m, j * n + k) * load(m, i * n + k)
            store(m, j * n + i, value * inverse)
    return sound


@kernel
def solve_step(w: Rows, m: Rows) -> None:
    """Rows STEP: minus the factored matrix's inverse times the gradient."""
    n = NUM_UNKNOWNS
    for i in range(n):
        store(w, STEP + i, 0.0 - load(m, n * n + i))
    for i in range(n - 1, -1, -1):
        value = load(w, STEP + i) * load(m, i * n + i)
        store(w, STEP + i, value)
        for k in range(i):
            store(w, STEP + k, load(w, STEP + k) - load(m, i * n + k) * value)
