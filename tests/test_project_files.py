"""The files beside the package agree: addresses, versions, test tiers, navigation."""

import re
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text())
ADDRESSES = SETTINGS["project"]["urls"]
FILES = [
    *("README.md", "SECURITY.md", "CITATION.cff", "mkdocs.yml"),
    *(path.relative_to(PROJECT).as_posix() for path in PROJECT.glob(".github/**/*.yml")),
]


@pytest.mark.parametrize("file", FILES)
def test_every_address_of_the_project_is_one_of_pyproject(file):
    text = (PROJECT / file).read_text()
    ours = re.findall(
        r"https://[\w./-]*likewise[\w./-]*", text.replace("raw.githubusercontent", "github")
    )
    known = tuple(each.rstrip("/") for each in ADDRESSES.values())
    assert [each for each in ours if not each.startswith(known)] == []


def test_the_citation_names_the_version():
    version = SETTINGS["project"]["version"]
    assert f"\nversion: {version}\n" in (PROJECT / "CITATION.cff").read_text()


def test_hosted_checks_run_each_python_that_is_declared():
    said = SETTINGS["project"]["classifiers"]
    declared = {each.rsplit(" ", 1)[1] for each in said if re.search(r"Python :: 3\.\d+$", each)}
    jobs = (PROJECT / ".github" / "workflows" / "ci.yml").read_text()
    assert (
        set(re.findall(r"\d\.\d+", re.search(r"matrix: {python: \[(.*)\]}", jobs)[1])) == declared
    )


def test_hosted_checks_call_targets_there_are():
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    for path in PROJECT.glob(".github/workflows/*.yml"):
        called = re.findall(r"\bmake ([a-z-]+)", path.read_text())
        assert set(called) <= set(targets), path.name


def test_slow_tests_are_there():
    contracts = "".join(path.read_text() for path in (PROJECT / "tests").glob("*_contract.py"))
    for line in (PROJECT / "tests" / "slow.txt").read_text().splitlines():
        file, *_, name = line.split("::")
        there = (PROJECT / file).read_text() + contracts
        assert name.rsplit(".")[-1] in there, f"{line} is not there"


def test_every_page_is_in_the_navigation():
    navigation = (PROJECT / "mkdocs.yml").read_text()
    docs = PROJECT / "docs"
    pages = [path.relative_to(docs).as_posix() for path in docs.glob("**/*.md")]
    missing = [page for page in pages if f": {page}\n" not in navigation]
    assert missing == [], "add a line for it under nav in mkdocs.yml"


def test_an_empty_line_ends_each_table():
    for page in PROJECT.glob("docs/**/*.md"):
        joined = re.findall(r"^\|.*\n(?!\||\n|\Z)(.*)", page.read_text(), re.MULTILINE)
        assert joined == [], f"{page.name}: the site would make rows of these"


@pytest.mark.parametrize(("page", "most"), [("README.md", 120), ("docs/architecture.md", 150)])
def test_pages_that_are_read_first_stay_short(page, most):
    assert len((PROJECT / page).read_text().splitlines()) <= most
