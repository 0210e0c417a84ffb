"""Settings by name: the fields of a dataclass, set from words or from TOML, and described by their own docstrings.

A name is a dotted path through nested dataclasses (`weights.bone`). Its end is enough where no other field ends so. Imports the standard
library only.
"""

import ast
import difflib
import importlib.util
import inspect
import math
import textwrap
import tomllib
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_TRANSPARENT = "settings"
"""A field of this name groups others and need not be said: `fit.prior_weight` lies in `Fit.settings`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field: its path, what it may be, its value, and its docstring, which says unit and source."""

    name: str
    path: tuple[str, ...]
    kind: Any
    value: Any
    text: str
    bounds: str = ""
    """What it must be besides, as after "must"; '' where any value of the type will do."""


def settings_of(owner: Any) -> list[Setting]:
    """Every setting of a dataclass, those of nested dataclasses in their place."""
    return list(_walk(owner, ()))


def _walk(owner: Any, path: tuple[str, ...]) -> Iterator[Setting]:
    from stages.stage import bounds_of

    owned: type = type(owner)
    kinds, texts = get_type_hints(owned), _docstrings(owned)
    for field in fields(owner):
        value, here = getattr(owner, field.name), (*path, field.name)
        if hasattr(value, "build"):
            continue  # another stage, which has its own settings
        if is_dataclass(value):
            yield from _walk(value, here)
        else:
            name = ".".join(part for part in here if part != _TRANSPARENT)
            bounds = "" if get_origin(kinds[field.name]) is Literal else str(bounds_of(field) or "")
            yield Setting(name=name, path=here, kind=kinds[field.name], value=value, text=texts.get(field.name, ""), bounds=bounds)


@cache
def _docstrings(owner: type) -> Mapping[str, str]:
    """The string under each field of a class; a field without one shares that of the next."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except (OSError, TypeError):  # a class without a source file
        return {}
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    waiting: list[str] = []
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            waiting.append(node.target.id)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            texts.update(dict.fromkeys(waiting, " ".join(node.value.value.split())))
            waiting = []
        else:
            waiting = []
    return texts


def find_setting(owner: Any, name: str, what: str) -> Setting:
    """The setting that a name means. Raises ValueError, with the nearest name, when there is none or more than one."""
    known = settings_of(owner)
    exact = [setting for setting in known if name in (setting.name, ".".join(setting.path))]
    found = exact or [setting for setting in known if setting.name.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{what}.{name} may be {' or '.join(f'{what}.{setting.name}' for setting in found)}: say which")
    raise ValueError(unknown(f"{what}.{name}", [f"{what}.{setting.name}" for setting in known], "setting"))


def unknown(name: str, known: Iterable[str], kind: str) -> str:
    """What to say of a name that nothing has: the nearest known one, or all of them."""
    known = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"no {kind} {name!r}" + (f": did you mean {near[0]!r}?" if near else f": there are {', '.join(known)}")


def with_values(owner: T, values: Mapping[str, Any], what: str) -> T:
    """A copy of a dataclass with the named settings changed. Text is read as the field's type asks.

    Raises ValueError that names field, value and what is allowed: for an unknown name, a wrong type, and whatever `__post_init__` refuses.
    """
    nested: dict[tuple[str, ...], Any] = {}
    for name, value in values.items():
        setting = find_setting(owner, name, what)
        nested[setting.path] = converted(value, setting, f"{what}.{setting.name}")
    return _replaced(owner, nested, what)


def _replaced(owner: T, values: Mapping[tuple[str, ...], Any], what: str) -> T:
    changes: dict[str, Any] = {path[0]: value for path, value in values.items() if len(path) == 1}
    for first in dict.fromkeys(path[0] for path in values if len(path) > 1):
        inner = {path[1:]: value for path, value in values.items() if path[0] == first and len(path) > 1}
        changes[first] = _replaced(getattr(owner, first), inner, what)
    return replace(owner, **changes)  # type: ignore[type-var]


def converted(value: Any, setting: Setting, name: str) -> Any:
    """A value, or the text of one, as its field wants it. Raises ValueError that names field, value, type and range."""
    try:
        return _read(value, setting.kind) if isinstance(value, str) else _checked(value, setting.kind)
    except (ValueError, TypeError):
        also = f" and {setting.bounds}" if setting.bounds and "one of" not in setting.bounds else ""
        raise ValueError(f"{name} must be {kind_name(setting.kind)}{also}, got {value!r}") from None


def _read(text: str, kind: Any) -> Any:
    """The value that a text says."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in options:
            return None
        for option in options:
            if option is not type(None):
                try:
                    return _read(text, option)
                except (ValueError, TypeError):
                    continue
        raise ValueError(text)
    if origin is Literal:
        return next(option for option in options if str(option) == text) if text in map(str, options) else _refuse(text)
    if kind is bool:
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else _refuse(text)
    if origin is tuple:
        words = [word.strip().strip("\"'") for word in text.strip("[]() ").split(",")]
        return _checked_all([word for word in words if word], options, _read)
    if kind in (str, Path) or (isinstance(kind, type) and issubclass(kind, str)):
        return kind(text)
    if kind in (int, float):
        return _checked(float(text) if kind is float else int(text), kind)
    return _checked(tomllib.loads(f"value = {text}")["value"], kind)


def _checked(value: Any, kind: Any) -> Any:
    """A value of TOML or JSON as its field wants it."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        for option in options:
            try:
                return _checked(value, option)
            except (ValueError, TypeError):
                continue
        return _refuse(value)
    if origin is Literal:
        return value if value in options else _refuse(value)
    if origin is tuple and isinstance(value, list | tuple):
        return _checked_all(value, options, lambda one, kind: _read(one, kind) if isinstance(one, str) else _checked(one, kind))
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if not math.isnan(value) else _refuse(value)
    if origin is None and isinstance(kind, type) and type(value) is kind:
        return value
    if origin is not None and isinstance(origin, type) and isinstance(value, origin) and not options:
        return value
    return _refuse(value)


def _checked_all(values: Any, options: tuple[Any, ...], check: Any) -> tuple[Any, ...]:
    if options[-1] is Ellipsis:
        return tuple(check(value, options[0]) for value in values)
    if len(values) != len(options):
        _refuse(values)
    return tuple(check(value, option) for value, option in zip(values, options, strict=True))


def _refuse(value: Any) -> Any:
    raise ValueError(value)


def kind_name(kind: Any) -> str:
    """How a type is written for people: `number`, `true or false`, `auto | cpu | cuda`."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(map(str, options))
    if origin in (Union, types.UnionType):
        return " or ".join(kind_name(option) for option in options)
    if origin is tuple:
        several = {str: "texts", int: "whole numbers", float: "numbers"}.get(options[0], kind_name(options[0]))
        return f"a list of {several}" if options[-1] is Ellipsis else f"({', '.join(map(kind_name, options))})"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path", type(None): "none"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def print_settings(settings: Mapping[str, Setting], console: Any) -> None:
    """Settings by name as a table on a rich console: value, docstring, type."""
    from rich.markup import escape
    from rich.table import Column, Table

    grid = Table(Column("setting", no_wrap=True), "value", "what", box=None, padding=(0, 2, 0, 0))
    for name, setting in settings.items():
        allowed = f"{kind_name(setting.kind)}; must {setting.bounds}" if setting.bounds else kind_name(setting.kind)
        grid.add_row(name, value_text(setting.value), escape(f"{setting.text} [{allowed}]".strip()))
    console.print(grid)


def value_text(value: Any) -> str:
    """A value as `--set` would take it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def function_of_file(name: str) -> Any:
    """The function that `path/to/file.py:function` names; None for a name without a file. Raises ValueError where it is not there."""
    file, _, function = name.partition(":")
    if not file.endswith(".py"):
        return None
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise ValueError(f"recipe file {file} is not there")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"recipe file {file}, line {error.lineno}: {error.msg}") from None
    except Exception as error:
        line = next((one.lineno for one in reversed(traceback.extract_tb(error.__traceback__)) if one.filename == file), None)
        raise ValueError(f"recipe file {file}, line {line}: {type(error).__name__}: {error}") from error
    found = getattr(module, function or "recipe", None)
    if found is None:
        raise ValueError(f"{file} has no function {function or 'recipe'!r}")
    return found


def read_assignments(words: Iterable[str], config: Path | None) -> dict[str, Any]:
    """What `--config FILE.toml` and `--set NAME=VALUE` say, by dotted name; a word counts more than the file.

    Raises ValueError for a word without `=` and for a file that is no TOML.
    """
    asked: dict[str, Any] = {}
    if config is not None:
        try:
            asked |= _flat(tomllib.loads(config.read_text()), ())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{config} is no TOML file: {error}") from error
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--set takes NAME=VALUE, such as split.frames_per_second=10, got {word!r}")
        asked[name.strip()] = value.strip()
    return asked


def _flat(table: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, (*path, name)) if isinstance(value, Mapping) else {".".join((*path, name)): value}
    return flat
