"""Builds the source package and, from it, the wheel; then tries the wheel as a new user would.

`make package`, or `python tests/package.py`. The wheel is installed into a new environment, and the
first journey of README.md runs there, in an empty folder.
"""

import email
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
SOURCES = PROJECT / "src"


def built():
    """The wheel, built anew from the source package."""
    for old in (PROJECT / "dist").glob("likewise-*"):
        old.unlink()
    subprocess.run([sys.executable, "-m", "build", PROJECT], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = (PROJECT / "dist").glob("*.whl")
    return wheel


def check(wheel):
    """Refuse a wheel that lacks a file of the package, holds another, or says too little."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        said = email.message_from_bytes(archive.read(name))
    there = {
        path.relative_to(SOURCES).as_posix()
        for path in (SOURCES / "likewise").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == there, sorted(inside ^ there)
    assert "likewise/py.typed" in inside
    assert "Typing :: Typed" in said.get_all("Classifier")
    assert len(said.get_all("Project-URL")) >= 4
    relative = re.findall(r"\]\((?!https://)[^)]*\)", str(said.get_payload()))
    assert not relative, f"a package index cannot follow {relative}"


def try_out(wheel):
    """Install the wheel into a new environment; run its command and README's first journey."""
    readme = (PROJECT / "README.md").read_text()
    journey = re.search(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)[1]
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        empty.mkdir()
        venv.create(Path(folder) / "venv", with_pip=True)
        bin_ = Path(folder) / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        pip = [bin_ / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, wheel], check=True)
        subprocess.run([bin_ / "likewise", "--version"], check=True, cwd=empty)
        subprocess.run([bin_ / "python", "-W", "error", "-c", journey], check=True, cwd=empty)


if __name__ == "__main__":
    made = built()
    check(made)
    try_out(made)
    sys.stdout.write(f"{made.name} is whole, installs, and runs the first journey of README.md\n")
