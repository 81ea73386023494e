"""The command line as a whole: help, exit codes, messages, what is printed where."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import segcal.cli
from segcal.cli import COMMANDS, app, json_to_stdout, reflowed, run

NAMES = [c.__name__ for c in COMMANDS]


def process(*words: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "segcal", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **settings,
    )


def test_help_names_every_command_in_the_order_of_use_and_no_other(segcal: Any) -> None:
    said = segcal("--help")
    assert said.code == 0
    commands = said.out[said.out.index("Commands") :]
    places = [
        commands.index(f" {name} ")
        for name in ("demo", "check", "fit", "evaluate", "apply", "audit", "export", "corrupt", "inspect")
    ]
    assert places == sorted(places)
    assert "│ serve " not in said.out


@pytest.mark.parametrize("name", ["serve", "bogus"])
def test_what_is_not_built_is_wrong_usage(segcal: Any, name: str) -> None:
    said = segcal(name)
    assert said.code == 2
    assert name in said.err


def test_a_command_is_one_file_and_few_are_shared() -> None:
    files = {path.stem for path in Path(segcal.cli.__file__).parent.glob("*.py")}
    assert files - {command.__name__ for command in COMMANDS} == {
        "__init__",
        "console",
        "ending",
        "options",
        "page",
        "tables",
    }


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command_shows_two_examples(segcal: Any, name: str) -> None:
    said = segcal(name, "--help")
    assert said.code == 0
    assert said.out.count(f"    segcal {name}") >= 2


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_help_text_that_is_shown(segcal: Any, name: str) -> None:
    options = [o for o in app[name].assemble_argument_collection(parse_docstring=True) if o.show]
    shown = "".join(segcal(name, "--help").out.replace("│", " ").split())
    assert len(options) >= 5
    for option in options:
        assert option.parameter.help
        assert option.name in shown
        assert "".join(option.parameter.help.split()) in shown


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from segcal.cli import run; run(['--help']); run(['fit', '--help']); sys.exit('torch' in"
        " sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_version_from_a_process() -> None:
    done = process("--version")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, segcal.__version__, "")


def test_methods_in_the_help_are_those_there_are(segcal: Any) -> None:
    from segcal.methods import BUILT_IN

    shown = " ".join(segcal("fit", "--help").out.replace("│", " ").split())
    told = shown[shown.index("--method") : shown.index("--lambda")]
    assert all(f"{name} ({place.gist})" in told for name, place in BUILT_IN.items())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fit", "there"], "--output"),
        (["fit"], "RESULTS"),
        (["check", "there", "--bogus"], "--bogus"),
        (["check", "there", "--pool", "median"], "median"),
        (["fit", "there", "-o", "x", "--folds", "many"], "many"),
    ],
)
def test_wrong_usage_is_one_message_and_code_2(segcal: Any, words: list[str], told: str) -> None:
    said = segcal(*words)
    assert said.code == 2
    assert said.out == ""
    assert told in said.err
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err


def test_an_error_is_one_message_without_a_traceback_from_a_process(tmp_path: Path) -> None:
    done = process("check", tmp_path / "nowhere")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert str(tmp_path / "nowhere") in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback(segcal: Any, tmp_path: Path) -> None:
    said = segcal("check", tmp_path / "nowhere", "--debug")
    assert said.code == 3
    assert "Traceback" in said.err
    assert "MissingError" in said.err


def test_what_nobody_expected_is_not_swallowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("segcal.cli.check.cohort_of", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(["check", str(tmp_path)])


def test_an_interruption_is_code_130(monkeypatch: pytest.MonkeyPatch, segcal: Any, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segcal.cli.check.cohort_of", interrupted)
    said = segcal("check", tmp_path)
    assert said.code == 130
    assert "Traceback" not in said.err


def test_a_log_holds_results_only(fitting: Any) -> None:
    done = process("check", *fitting.labelled)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "next: segcal fit" in done.stdout


def test_a_terminal_shows_progress(fitting: Any) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "segcal", "check", *fitting.labelled, "--workers", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    ) as running:
        os.close(follower)
        shown = b""
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        out = running.stdout.read() if running.stdout is not None else b""
    os.close(leader)
    assert running.returncode == 0
    assert b"checking cases" in shown
    assert b"checking cases" not in out
    assert b"\x1b" not in out


def test_quiet_prints_nothing_but_errors(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    said = segcal("check", *fitting.labelled, "--quiet", "--json", tmp_path / "check.json")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert (tmp_path / "check.json").is_file()


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["inspect", "cal.safetensors", "--json"], ["inspect", "cal.safetensors", "--json=-"]),
        (["inspect", "--json", "cal.safetensors"], ["inspect", "--json=-", "cal.safetensors"]),
        (["inspect", "cal.safetensors", "--json", "a.json"], ["inspect", "cal.safetensors", "--json=a.json"]),
        (["check", "R", "--json", "-"], ["check", "R", "--json=-"]),
        (["check", "R", "--json", "--quiet"], ["check", "R", "--json=-", "--quiet"]),
    ],
)
def test_json_without_a_file_is_stdout(words: list[str], read: list[str]) -> None:
    assert json_to_stdout(words) == read


@given(st.lists(st.sampled_from(["check", "R", "--json", "-", "a.json", "c.safetensors", "--quiet", "-o"])))
def test_words_that_are_not_json_stay_as_they_are(words: list[str]) -> None:
    read = json_to_stdout(words)
    assert sum(w.startswith("--json=") for w in read) == words.count("--json")
    assert json_to_stdout(read) == read
    if "--json" not in words:
        assert read == words


def test_paragraphs_are_left_to_the_terminal_and_examples_are_not() -> None:
    text = "One line.\n\nTwo\nlines.\n\n    an example\n    another\n\nParameters\n----------\nx\n    None."
    assert reflowed(text)[0] == "One line.\n\nTwo lines.\n\n    an example\n    another"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "--seed=-1"), "--seed. Must be >= 0"),
        (("fit", f"--seed={2**63}"), "--seed. Must be <"),
        (("audit", "--seed=-1"), "--seed. Must be >= 0"),
        (("corrupt", "--seed=-1"), "--seed. Must be >= 0"),
        (("fit", "--trials=2147483648"), "--trials. Must be <= 10000"),
        (("fit", "--epochs=2147483648"), "--epochs. Must be <= 100000"),
        (("corrupt", "--replicates=2147483648"), "--replicates. Must be <= 1000"),
        (("check", "--workers=" + "9" * 5000), "--workers"),
        (("methods", "--classes=" + "9" * 5000), "from 2 to 32"),
    ],
)
def test_numbers_out_of_bounds_are_refused_before_any_work(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"fit": ["x", "-o", "y"], "audit": ["x", "y"], "corrupt": ["x", "-o", "y"], "check": ["x"], "methods": []}
    assert run([words[0], *places[words[0]], *words[1:]]) == 2
    assert said in capsys.readouterr().err.replace('"', "")


@pytest.mark.parametrize("method", ["ms-c", "vs,cms-ap", "cdc"])
def test_a_fit_that_cannot_keep_its_memory_is_refused_by_the_name_of_the_option(
    segcal: Any, cohort_writer: Any, tmp_path: Path, method: str
) -> None:
    many = cohort_writer(tmp_path / "many", ["a", "b", "c"], classes=118, shape=(12, 11))
    said = segcal("fit", *many.labelled, "--method", method, "-o", tmp_path / "cal", "--max-memory", "256MB")
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("error: --max-memory: found 256MB for ") and "118 classes" in said.err
    needed = re.search(r"expected about (\S+)\. Give --max-memory (\S+)[.,]", said.err)
    assert needed is not None and needed[1] == needed[2]
    assert not (tmp_path / "cal").exists()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--max-memory", "5MB"], "--max-memory"),
        (["--networks", "0"], "--networks"),
        (["--cases", "nobody"], "--cases"),
        (["--background", "7"], "--background"),
        (["--groups", "("], "--groups"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_a_wrong_argument_is_called_by_its_option(segcal: Any, heldout: Any, words: list[str], option: str) -> None:
    said = segcal("evaluate", *heldout.labelled, *words)
    assert said.code == 2 and said.err.startswith(f"error: {option}: found ")


SLIPS = {
    "check nowhere": 3,
    "check there --labels nowhere": 3,
    "check there --max-memory nowhere": 2,
    "fit nowhere -o out": 3,
    "fit there -o out --method nowhere": 2,
    "fit there -o out --method auto --among ts,nowhere": 2,
    "fit there -o nowhere --method auto --lambda 3": 2,
    "fit there -o nowhere --method ts --invariant": 2,
    "fit there -o nowhere --method ts --trials 4": 2,
    "fit there -o out --option nowhere": 2,
    "evaluate nowhere": 3,
    "evaluate there --calibrator nowhere": 3,
    "apply nowhere there -o out": 3,
    "audit nowhere there": 3,
    "audit there nowhere": 3,
    "audit there there --shifts nowhere": 2,
    "inspect nowhere": 3,
    "corrupt nowhere -o out --severity mild": 3,
    "corrupt there -o nowhere": 2,
    "study nowhere -o out": 3,
    "merge nowhere -o out": 3,
    "methods --classes nowhere": 2,
    "nowhere": 2,
}


def test_a_slip_of_the_finger_is_told_without_torch(tmp_path: Path) -> None:
    """Importing torch takes seconds. Last comes the list of methods, which has no need of it either."""
    (tmp_path / "there").mkdir()
    code = (
        f"import sys\nfrom segcal.cli import run\nfor words in {[*SLIPS, 'methods']!r}:\n"
        "    print('code', run(words.split()), 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    told = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("code")]
    assert told == [[str(code), "False"] for code in (*SLIPS.values(), 0)], done.stdout + done.stderr
    assert done.stderr.count("error: ") == len(SLIPS)


@pytest.mark.parametrize(
    ("words", "see"),
    [
        (["aply", "--help"], "segcal apply --help"),
        (["FIT", "x"], "segcal fit --help"),
        (["evalute"], "segcal evaluate --help"),
        (["fit", "--lables", "x"], "segcal fit --help"),
        (["quux"], "segcal --help"),
        (["--quux"], "segcal --help"),
    ],
)
def test_a_mistyped_command_leads_to_the_help_of_one_that_there_is(
    segcal: Any, words: list[str], see: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = segcal(*words)
    assert said.code == 2 and said.err.splitlines()[-1] == f"See: {see}"
    assert run(see.split()[1:]) == 0 and "Usage: " in capsys.readouterr().out
