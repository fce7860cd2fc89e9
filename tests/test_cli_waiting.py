import os
import subprocess
import sys

import pytest

from likewise.cli import waiting
from likewise.cli.waiting import Spent, others_compute, sleep_where_others_compute, spent


@pytest.mark.parametrize(
    ("by_all", "by_us", "seconds", "expected"),
    [
        (1.0, 1.0, 1.0, False),  # all of it was ours
        (1.0, 0.0, 1.0, True),
        (1.5, 1.0, 1.0, True),
        (1.2, 1.0, 1.0, False),
        (1.0, 0.0, 0.01, False),  # too short to tell
    ],
)
def test_others_compute_where_more_was_computed_than_by_us(by_all, by_us, seconds, expected):
    before = Spent(100.0, 10.0, 1000.0)
    after = Spent(100.0 + by_all, 10.0 + by_us, 1000.0 + seconds)
    assert others_compute(before, after) is expected
    assert not others_compute(None, after)
    assert not others_compute(before, None)


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("setting", [None, *waiting.SETTINGS])
def test_threads_sleep_only_where_others_compute_and_the_user_said_nothing(
    monkeypatch, busy, setting
):
    for name in waiting.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    if setting is not None:
        monkeypatch.setenv(setting, "theirs")
    monkeypatch.setattr(waiting, "spent", lambda: Spent(101.0 if busy else 100.0, 10.0, 1001.0))
    asked = {name: os.environ.get(name) for name in waiting.SETTINGS}
    sleep_where_others_compute(Spent(100.0, 10.0, 1000.0))
    if busy and setting is None:
        asked["OMP_WAIT_POLICY"] = "PASSIVE"
    assert {name: os.environ.get(name) for name in waiting.SETTINGS} == asked
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


def test_a_system_without_statistics_changes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(waiting, "STATISTICS", tmp_path / "missing")
    assert spent() is None


@pytest.mark.skipif(not waiting.STATISTICS.exists(), reason="a system without /proc/stat")
def test_the_kernel_counts_what_we_compute():
    before = after = spent()
    while after.by_us - before.by_us < 0.1:
        after = spent()
    assert after.by_all - before.by_all >= 0.05
    assert after.at > before.at


def test_the_command_line_decides_before_pytorch_is_loaded():
    code = (
        "import sys, likewise.cli as cli, likewise.cli.waiting, likewise.cli.commands as commands\n"
        "cli.waiting.sleep_where_others_compute = lambda _: print('torch' in sys.modules)\n"
        "commands.run = lambda: 0\n"
        "cli.main()\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert told == "False\n"
