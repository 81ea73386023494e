"""The command line: `segcal demo | check | fit | evaluate | apply | audit | export | corrupt | copies | study | merge |
inspect | methods`; a short file a command.

`run` takes words and returns an exit code: 0 done, 1 a proven promise is seen broken (`audit`), 2 wrong usage, 3 bad
data, 4 partly done, 130 interrupted; `main` ends with 143 where it is told to by SIGTERM. An error of segcal, or a
refusal of the operating system, is one message on stderr; `--debug` adds the traceback. Errors nobody expected are not
caught. Results go to stdout, progress to a terminal only. `--help` costs no import of torch: commands import what they
need when they run.
"""

from __future__ import annotations

import difflib
import inspect as inspect_
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cyclopts
from cyclopts.help import DefaultFormatter

from segcal import __version__
from segcal.cli import (
    apply,
    audit,
    check,
    copies,
    corrupt,
    demo,
    ending,
    evaluate,
    export,
    fit,
    inspect,
    merge,
    methods,
    study,
)
from segcal.cli.console import error, escaped, standard_streams
from segcal.errors import DataError, KindWarning, OutputError, SegcalError, UsageError

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

USAGE = 2
INTERRUPTED = 130


class OneLine(DefaultFormatter):
    """Help with the text of each option on one line for a terminal to wrap."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one panel."""
        for entry in panel.entries:
            text = getattr(entry.description, "primary_renderable", None)
            if text is not None:
                text.plain = " ".join(text.plain.split())
        super().__call__(console, options, panel)


def reflowed(docstring: str) -> tuple[str, str]:
    """What stands before the parameters, each paragraph on one line for a terminal to wrap (indented lines are
    examples and stay); and the whole with the text of each parameter on one line.
    """
    head, heading, parameters = docstring.partition("\n\nParameters\n")
    paragraphs = head.split("\n\n")
    head = "\n\n".join(p if p.startswith(" ") else re.sub(r"\n(?! )", " ", p) for p in paragraphs)
    return head, head + heading + re.sub(r"(?m)(?<=^ {4})(.*)((?:\n {4}.*)*)", _one_line, parameters)


def _one_line(found: re.Match[str]) -> str:
    return found.group(1) + re.sub(r"\n {4}", " ", found.group(2))


HELP = """Your segmentation network says "90 % sure". segcal checks on cases you have labelled whether it is right
nine times in ten, and corrects the percentages. The network is not retrained; its masks stay as they are unless you ask
otherwise.

The usual order: RESULTS holds the network's saved probabilities (nnU-Net: --save_probabilities) and LABELS the label
maps of cases it was not trained on; HELDOUT further such cases, NEW cases without labels. Name the patient of a case
with --groups where there are several of one.

    segcal check RESULTS --labels LABELS
    segcal fit RESULTS --labels LABELS --method auto -o cal.safetensors
    segcal evaluate HELDOUT --labels LABELS --calibrator cal.safetensors
    segcal apply cal.safetensors NEW -o OUT --maps error

Each command explains itself: segcal COMMAND --help. Exit codes: 0 done, 1 audit found a broken promise, 2 wrong usage,
3 bad data, 4 partly done."""

app = cyclopts.App(
    name="segcal",
    version=__version__,
    help=reflowed(HELP)[0],
    help_format="plaintext",
    help_formatter=OneLine(),
    default_parameter=cyclopts.Parameter(negative=""),
    # run() says what an interruption leaves behind
    suppress_keyboard_interrupt=False,
)


COMMANDS: tuple[Callable[..., int], ...] = (
    demo.demo,
    check.check,
    fit.fit,
    evaluate.evaluate,
    apply.apply,
    audit.audit,
    export.export,
    corrupt.corrupt,
    copies.copies,
    study.study,
    merge.merge,
    inspect.inspect,
    methods.methods,
)

for _place, _command in enumerate(COMMANDS):
    _help, _command.__doc__ = reflowed(inspect_.getdoc(_command) or "")
    app.command(_command, sort_key=_place, help=_help)


def main() -> None:
    """Run the words of the command line and exit with the code.

    A reader of stdout that has gone is no error; stdout that cannot take what is printed is one (exit 3), after the
    work is done.
    """
    stdout = standard_streams()
    watch = ending.Watch()
    code = watch.code(lambda: run(sys.argv[1:]))
    sys.stdout.flush()
    if stdout.failed is not None and not isinstance(stdout.failed, BrokenPipeError):
        lost = OutputError(
            "standard output",
            found=(stdout.failed.strerror or "an error").lower(),
            expected="room for what is printed",
            do="Files were written as far as no other error is shown; print to a file or a terminal.",
        )
        error(str(lost))
        code = code or lost.exit_code
    watch.rest()
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    words = several(json_to_stdout(words))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", KindWarning)  # commands say it in words of their own
            code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as wrong:
        command = [c.__name__ for c in COMMANDS]
        meant = difflib.get_close_matches(words[0].lower(), command, 1) if words else []
        error(f"{escaped(str(wrong))}\nSee: {' '.join(['segcal', *meant, '--help'])}")
        return USAGE
    except SegcalError as wrong:
        if "--debug" in words:
            traceback.print_exc()
        error(str(as_option(wrong, words)))
        return wrong.exit_code
    except OSError as wrong:
        if "--debug" in words:
            traceback.print_exc()
        refused = DataError(
            str(wrong.filename or "a file"),
            found=(wrong.strerror or str(wrong)).lower(),
            expected="a file or folder that can be used",
            do="Check that it is there, its permissions and its disk; --debug shows where this happened.",
        )
        error(str(refused))
        return refused.exit_code
    except KeyboardInterrupt:
        error("interrupted; every file written so far is complete")
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def as_option(wrong: SegcalError, words: Sequence[str]) -> SegcalError:
    """What is said of an argument by the name that it has in Python, said of the option of the command; else itself."""
    if type(wrong) is not UsageError or not words or words[0] not in app:
        return wrong
    option = f"--{wrong.where.rstrip('_').replace('_', '-')}"
    known = {name for argument in app[words[0]].assemble_argument_collection() for name in argument.names}
    return UsageError(option, found=wrong.found, expected=wrong.expected, do=wrong.do) if option in known else wrong


VALUES = {"--ignore-index": r"-?\d+(,-?\d+)*", "--label-map": r"-?\d+:\S+"}
"""Options that take several values, and what these look like, which no name of an option does."""


def several(words: Sequence[str]) -> list[str]:
    """`--ignore-index 254 255` as `--ignore-index=254 --ignore-index=255`: what follows such an option belongs to it as
    long as it looks like its values, so that paths may come after it.
    """
    out: list[str] = []
    left = list(words)
    while left:
        option = left.pop(0)
        looks = VALUES.get(option)
        if looks is None or not left or not re.fullmatch(looks, left[0]):
            out.append(option)
            continue
        while left and re.fullmatch(looks, left[0]):
            out += [f"{option}={value}" for value in left.pop(0).split(",")]
    return out


def json_to_stdout(words: Sequence[str]) -> list[str]:
    """`--json` without a FILE means standard output. What ends in .safetensors is a calibrator, never the FILE."""
    out: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word != "--json":
            out.append(word)
        elif left and (left[0] == "-" or not left[0].startswith("-")) and not left[0].endswith(".safetensors"):
            out.append(f"--json={left.pop(0)}")
        else:
            out.append("--json=-")
    return out
