"""The runtime checker of annotations under test: beartype, with an int allowed where a float is asked (PEP 484).

jaxtyping's import hook binds every call's arguments for the sizes of its arrays, and checks them once before the call and once with its
result. Most calls name no array: of those beartype says the same by itself, in a tenth of the time.
"""

from collections.abc import Callable
from functools import wraps
from inspect import isfunction
from typing import Any, Literal, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
_with_sizes = jaxtyping.jaxtyped


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that checks its arguments and its result; how is made at the first call, for most that are imported are never called."""
    made: list[Callable[..., Any]] = []

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if not made:
            made.append(_checked(function))
        return made[0](*args, **kwargs)

    return checked


def _names_arrays(hint: Any) -> bool:
    """Whether an annotation has an array in it; of one that is still a string nobody knows."""
    if isinstance(hint, type) and get_origin(hint) is None:
        return issubclass(hint, jaxtyping.AbstractArray)
    parts = hint if isinstance(hint, list) else () if get_origin(hint) is Literal else get_args(hint)
    return isinstance(hint, str) or any(map(_names_arrays, parts))


def _jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """Decorator of the import hook: functions that name an array are checked with sizes, all others by beartype alone."""

    def decorate(thing: Any) -> Any:
        if isfunction(thing) and not any(map(_names_arrays, thing.__annotations__.values())):
            return check(thing)
        return _with_sizes(thing, typechecker=typechecker)

    return decorate


jaxtyping.jaxtyped = _jaxtyped  # type: ignore[assignment]
