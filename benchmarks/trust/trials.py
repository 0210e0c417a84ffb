"""Whether a module's tests notice its changes: the tests are collected once, then a process forks for every change and runs them.

Within the fork a changed function gets its new code in place. Where a change lies outside of functions (a constant, a default), all
that imports the module is loaded again. The quickest tests run first and the first that fails ends it: a change costs tenths of a second.
"""

import ast
import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from benchmarks.trust.changes import Change

_MARKS = "not gpu and not network and not heavy and not cluster and not long"
_AGAIN = ("-o", "addopts=--import-mode=importlib --strict-markers", "-W", "ignore::pytest.PytestAssertRewriteWarning")
"""Once more in one process: what checks the types is installed already, and so are pytest's plugins."""
_MOST_CPU_S = 240
"""Processor time that the tests may take on the code as it is; those of a changed module may take thrice of what they took."""
_MOST_BYTES = 8 << 30
"""A changed module may ask for any size."""


def forked(body: Callable[[], bool], limit_s: int) -> tuple[bool, float]:
    """Whether a body returns True in a process forked from here, or dies or needs more processor time than the limit; and the time, s."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
            resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
            signal.alarm(600 * limit_s)  # one that waits for ever needs no processor time; on a busy machine others get little of it
            code = int(body())
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    return status != 0, used.ru_utime + used.ru_stime


def trials(tree: Path, module: str, changes: Sequence[Change], tests: Sequence[str], end: float) -> list[bool] | str:
    """Whether the tests notice each change, of as many as there is time for; or what is wrong with the tests as they are."""
    result = tree / "noticed.json"
    result.unlink(missing_ok=True)

    def body() -> bool:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.chdir(tree)
        root = Path(__file__).resolve().parents[2]
        sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != root)]
        os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        plugin = _Trials(tree, module, changes, end)
        pytest.main([*_words(), *tests], plugins=[plugin])
        result.write_text(json.dumps(plugin.found))
        return False

    forked(body, 24 * 3600)
    found = json.loads(result.read_text()) if result.exists() else "its tests cannot be collected"
    return found if isinstance(found, str) else [bool(noticed) for noticed in found]


def _words() -> list[str]:
    return ["-x", "-q", "-p", "no:cacheprovider", "-m", _MARKS]


class _Hasty:
    """A plugin of pytest that ends the process where a test raises: a report of it would cost more than most tests."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """End, unless the test is skipped."""
        if call.excinfo and not call.excinfo.errisinstance((pytest.skip.Exception, pytest.xfail.Exception)):
            os._exit(1)


class _Trials:
    """A plugin of pytest that, in place of running the tests, tries all changes on them."""

    def __init__(self, tree: Path, module: str, changes: Sequence[Change], end: float) -> None:
        self.tree, self.module, self.changes, self.end = tree, module, changes, end
        self.found: list[bool] | str = "its tests cannot be collected"

    def pytest_sessionstart(self) -> None:
        """Hypothesis takes the same examples every time, refuses none for being slow, and looks for no smaller one."""
        from hypothesis import Phase, settings

        settings.register_profile("mutation", deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try all."""
        if session.testsfailed or not session.items:
            return True
        path = self.tree / self.module
        plain, times = path.read_text(), self.tree / "times.json"
        failed, took_s = forked(lambda: _timed(session, times), _MOST_CPU_S)
        if failed:
            self.found = "its tests fail as it is"
            return True
        cost, late = json.loads(times.read_text())
        for name in late:  # what the tests load as they run, once for all forks
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        gc.collect()
        loaded = [one for one in gc.get_objects() if type(one) is FunctionType and one.__code__.co_filename == str(path)]
        gc.freeze()  # what a fork collects would be copied
        session.items.sort(key=lambda item: cost[item.nodeid])
        limit_s = round(5 + 3 * took_s)
        again = lambda: _loaded_again(self.tree, self.module, [item.nodeid for item in session.items])  # noqa: E731
        self.found = []
        sound: bool | None = None
        try:
            for change in self.changes:
                if time.monotonic() > self.end:
                    break
                swaps = list(_swaps(loaded, path, plain, change.source))
                if not swaps and sound is None:
                    sound = not forked(again, 2 * limit_s)[0]
                    if not sound:
                        self.found = "its tests fail where it is loaded again"
                        return True
                path.write_text(change.source)
                noticed, _ = forked(lambda: _swapped(swaps, session), limit_s) if swaps else forked(again, 2 * limit_s)  # noqa: B023
                path.write_text(plain)
                self.found.append(noticed)
        finally:
            path.write_text(plain)
        return True


def _timed(session: pytest.Session, times: Path) -> bool:
    """Run all tests, and write down what each takes and what they load."""
    cost: dict[str, float] = {}
    loaded = set(sys.modules)

    def told(item: pytest.Item, seconds: float) -> None:
        cost[item.nodeid] = seconds

    failed = _run(session, told)
    times.write_text(json.dumps([cost, [name for name in sys.modules if name not in loaded]]))
    return failed


def _swapped(swaps: Sequence[tuple[FunctionType, CodeType]], session: pytest.Session) -> bool:
    for function, code in swaps:
        function.__code__ = code
    session.config.pluginmanager.register(_Hasty())
    return _run(session)


def _run(session: pytest.Session, told: Callable[[pytest.Item, float], None] | None = None) -> bool:
    """Whether a test fails."""
    for k, item in enumerate(session.items):
        before = time.process_time()
        following = session.items[k + 1] if k + 1 < len(session.items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return True
        if told:
            told(item, time.process_time() - before)
    return False


def _swaps(functions: Sequence[FunctionType], path: Path, plain: str, changed: str) -> Iterator[tuple[FunctionType, CodeType]]:
    """Those of a module's functions that change, and their new code; none where more than the inside of functions changes."""
    pairs = list(_altered(compile(plain, str(path), "exec"), compile(changed, str(path), "exec")))
    loaded: dict[tuple[str, int], list[FunctionType]] = {}
    for one in functions:
        loaded.setdefault((one.__code__.co_qualname, one.__code__.co_firstlineno), []).append(one)
    found = []
    for old, new in pairs:
        same = loaded.get((old.co_qualname, old.co_firstlineno), []) if old.co_flags & 1 else []  # 1: of a function
        if not same or any(function.__code__.co_freevars != new.co_freevars for function in same):
            return
        found += [(function, new) for function in same]
    yield from found


def _altered(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The outermost functions that differ, or what holds them where it does itself."""
    if old == new:
        return
    inner = [[one for one in code.co_consts if isinstance(one, CodeType)] for code in (old, new)]
    own = [(code.co_code, [one for one in code.co_consts if not isinstance(one, CodeType)], code.co_names) for code in (old, new)]
    if old.co_flags & 1 or len(inner[0]) != len(inner[1]) or repr(own[0]) != repr(own[1]):
        yield old, new
        return
    for pair in zip(*inner, strict=True):
        yield from _altered(*pair)


def _loaded_again(tree: Path, module: str, tests: Sequence[str]) -> bool:
    """Whether a test fails once the module, and all that imports it, have been loaded again: unchecked types, as beartype knows a class
    by its name and would take the new one for the old."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    name = module.removesuffix(".py").replace("/", ".")
    ours = {key: value for key, value in sys.modules.items() if str(getattr(value, "__file__", None) or "").startswith(f"{tree}/")}
    imports = {key: set(_imports(Path(str(value.__file__)))) for key, value in ours.items()}
    stale, size = {name}, 0
    while size != len(stale):
        size = len(stale)
        stale |= {key for key, wanted in imports.items() if wanted & stale}
    for key in stale & set(sys.modules):
        parent, _, last = key.rpartition(".")
        del sys.modules[key]
        if parent in sys.modules and hasattr(sys.modules[parent], last):
            delattr(sys.modules[parent], last)
    return bool(pytest.main([*_words(), *_AGAIN, *tests], plugins=[_Hasty()]))


def _imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, within functions too."""
    node: Any
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
