import io
import sys
import types

import pytest
import torch

import likewise as lw
from likewise import _progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Standard error as a terminal; in the test itself, as pytest puts its own in before that."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


@pytest.fixture
def notebook(monkeypatch):
    """What a cell shows, as a list of its states."""
    shown = []
    handle = types.SimpleNamespace(update=shown.append)

    def display(html, display_id):
        shown.append(html)
        return handle

    shell = types.SimpleNamespace(kernel=object())
    ipython = types.SimpleNamespace(
        get_ipython=lambda: shell, display=types.SimpleNamespace(HTML=str, display=display)
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(_progress, "REFRESH_SECONDS", 0.0)
    return shown


def fit(**settings):
    torch.manual_seed(0)
    points = lw.data.load((torch.randn(40, 5), torch.arange(40) % 4))
    encoder = torch.nn.Linear(5, 2)
    return lw.fit(encoder, lw.losses.TripletLoss(), points, epochs=2, device="cpu", **settings)


def test_fit_shows_a_bar_and_a_line_for_each_epoch_in_a_terminal(monkeypatch):
    seen = terminal(monkeypatch)
    fit(validation=(torch.randn(40, 5), torch.arange(40) % 4))
    said = seen.getvalue()
    assert "training" in said
    assert "2/2" in said, "one batch per epoch"
    lines = [line for line in said.splitlines() if "epoch " in line]
    assert [line.partition("epoch ")[2][:8] for line in lines] == ["1: loss ", "2: loss "]
    assert all("validation_loss" in line for line in lines)


def test_fit_shows_nothing_without_a_terminal_or_with_progress_false(capfd, monkeypatch):
    fit()
    monkeypatch.setattr(sys, "stderr", Terminal())
    fit(progress=False)
    assert sys.stderr.getvalue() == ""
    assert tuple(capfd.readouterr()) == ("", "")


def test_forced_color_puts_no_bar_into_a_pipe(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    fit()
    assert tuple(capfd.readouterr()) == ("", "")


def test_what_a_callback_prints_stays_on_standard_output(monkeypatch, capsys):
    seen = terminal(monkeypatch)
    fit(callbacks=[lambda record, encoder: print("mine")])
    assert capsys.readouterr().out == "mine\nmine\n"
    assert "mine" not in seen.getvalue()


def test_fit_shows_a_bar_in_a_notebook_and_leaves_the_lines(notebook):
    fit()
    assert '<progress value="1" max="2"></progress> training 1/2' in notebook[0]
    assert notebook[-1].count("epoch ") == 2
    assert "<progress" not in notebook[-1]


def test_a_notebooks_bar_tells_the_time_left_and_escapes(notebook, monkeypatch):
    now = iter([100.0, 110.0, 110.0])
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(now))
    bar = _progress._NotebookBar("a <b>")
    monkeypatch.setattr(bar, "_draw", lambda: None)
    bar(1, 100)
    bar(2, 100)
    assert bar._left() == ", 0:16:20 left", "98 more at 10 seconds each"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "IPython", None)


def test_the_bar_counts_in_a_terminal(monkeypatch):
    seen = terminal(monkeypatch)
    with _progress.bar("work [x]") as bar:
        for done in range(1, 4):
            bar(done, 3)
        bar.say("a line [b]")
    said = seen.getvalue()
    assert "work [x]" in said
    assert "3/3" in said
    assert "a line [b]" in said
