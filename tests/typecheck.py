"""The runtime checker of annotations under test: beartype, with an int allowed where a float is asked (PEP 484).

jaxtyping's own decorator binds every call's arguments, and checks them once before the call and once more with its result. Here both are
checked once, beside the same note of the sizes that they share, and a call that names no array is checked by beartype alone.
"""

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from inspect import isclass, isfunction, isgeneratorfunction, signature
from typing import Any, Literal, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping._storage import pop_shape_memo, push_shape_memo

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
_by_jaxtyping = jaxtyping.jaxtyped


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that checks its arguments and its result; how is made at the first call, for most that are imported are never called."""
    made: list[Callable[..., Any]] = []

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if not made:
            made.append(_checked(function))
        return made[0](*args, **kwargs)

    return checked


def _check_sizes(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that checks also the sizes that its arguments and its result share."""
    whole = check(function)
    told = signature(function) if "{" in repr(function.__annotations__) else None  # a size is an argument

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        named: dict[str, Any] = {}
        if told is not None:
            bound = told.bind(*args, **kwargs)
            bound.apply_defaults()
            named = bound.arguments
        push_shape_memo(named)
        try:
            return whole(*args, **kwargs)
        finally:
            pop_shape_memo()

    return checked


def _parts(hint: Any) -> list[Any]:
    """An annotation and all that stands within it."""
    within = hint if isinstance(hint, list) else () if get_origin(hint) is Literal else get_args(hint)
    return [hint, *(part for one in within for part in _parts(one))]


def _names_array(part: Any) -> bool:
    return isinstance(part, type) and get_origin(part) is None and issubclass(part, jaxtyping.AbstractArray)


def _jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """Decorator of the import hook: functions that name an array are checked with sizes, all others by beartype alone."""

    def decorate(thing: Any) -> Any:
        if isclass(thing):
            if is_dataclass(thing) and not hasattr(thing.__init__, "__wrapped__"):
                thing.__init__ = decorate(thing.__init__)  # type: ignore[method-assign]
            return thing
        parts = [part for hint in getattr(thing, "__annotations__", {}).values() for part in _parts(hint)]
        if not isfunction(thing) or isgeneratorfunction(thing) or any(isinstance(part, str) for part in parts):
            return _by_jaxtyping(thing, typechecker=typechecker)  # what a string names nobody knows yet
        return _check_sizes(thing) if any(map(_names_array, parts)) else check(thing)

    return decorate


jaxtyping.jaxtyped = _jaxtyped  # type: ignore[assignment]
