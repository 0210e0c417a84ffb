"""The command `whim`: one parser, to which the pipeline (videos to shards) and the training (shards to networks) each add their commands.

The standard library's argparse starts in 0.05 s where typer takes 0.11 and tyro 0.14, and shows every option as a user reads it; what a
library would add, settings from dataclasses, is `stages/settings.py`. Handlers import what they need: `whim --help` loads no network.

`import whim` is the library too (docs/library.md): `LIBRARY` names what it has, read when it is first asked for.

Exit codes: 0 all done; 1 an error that you can mend, told in one line; 2 some items failed or will be tried again; 130 stopped
(Ctrl-C, SIGTERM, or the terminal was closed); 141 nobody read all of an answer that is for a program (JSON cut by `head`).
"""

import argparse
import atexit
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any, NoReturn

import pipeline.cli
import pipeline.commands.use
import training.cli
import training.commands.use
from stages.errors import UserError, one_line
from stages.settings import unknown
from training.commands.arguments import refuse_unused

if TYPE_CHECKING:
    from pipeline.library.annotated import annotate as annotate
    from pipeline.library.data import Data as Data
    from pipeline.library.data import HandTable as HandTable
    from pipeline.library.data import open as open
    from training.detector.inference import HandDetector as HandDetector

__version__ = "0.3.0.dev0"

LIBRARY: Mapping[str, str] = {
    "open": "pipeline.library.data",
    "Data": "pipeline.library.data",
    "HandTable": "pipeline.library.data",
    "annotate": "pipeline.library.annotated",
    "HandDetector": "training.detector.inference",
}
"""Names of the library and where they come from: nothing heavy is imported before it is needed."""

DONE, USER_ERROR, ITEMS_FAILED, STOPPED, NOT_READ = 0, 1, 2, 130, 141

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a command: Ctrl-C, a system that goes down or a queue of jobs, a terminal that is closed."""

GROUPS = {
    "build": "build a dataset",
    "look": "look at it",
    "train": "train on it",
    "take": "take it elsewhere",
    "use": "use the networks",
}
"""What a person wants, in the order of the help."""

OLDER: Mapping[str, str] = {"evaluate hands": "evaluate annotators", "evaluate truth": "evaluate studio"}
"""Names of commands as they were; names joined by a dash are split in any case."""

Handler = Callable[[argparse.Namespace], int | None]


def __getattr__(name: str) -> Any:
    if name not in LIBRARY:
        raise AttributeError(f"module 'whim' has no attribute {name!r}: it has {', '.join(LIBRARY)}")
    return getattr(import_module(LIBRARY[name]), name)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors like any other, and that takes no shortened options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        self.overview = ""

    def format_help(self) -> str:
        return self.overview or super().format_help()

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class Commands:
    """All commands, by their words."""

    def __init__(self) -> None:
        self.parser = Parser(prog="whim")
        self.parser.add_argument("--version", action="version", version=f"whim {__version__}")
        self.known: dict[str, Parser] = {}
        self._lines: dict[str, list[str]] = {group: [] for group in GROUPS}
        self._first = self.parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
        self._second: dict[str, Any] = {}

    def add(self, group: str, name: str, handler: Handler) -> argparse.ArgumentParser:
        """A command of one word or two; the first line of the handler's docstring is its help. Returns its parser, to add options to."""
        text = handler.__doc__ or ""
        first, _, second = name.partition(" ")
        if second and first not in self._second:
            family = self._first.add_parser(first, help=first, usage=f"whim {first} WHAT [OPTION ...]")
            self._second[first] = family.add_subparsers(metavar="WHAT", required=True, parser_class=Parser)
        inside, word = (self._second[first], second) if second else (self._first, first)
        parser: Parser = inside.add_parser(word, help=text.splitlines()[0], description=text, prog=f"whim {name}")
        shown = parser.add_argument_group("what it says")
        shown.add_argument("-q", "--quiet", action="store_true", help="print errors only, and JSON where it is asked for")
        shown.add_argument("-v", "--verbose", action="store_true", help="log what libraries say too; errors with their traceback")
        parser.set_defaults(command=handler, name=name)
        self.known[name] = parser
        self._lines[group].append(f"  {name:<22}{text.splitlines()[0].rstrip('.')}")
        return parser

    def describe(self) -> None:
        """Make the overview of all commands the help of `whim`."""
        intro = "From a list of videos to a training-ready dataset of 3D hands, and the networks that learn from it."
        groups = [f"{title}:\n" + "\n".join(self._lines[group]) for group, title in GROUPS.items()]
        rest = "whim COMMAND --help shows the options of a command, whim --version the version."
        self.parser.overview = "\n\n".join(["usage: whim COMMAND [OPTION ...]", intro, *groups, rest]) + "\n"

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments of a command. Raises UserError, with the nearest name, for a command or an option that there is not."""
        words = self._spelt(words)
        arguments, extra = self.parser.parse_known_args(words)
        if extra:
            parser = self.known[arguments.name]
            if not extra[0].startswith("-"):
                parser.error(f"one word too many: {extra[0]!r}")
            options = [option for action in parser._actions for option in action.option_strings]
            parser.error(unknown(extra[0].partition("=")[0], options, "option"))
        return arguments

    def _spelt(self, words: Sequence[str]) -> list[str]:
        """The words with the command's name as it is now. Raises UserError for one that there is not."""
        if not words or words[0].startswith("-"):
            return list(words) or ["--help"]
        given = [word for word in words[:2] if not word.startswith("-")]
        split = [*words[0].split("-", 1), *words[1:]]
        for candidate in (list(words), split):
            renamed = OLDER.get(" ".join(candidate[:2]))
            candidate = [*renamed.split(), *candidate[2:]] if renamed else candidate
            if candidate[0] in self.known or " ".join(candidate[:2]) in self.known:
                return candidate
        if words[0] in self._second:
            names = [name.split()[1] for name in self.known if name.startswith(f"{words[0]} ")]
            if len(given) == 2:
                raise UserError(unknown(" ".join(given), [f"{words[0]} {name}" for name in names], "command"))
            return list(words)
        raise UserError(f"{unknown(words[0], [*self.known, *self._second], 'command')}; whim --help lists all")


def build_commands() -> Commands:
    """Every command with its options."""
    commands = Commands()
    pipeline.cli.add_commands(commands.add)
    training.cli.add_commands(commands.add, detect, reconstruct)
    completion = commands.add("use", "completion", print_completion)
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    commands.describe()
    return commands


def detect(arguments: argparse.Namespace) -> int:
    """Find the hands of an image, a video, a folder or a camera: drawn, and as a table; by the whole chain unless a detector is named."""
    if arguments.checkpoint is None and arguments.detector == "chain":
        refuse_unused(arguments, "--detector chain", ("image", "threshold", "gpu"))
        return pipeline.commands.use.detect(arguments)
    arguments.checkpoint = arguments.checkpoint or training.cli.detector_named(arguments.detector)
    training.commands.use.detect(arguments)
    return DONE


def reconstruct(arguments: argparse.Namespace) -> int:
    """Reconstruct the hands of an image or a video in space: meshes, overlay, parameters; by the chain and the regressor that ships."""
    if arguments.regressor in ("ours", "fit"):
        return pipeline.commands.use.reconstruct(arguments, training.commands.use.regressor_that_ships(arguments))
    training.commands.use.reconstruct(arguments)
    return DONE


def print_completion(arguments: argparse.Namespace) -> None:
    """Print a script that completes commands and options in a shell: eval "$(whim completion bash)"."""
    import shtab

    print(shtab.complete(build_commands().parser, shell=arguments.shell))


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command, as `main` reads them. Raises UserError."""
    return build_commands().parse(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. The one place where errors become lines."""
    words = sys.argv[1:] if words is None else words
    _have_somewhere_to_speak()
    with _stopped_alike():
        return _run(words)


def _run(words: Sequence[str]) -> int:
    verbose = "--verbose" in words or "-v" in words
    try:
        arguments = parse(words)
        _prepare(arguments)
        status = arguments.command(arguments)
        _flush()
        return status or DONE
    except BrokenPipeError:  # JSON cut by head: what is cut off is no whole answer, as other programs say by dying of SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_READ
    except KeyboardInterrupt as stop:
        _on_stops(signal.SIG_IGN)
        exec("")  # one that met source text (dataclasses run some) stays marked as uncaught, and `python -m` would die of it
        _say(str(stop) or "stopped: what was committed stays; run again to go on")
        return STOPPED
    except Exception as error:
        line = one_line(error)
        if line is None or verbose:
            raise
        _say(f"whim: {line}")
        return USER_ERROR


@contextmanager
def _stopped_alike() -> Iterator[None]:
    """Within the block every signal of STOPS is Ctrl-C, but for one that is ignored (nohup); after it, it ends the program at once."""
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        _on_stops(signal.default_int_handler)
        yield
    finally:
        for number, handler in before.items() if _hears_signals() else ():
            signal.signal(number, handler or signal.SIG_DFL)
        atexit.unregister(_end_at_once)
        atexit.register(_end_at_once)  # the last that is registered is called first: before Ray is shut down, which takes seconds


def _on_stops(handler: "signal.Handlers | Callable[[int, Any], Any]") -> None:
    """Answer the signals of STOPS so, but for those that are ignored."""
    for number in STOPS if _hears_signals() else ():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _hears_signals() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end_at_once() -> None:
    """What was done is committed: a signal that comes while the interpreter ends has nothing to interrupt."""
    _on_stops(lambda *_: os._exit(STOPPED))


def _have_somewhere_to_speak() -> None:
    """Have both streams: one that was closed (`>&-`) goes nowhere, and none fails over a name that is no UTF-8."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or io.open(os.devnull, "w")  # noqa: SIM115, UP020  it lives as long as this process
        setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes again as it ends
        raise UserError(f"what it says cannot be written: {error.strerror}") from error


def _join_ray() -> None:
    from pipeline.engine.nodes.cluster import join

    join()


def _prepare(arguments: argparse.Namespace) -> None:
    """Give the handler its console and the door to Ray, which the pipeline and the trainings share, and set what libraries may log."""
    from rich.console import Console

    class Heard(Console):
        def on_broken_pipe(self) -> None:
            """Go on in silence where nobody reads any more, as behind a pipe to `head`: the command's own exit code counts."""
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))  # OpenCV reads it as it is loaded: `hands.images`
    _pass_over_pandas()
    arguments.join_ray = _join_ray
    arguments.console = Heard(soft_wrap=True, quiet=arguments.quiet)
    level = logging.INFO if arguments.verbose else logging.ERROR if arguments.quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s")
    logging.getLogger("ray.train").setLevel(level)  # which tells of itself at INFO otherwise


def _pass_over_pandas() -> None:
    """Let pyarrow find no pandas at its first array: importing it is a third of a short command. What asks for a data frame looks again."""
    import pyarrow

    class Nowhere(MetaPathFinder):
        def find_spec(self, fullname: str, path: object, target: object = None) -> None:
            if fullname == "pandas":
                raise ModuleNotFoundError(fullname)

    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, nowhere := Nowhere())
        pyarrow.array([])
        sys.meta_path.remove(nowhere)


def _say(line: str) -> None:
    from rich.console import Console

    with suppress(OSError):  # the terminal that was closed
        Console(stderr=True, soft_wrap=True).print(line, style="red", markup=False)


if __name__ == "__main__":
    sys.exit(main())
