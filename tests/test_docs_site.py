"""The documentation site: each public name and command is on it, with a use that is right."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import likewise
from likewise.cli.commands import app

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted(PROJECT.glob("docs/**/*.md"))]
_spec = importlib.util.spec_from_file_location("generate", PROJECT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


def test_every_public_module_has_a_page_and_every_name_is_there():
    assert set(generate.public_modules()) < set(likewise.__all__)
    assert set(likewise.__all__) <= {name.split(".")[0] for name in generate.full_names()}
    for module in generate.public_modules():
        names = generate.public_names(module)
        assert names, module
        for name in names:
            *inner, last = name.split(".")
            holder = importlib.import_module(".".join(["likewise", module, *inner]))
            assert hasattr(holder, last), f"likewise.{module}.{name}"


@pytest.mark.parametrize("module", generate.public_modules())
def test_every_public_name_has_a_line_of_use(module):
    without = [
        name
        for name in generate.public_names(module)
        if not generate.uses(name, generate.docstring_lines(module))
        and not any(generate.uses(name, lines, module) for lines in generate.pages().values())
    ]
    assert without == [], "use it in docs/names.md, or in an example of its docstring"


def test_a_line_that_imports_a_name_is_no_use():
    lines = ["from likewise.losses import TripletLoss", "x = 1  # TripletLoss", "MyTripletLoss()"]
    assert generate.uses("TripletLoss", lines) == []
    assert generate.uses("TripletLoss", ["  loss = TripletLoss()"]) == ["loss = TripletLoss()"]


def test_another_thing_of_the_same_name_is_no_use():
    assert generate.uses("weighted", ["weighted = other.weighted(x)"], "matching") == []
    for line in ("lw.matching.weighted(x)", "matching.weighted(x)", "lw.weighted(x)"):
        assert generate.uses("weighted", [line], "matching") == [line]
    imports = "from likewise.matching import nearest, weighted"
    assert generate.uses("weighted", [imports, "weighted(x)"], "matching") == ["weighted(x)"]


def commands_of(page):
    """Each `likewise` command in the console blocks of a page, as the shell splits it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["likewise"] and "--version" not in words:
                found.append(words[1:])
    return found


def parse(words):
    """Read a command line as the command would, without running it."""
    command, context = typer.main.get_command(app), None
    while True:
        context = command.make_context(command.name, list(words), parent=context)
        if not hasattr(command, "commands"):
            return context.params
        name, command, words = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None, name


def fault_of(words):
    """What the reader of options says against a command; None if it can be read."""
    try:
        parse(words)
    except Exception as error:
        return f"likewise {shlex.join(words)}: {error}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_can_be_read(page):
    assert [fault for words in commands_of(page.read_text()) if (fault := fault_of(words))] == []


def test_a_command_that_cannot_be_read_is_found():
    page = "```console\n$ likewise match m x.png --point near  # why\n$ ls\n```\n`likewise no`"
    assert commands_of(page) == [["match", "m", "x.png", "--point", "near"]]
    assert parse(["match", "m", "x.png", "--point", "near"])["point"] == "near"
    for wrong in (["match"], ["match", "m", "--nothing"], ["gallery", "eat", "g"]):
        assert re.search(r"Missing|No such|not", fault_of(wrong))


def test_the_page_of_the_command_line_has_every_command_and_option():
    page = generate.command_page()
    assert len(generate.commands()) > 20
    for words, command in generate.commands().items():
        (section,) = re.findall(rf"^## likewise {words}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
        for parameter in command.params:
            if parameter.param_type_name == "option":
                for option in [*parameter.opts, *parameter.secondary_opts]:
                    assert f"`{option}`" in section


def test_messages_that_troubleshooting_names_are_there():
    source = "".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in generate.ROOT.rglob("*.py")
    )
    named = re.findall(r"\*\*“(.+?)”", (PROJECT / "docs" / "troubleshooting.md").read_text())
    assert len(named) > 12
    assert [message for message in named if message not in source] == []


def test_names_become_links_outside_of_code_only():
    page = "`lw.fit`, `lw.losses.TripletLoss`, `lw.nothing`\n```python\n`lw.fit`\n```\n[a](../b.md)"
    assert generate.linked(page, "https://host/us") == (
        "[`lw.fit`][likewise.training.fit], "
        "[`lw.losses.TripletLoss`][likewise.losses.TripletLoss], `lw.nothing`\n"
        "```python\n`lw.fit`\n```\n[a](https://host/us/blob/main/b.md)"
    )


def test_only_a_link_above_docs_leads_to_the_repository():
    page = "[a](../a.png) [b](../../b.py)"
    there = "[a](../a.png) [b](https://host/us/blob/main/b.py)"
    assert generate.linked(page, "https://host/us", "experiments/faces.md") == there


def test_a_page_describes_itself_by_its_first_sentences():
    start = "# Title\n\n```console\n$ ls\n```\n\n`python a.py`\n\n"
    page = start + "**Protocol.** *Two* [b](c.md) `<d>`.\n\nMore.\n"
    assert generate.description(page) == "Two b &lt;d&gt;."


def test_an_option_stays_whole():
    page = "<code>--out</code><code>a --b C</code>"
    there = '<code class="short">--out</code><code>a <span class="short">--b</span> C</code>'
    assert generate.unbroken(page) == there
    shell = '<div class="language-console"><code><span>$ </span>a'
    assert (
        generate.unbroken(f"{shell} -k 3</code>")
        == f'{shell} <span class="short">-k</span> 3</code>'
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    pytest.importorskip("mkdocs")
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(out)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return out


def test_the_site_builds_without_a_warning(site):
    page = (site / "reference" / "likewise.losses" / "index.html").read_text()
    assert 'id="likewise.losses.TripletLoss"' in page
    pages = "".join(path.read_text() for path in site.rglob("index.html"))
    files = set(re.findall(r'href="https://github.com/[^"]+/blob/main/([^"#]+)', pages))
    assert [file for file in files if not (PROJECT / file).exists()] == []


def test_no_page_is_wider_than_a_phone_and_every_picture_is_there(site, browser):
    context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)
    page, wrong = context.new_page(), []
    for path in sorted(site.rglob("index.html")):
        page.goto(path.as_uri())
        wide, missing = page.evaluate(
            """() => [document.scrollingElement.scrollWidth > innerWidth,
                [...document.images].filter(each => !each.naturalWidth).map(each => each.src)]"""
        )
        if wide or missing:
            wrong.append((path.parent.name, wide, missing))
    context.close()
    assert wrong == []
