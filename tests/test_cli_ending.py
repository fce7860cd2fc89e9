"""How commands end: status, streams, escapes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise.cli import console, ending
from likewise.errors import InputError, InputTypeError, MissingExtra

PROGRAM = [sys.executable, "-m", "likewise"]
EVIL = "\x1b]0;owned\x07\x1b[2Jred\n\t\x9b31m\u202eknil"
WITH_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def start(*arguments, shell=None, **options):
    words = " ".join(f"'{word}'" for word in (*PROGRAM, *map(str, arguments)))
    command = [*PROGRAM, *map(str, arguments)] if shell is None else ["bash", "-c", words + shell]
    return subprocess.run(command, capture_output=True, check=False, **options)


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A model whose class names and files would steer a terminal, and its folder of data."""
    home = tmp_path_factory.mktemp("evil")
    rng = np.random.default_rng(0)
    for name in (EVIL, "× b"):
        folder = home / "data" / name
        folder.mkdir(parents=True)
        for row in range(12):
            pixels = rng.integers(0, 100, (8, 8)) + (100 if name == EVIL else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"\x1b[1m{row}.png")
    data = lw.data.load(home / "data")
    encoder = lw.encoders.MLPEncoder((1, 8, 8))
    model = lw.SimilarityModel(encoder, preprocess=lw.data.Preprocess.fit(data), trained=None)
    half = lw.data.Subset(data, list(range(0, 24, 2)))
    model.add(half, metadata=[{"path": data.paths[row]} for row in range(0, 24, 2)])
    model.trained_on = list(data.class_names)
    for rule in ("nearest", "pairs"):
        model.calibrate(data, rule=rule)
    model.save(home / "model")
    model.save(home / "other")
    return home


def test_no_control_code_of_a_name_reaches_the_terminal(run, evil, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = next((evil / "data" / EVIL).iterdir())
    model, data = evil / "model", evil / "data"
    seen = 0
    for arguments in (
        ("info", model),
        ("lookup", model, file, "-k", 2),
        ("match", model, file),
        ("match", model, data),
        ("verify", model, file, file),
        ("evaluate", model, data),
        ("compare", model, evil / "other", data),
        ("remove", model, "--class", "\x1b[31mnone"),
        ("train", data, "--out", "m", "--epochs", 1, "--batches", 1, "--evaluate", "aside"),
        ("index", "m", data),
        ("calibrate", "m", data),
        ("map", "m", "\x1b[2J", "--out", "a.html"),
        ("nothing\x1b[2J",),
    ):
        _, out, err = run(*arguments)
        assert out + err
        assert not WITH_CONTROLS.search(out + err), (arguments, out, err)
        seen += r"\x1b" in out + err
    assert seen >= 7


def test_json_holds_names_as_they_are(run, evil):
    _, out, _ = run("info", evil / "model", "--json")
    assert set(json.loads(out)["trained_on"]) == {EVIL, "× b"}
    assert not WITH_CONTROLS.search(out)


def test_a_fault_of_ours_and_a_warning_are_escaped_too(run, evil, monkeypatch):
    def fail(model):
        raise RuntimeError(EVIL)

    monkeypatch.setattr("likewise.cli.answers.summary", fail)
    status, _, err = run("info", evil / "model")
    assert status == 1
    assert "RuntimeError" in err
    assert not WITH_CONTROLS.search(err)
    with console.warnings_as_lines():
        import warnings

        warnings.warn(EVIL, stacklevel=1)


def test_shown_leaves_other_writing_alone():
    for text in ("× größer 猫 \U0001f408‍\U0001f469 ابجد — …", "a\\x1b"):
        assert console.shown(text) == text
    assert console.shown("a\nb\t\x85\u202e\udc80") == r"a\nb\t\x85\u202e\udc80"


FAULTS = [
    (ValueError("x must y"), 1),
    (TypeError("x must y"), 1),
    (ImportError("x must y"), 1),
    (ModuleNotFoundError("x must y", name="no_part_of_likewise"), 1),
    (ModuleNotFoundError("as --no-deps leaves it", name="torch"), 2),
    (RuntimeError("x must y"), 1),
    (EOFError("x must y"), 1),
    (np.exceptions.AxisError("x must y"), 1),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, "x must y"), 1),
    (InputError("x must y"), 2),
    (InputTypeError("x must y"), 2),
    (MissingExtra("x must y"), 2),
    (OSError("x must y"), 2),
    (OSError(28, "x must y", b"\xff"), 2),
    (MemoryError(), 2),
    (torch.OutOfMemoryError("x"), 2),
]


@pytest.mark.parametrize(("error", "expected"), FAULTS, ids=lambda each: type(each).__name__)
def test_the_class_of_an_exception_decides(run, evil, monkeypatch, error, expected):
    def fail(model):
        raise error

    monkeypatch.setattr("likewise.cli.answers.summary", fail)
    status, out, err = run("info", evil / "model")
    assert (status, out) == (expected, "")
    assert ("Traceback" in err) == (expected == 1)
    assert ("fault of ours" in err) == (expected == 1)
    if expected == 2:
        assert len(err.splitlines()) == 1
        assert " must " in err


# A command that loads no torch, so that many can be run: × and a line, or JSON.
QUICK = [
    *(sys.executable, "-c"),
    "import sys\n"
    "from likewise.cli import console, ending\n"
    "said = {'name': '\\u00d7 b', 'nan': float('nan')}, ['\\u00d7 b']\n"
    "console.say('so far \\u00d7')\n"
    "sys.exit(ending.run(lambda **_: console.finish(*said, as_json=sys.argv[1] == 'json')))\n",
]


def quick(how, shell, **variables):
    command = ["bash", "-c", '"$@"' + shell, "bash", *QUICK, how]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    return subprocess.run(
        command, capture_output=True, check=False, env={**environment, **variables}
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"\xd7 b"),
        ({"PYTHONIOENCODING": "latin-1"}, b"\xd7 b"),
        ({"LC_ALL": "C"}, "× b".encode()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, rb"\xd7 b"),
    ],
)
def test_output_that_cannot_hold_a_character_holds_the_answer(variables, expected):
    ran = quick("lines", "", **variables)
    assert (ran.returncode, ran.stdout) == (0, expected + b"\n")
    ran = quick("json", "", **variables)
    assert json.loads(ran.stdout) == {"name": "× b", "nan": None}


STREAMS = {
    "a reader that stops": (" | true; exit ${PIPESTATUS[0]}", (0, 141), b"", False),
    "a closed output": (" >&-", (2,), b"standard output must be open", False),
    "a full disk": (" >/dev/full", (2,), b"output must be writable, got: No space left", False),
    "no messages": (" 2>&-", (0,), None, True),
    "a full disk for messages": (" 2>/dev/full", (0,), None, True),
    "no input": (" <&-", (0,), b"", True),
    "nothing at all": (" <&- >&- 2>&-", (2,), None, False),
}


@pytest.mark.parametrize("how", ["lines", "json"])
@pytest.mark.parametrize(("shell", "expected", "told", "answered"), STREAMS.values(), ids=STREAMS)
def test_streams_that_are_closed_or_full_end_quietly(shell, expected, told, answered, how):
    ran = quick(how, shell)
    assert ran.returncode in expected
    assert bool(ran.stdout) == answered
    if told is None:
        assert ran.stderr == b""
    else:
        assert told in ran.stderr
        assert len(ran.stderr.splitlines()) == 1 + bool(told)


def test_a_command_ends_as_the_quick_one_does(evil):
    ran = start("info", evil / "model", shell=" >/dev/full")
    assert ran.returncode == 2
    assert b"standard output must be writable, got: No space left" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_helps_reader_may_stop(evil):
    ran = start("--help", shell=" | true; exit ${PIPESTATUS[0]}")
    assert ran.returncode in (0, 141)
    assert ran.stderr == b""


def test_too_little_memory_ends_in_a_sentence(evil, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 8), np.float32), y=[0])
    code = (
        "import resource, sys, torch, numpy, likewise as lw\n"
        "from likewise.cli import commands, training\n"
        "import likewise.data.loading, likewise.model\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))\n"
        "lw.data.load = lambda *_, **__: numpy.ones(2**28)\n"
        "sys.argv = ['likewise', 'train', 'digits', '--out', sys.argv[1]]\n"
        "lw.cli.main()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("likewise: memory must be enough")
    assert len(ran.stderr.splitlines()) == 1


@contextlib.contextmanager
def interruptible(*words, **options):
    """A process that takes SIGINT, whatever this one does with it, and that never outlives it."""
    process = subprocess.Popen(
        list(map(str, words)),
        stderr=subprocess.PIPE,
        text=True,
        # In the background of a shell, processes start with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_interrupt_ends_without_a_traceback(evil, tmp_path):
    words = ["train", evil / "data", "--out", tmp_path / "m", "--epochs", 10_000, "--batches", 2]
    with interruptible(
        *PROGRAM, *words, "--workers", 2, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        said = process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to workers as well
        out, err = process.communicate(timeout=120)
    assert said.startswith("epoch 1")
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "likewise: stopped."


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.6])
def test_an_interrupt_while_starting_ends_without_a_traceback(delay):
    # Python's own start and a first import cannot be guarded: the wait begins after them.
    code = "import sys; from likewise.cli import main; sys.stderr.write('go\\n'); main()"
    words = ("train", "digits", "--epochs", 10_000, "--out", "/nowhere/m")
    with interruptible(sys.executable, "-c", code, *words) as process:
        process.stderr.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    assert process.returncode in (130, 2)


@pytest.mark.parametrize(
    ("goal", "sentence"),
    [
        ("far=2", "--goal far= must be followed by a number between 0 and 1, got '2'. Write"),
        ("nothing", "--goal must be one of balanced, balanced=UNKNOWNS, best-f1, accuracy"),
        ("far=0@0.95", "--goal must be above 0 and below 1, got 0.0. Nothing is certain"),
        ("far=0.1@1", "--goal must be above 0 and below 1, got 1.0. Use e.g. 0.95."),
        ("cost=0", "--goal must be above 0 and below 1, got 0.0. Give the share of pairs"),
    ],
)
def test_a_wrong_goal_is_named_as_the_command_line_has_it(run, plain_model, goal, sentence):
    status, _, err = run("calibrate", plain_model, "digits", "--goal", goal)
    assert (status, err.startswith(f"likewise: {sentence}")) == (2, True), err


def test_other_sentences_speak_of_commands_and_options(run, plain_model, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = run("gallery", "info", tmp_path / "empty")
    assert (status, "read_only" in err) == (2, False)
    assert err.startswith("likewise: GALLERY must be the folder of a gallery, got ")
    assert "Make one with likewise index" in err
    status, _, err = run("map", plain_model, "digits", "--out", tmp_path / "m.html", "--most", 1)
    assert (status, err) == (2, "likewise: --most must be at least 2, got 1.\n")
    np.savez(tmp_path / "one.npz", x=np.zeros((1, 8, 8)), y=[0])
    status, _, err = run("map", plain_model, tmp_path / "one.npz", "--out", tmp_path / "m.html")
    assert (status, err) == (2, "likewise: DATA must hold at least 2 items, got 1. Add items.\n")


def test_a_table_without_a_label_is_told_of_without_an_argument_of_python(run, tmp_path):
    (tmp_path / "d.csv").write_text("name,weight\nx,1\n")
    status, _, err = run("train", tmp_path / "d.csv", "--out", tmp_path / "m")
    assert (status, "label=" in err) == (2, False)
    assert err.endswith(
        "got the columns name, weight. Name it so in the first row, or give --label.\n"
    )


def test_a_large_image_is_refused_in_one_sentence_without_the_words_of_pillow(run, tmp_path):
    (tmp_path / "d" / "a").mkdir(parents=True)
    for name in ("a", "b"):  # 100 megapixels by the header, without a pixel behind it
        (tmp_path / "d" / "a" / f"{name}.pgm").write_bytes(b"P5 10000 10000 255\n")
    status, _, err = run("train", tmp_path / "d", "--out", tmp_path / "m", "--epochs", 1)
    assert (status, err.count("\n")) == (2, 1), err
    assert "must have at most 89,478,485 pixels, got 10000 x 10000" in err


def test_a_part_may_be_val_and_a_table_of_pairs_may_have_tabs(tmp_path):
    from likewise.journeys import opening

    rows = ["label\ta1\tsplit", "a\t0\ttrain", "b\t1\tval", "b\t2\ttest"]
    (tmp_path / "d.tsv").write_text("\n".join(rows))
    assert len(opening.open_data(str(tmp_path / "d.tsv"), "val")) == 1
    (tmp_path / "p.tsv").write_text("a\tb\tsame\n1.png\t2.png\t1\n")
    assert opening.is_pair_table(str(tmp_path / "p.tsv"))
    assert not opening.is_pair_table(str(tmp_path / "d.tsv"))


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory):
    import likewise as lw

    digits = lw.data.load("digits")
    made = lw.SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
    return made.save(tmp_path_factory.mktemp("plain") / "m")


def test_an_interrupt_that_was_swallowed_ends_the_work_at_its_next_step(tmp_path):
    # As where code in C that is being imported makes nothing of it.
    code = (
        "import os, signal, sys, time\n"
        "import likewise as lw\n"
        "train = lw.train\n"
        "def trained(*given, **named):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(5)\n"
        "    except KeyboardInterrupt:\n"
        "        return train(*given, **named)\n"
        "lw.train = trained\n"
        "from likewise.cli import main\n"
        "main()\n"
    )
    words = ("train", tmp_path / "d.npz", "--epochs", 10_000, "--out", tmp_path / "m")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((60, 8)), y=np.arange(60) % 6)
    with interruptible(sys.executable, "-c", code, *words) as process:
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err.splitlines()[-1]) == (130, "likewise: stopped.")
    assert "epoch 1" not in err


def test_a_remedy_names_options_that_the_command_has():
    names = {"source": "DATA", "--skip-unreadable": "--skip-unreadable"}
    for remedy, is_offered in (
        ("Leave such files out with --skip-unreadable.", True),
        ("Leave small classes out with --except.", False),
        ("Use --skip-unreadable, or --except.", False),
        ("Make one with likewise train DATA --out FOLDER.", True),
        ("Give more.", True),
    ):
        assert ending._is_offered(remedy, names) == is_offered, remedy


def test_an_interrupt_that_became_another_exception_is_still_one():
    # As where code in C that is being imported makes an ImportError of it.
    code = (
        "import os, signal, sys, time\n"
        "from likewise.cli import journeys\n"
        "def opened(*_, **__):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(5)\n"
        "    except KeyboardInterrupt:\n"
        "        raise ImportError('numpy failed to import') from None\n"
        "journeys.open_model = opened\n"
        "sys.argv = ['likewise', 'remove', 'model', '--class', 'x']\n"
        "from likewise.cli import main\n"
        "main()\n"
    )
    with interruptible(sys.executable, "-c", code) as process:
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "likewise: stopped.\n")
