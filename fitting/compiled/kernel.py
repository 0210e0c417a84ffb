"""How a function becomes machine code: by numba, and kept on disk where a folder can be written."""

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])

_log = logging.getLogger(__name__)


def kernel(function: _Function) -> _Function:
    """Compile a function that other kernels call. Shapes are checked by numba's typing, so a checker's wrapper is taken off."""
    compiled: _Function = numba.njit(inspect.unwrap(function))
    return compiled


def kept(**options: Any) -> Callable[[_Function], _Function]:
    """Compile a function that Python calls, with numba's `options`, and keep its machine code on disk.

    It lies in $NUMBA_CACHE_DIR, or beside the module, or in the user's cache. Where none can be written the function
    is compiled in every process anew, and a warning says which variable to set.
    """

    def compile_and_keep(function: _Function) -> _Function:
        plain = inspect.unwrap(function)
        try:
            compiled: _Function = numba.njit(cache=True, **options)(plain)
        except RuntimeError:  # "no locator available": no place can be written
            _log.warning(
                "%s is compiled in every process anew: set NUMBA_CACHE_DIR to a folder that can be written",
                plain.__name__,
            )
            compiled = numba.njit(**options)(plain)
        return compiled

    return compile_and_keep
