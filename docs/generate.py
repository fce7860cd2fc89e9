"""Makes the reference pages while MkDocs builds the site: every public name, every command."""

import ast
import functools
import html
import re
import textwrap
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
ROOT = PROJECT / "src" / "likewise"
# The journeys that Python calls, by file; the rest of that folder serves these.
JOURNEYS = {
    "compare": ["Compared", "compare_models"],
    "drift": ["DriftReport", "find_drift"],
    "export": ["Parity", "export"],
    "hub": ["from_pretrained", "push_to_hub"],
    "index": ["Indexed", "index"],
    "migrate": ["migrate"],
    "recipe": ["Recipe"],
    "search": ["JudgedSearch", "judge_search"],
    "shared_items": ["SharedItems", "find_leaks"],
    "train": ["train"],
    "verify": ["Pairs", "judge", "read"],
    "wrap": ["wrap"],
}


@functools.cache
def tree_of(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text())


def public_modules() -> list[str]:
    """The public modules in alphabetical order; the command line is not one of them."""
    found = [path.stem for path in ROOT.glob("*.py")]
    found += [path.parent.name for path in ROOT.glob("*/__init__.py")]
    return sorted(name for name in found if not name.startswith("_") and name != "cli")


def file_of(module: str) -> Path:
    """The file that a public module begins with."""
    package = ROOT / module / "__init__.py"
    return package if package.exists() else ROOT / f"{module}.py"


def listed(file: Path) -> list[str] | None:
    """The `__all__` of a file."""
    for node in tree_of(file).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def public_names(module: str) -> list[str]:
    """What a module offers, sorted: its `__all__`, or what its package passes on."""
    if module == "journeys":
        return sorted(f"{file}.{name}" for file, names in JOURNEYS.items() for name in names)
    names = listed(file_of(module))
    if names is None:
        names = [
            alias.asname
            for node in tree_of(file_of(module)).body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname
        ]
    return sorted(names)


@functools.cache
def full_names() -> dict[str, str]:
    """The full path of each public name, by what follows `lw.`, such as "fit"."""
    found = {
        f"{module}.{name}": f"likewise.{module}.{name}"
        for module in public_modules()
        for name in public_names(module)
    }
    for node in tree_of(ROOT / "__init__.py").body:
        if isinstance(node, ast.AnnAssign) or not isinstance(node, ast.Assign):
            continue
        if ast.unparse(node.targets[0]) == "_MODULE_OF":
            places: dict[str, str] = ast.literal_eval(node.value)
            found |= {name: f"likewise.{place}.{name}" for name, place in places.items()}
    return found


def lines_of_use(page: str) -> list[str]:
    """The lines of Python on a page: its Python blocks, or the examples of a docstring."""
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    shown = [line for block in blocks for line in block.splitlines()]
    return shown + re.findall(r"^ *(?:>>>|\.\.\.) (.*)", page, re.MULTILINE)


def uses(name: str, lines: list[str], module: str = "") -> list[str]:
    """The lines that use a name, other than by importing it.

    With a module it must be that module's name: `lw.fit`, `training.fit`, or `fit` where a line
    imports it from there. Other things may go by the same word.
    """
    last = re.escape(name.split(".")[-1])
    known = rf"(?<![\w.]){last}\b"
    imported = rf"from likewise(\.{module}[\w.]*)? import .*{known}"
    if module and not any(re.search(imported, line) for line in lines):
        inner = "".join(rf"{part}\." for part in name.split(".")[:-1])
        known = rf"\b(lw\.{inner}|{module}\.{inner}){last}\b"
        if inner:  # a journey, whose file is imported, under whatever name
            known = rf"\.{last}\b"
    found = [line.strip() for line in lines if re.search(known, line.split("  #")[0])]
    return [line for line in found if not line.startswith(("import ", "from "))]


@functools.cache
def pages() -> dict[str, list[str]]:
    """The lines of Python of each page of docs/, by its file name."""
    found = {path.name: lines_of_use(path.read_text()) for path in PROJECT.glob("docs/*.md")}
    return {name: lines for name, lines in sorted(found.items()) if lines}


@functools.cache
def docstring_lines(module: str) -> list[str]:
    """The lines of Python in the docstrings of a module."""
    files = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] == module]
    files += [file_of(module)]
    return [line for path in files for line in lines_of_use(path.read_text())]


def summary(module: str) -> str:
    """The docstring of a module."""
    return ast.get_docstring(tree_of(file_of(module))) or ""


def module_page(module: str) -> str:
    """The reference page of a module."""
    text = [f"# likewise.{module}", "", "```text", summary(module), "```", ""]
    if "\n" not in summary(module):
        text = [f"# likewise.{module}", "", summary(module), ""]
    for name in public_names(module):
        text += [f"::: likewise.{module}.{name}", ""]
        shown = [(page, uses(name, lines, module)) for page, lines in pages().items()]
        shown = [(page, lines) for page, lines in shown if lines]
        if shown:  # rather from a page that explains than from the list of all names
            page, (line, *_) = min(shown, key=lambda each: each[0] == "names.md")
            text += [f"Used in [{page[:-3]}](../{page}):", "", "```python", line, "```", ""]
    return "\n".join(text)


def top_page() -> str:
    """The reference page of `likewise` itself, which passes on names of its modules."""
    names = [name for name in sorted(full_names()) if "." not in name]
    rows = [f"| [`lw.{name}`][{full_names()[name]}] | `{full_names()[name]}` |" for name in names]
    modules = [
        f"| [`lw.{module}`](likewise.{module}.md) | {summary(module).splitlines()[0]} |"
        for module in public_modules()
    ]
    return "\n".join(
        [
            "# likewise",
            "",
            "`import likewise as lw`. The names below load when you first use them.",
            "",
            "| name | defined as |",
            "|---|---|",
            *rows,
            "",
            "## Modules",
            "",
            "| module | what it holds |",
            "|---|---|",
            *modules,
            "",
        ]
    )


def commands() -> dict[str, Any]:
    """Every command by its words, such as "gallery check"."""
    import typer

    from likewise.cli.commands import app

    found: dict[str, Any] = {}

    def walk(command: Any, words: str) -> None:
        inside = getattr(command, "commands", None)
        if inside is None:
            found[words] = command
        for name, under in (inside or {}).items():
            walk(under, f"{words} {name}".strip())

    walk(typer.main.get_command(app), "")
    return found


def _cell(text: object) -> str:
    return (
        " ".join(("" if text is None else str(text)).split())
        .replace("|", "\\|")
        .replace("<", "&lt;")
    )


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or isinstance(value, bool) or callable(value) or value in ("", (), []):
        return ""
    return f"`{_cell(getattr(value, 'value', value))}`"


def command_page() -> str:
    """The reference page of the command line, made from the options that it declares."""
    text = [
        "# Command line",
        "",
        "Every command takes `--help`. It ends with status 0, or 2 and one sentence where its "
        "input cannot work, or 1 where the fault is in likewise.",
        "",
    ]
    for words, command in commands().items():
        context = command.make_context(words, [], resilient_parsing=True)
        usage = " ".join(["likewise", words, *command.collect_usage_pieces(context)])
        said = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
        text += [f"## likewise {words}", "", *"\n\n".join(said).splitlines(), ""]
        text += ["```text", usage, "```", ""]
        given = [each for each in command.params if not getattr(each, "hidden", False)]
        rows = []
        for each in given:
            if each.param_type_name == "argument":
                name = f"`{each.metavar or each.name.upper()}`"
            else:
                name = "<br>".join(f"`{word}`" for word in [*each.opts, *each.secondary_opts])
            rows.append(f"| {name} | {_default(each)} | {_cell(each.help)} |")
        if rows:
            text += ["| option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(text)


def generated() -> dict[str, str]:
    """Every page that is made, by its path below docs/."""
    made = {f"reference/likewise.{module}.md": module_page(module) for module in public_modules()}
    return {"reference/likewise.md": top_page(), "reference/cli.md": command_page()} | made


def linked(markdown: str, repository: str, path: str = "page.md") -> str:
    """A page with links from public names to the reference, and from files to the repository.

    `path` is the page's below docs/. What lies above docs/ is in the repository.
    """
    above = re.escape("../" * (path.count("/") + 1))
    outside = rf"\]\({above}(?!docs/)([^)]+)\)"
    markdown = re.sub(outside, rf"]({repository}/blob/main/\1)", markdown)
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)

    def link(found: re.Match[str]) -> str:
        path = full_names().get(found[1])
        return f"[`lw.{found[1]}`][{path}]" if path else found[0]

    for at in range(0, len(parts), 2):
        parts[at] = re.sub(r"(?<!\[)`lw\.([\w.]+)`(?!\])", link, parts[at])
    return "".join(parts)


def description(markdown: str) -> str:
    """What a page says to a search engine: its first paragraph in words, without markup."""
    text = re.sub(r"^```(?!text).*?^```$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    blocks = [block.strip().removeprefix("```text\n") for block in text.split("\n\n")]
    plain = [block for block in blocks if re.match(r"(?!`python |`make )[\w`*]", block)]
    said = re.sub(r"!?\[([^]]*)\](\([^)]*\)|\[[^]]*\])", r"\1", plain[0] if plain else "")
    words = re.sub(r"[`*]", "", said).removeprefix("Protocol. ")
    return html.escape(textwrap.shorten(words, 300, placeholder=" …"))


def on_config(config: Any) -> Any:
    """Called by MkDocs: puts the generated pages into the navigation."""
    made = [
        {"likewise": "reference/likewise.md"},
        {"Command line": "reference/cli.md"},
        *({module: f"reference/likewise.{module}.md"} for module in public_modules()),
    ]
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] = [*made, *section["Reference"]]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs: adds the generated pages."""
    from mkdocs.structure.files import File

    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs for each page: adds the links that sources go without."""
    if not page.is_homepage:
        page.meta["description"] = description(markdown)
    if page.file.src_uri.startswith("reference/"):
        page.meta["search"] = {"boost": 0.3}  # the page that explains a thing comes first
    return linked(markdown, config.extra["repository"], page.file.src_uri)


def unbroken(page: str) -> str:
    """A page whose short names and options do not break at a dash."""
    page = re.sub(r"<code>([^<\s]{1,30})</code>", r'<code class="short">\1</code>', page)
    shown = re.compile(r'<code>[^<]*</code>|<div class="language-console.*?</code>', re.DOTALL)
    option = re.compile(r"(?<=[ >])--?[a-z][\w-]*")
    return shown.sub(lambda each: option.sub(r'<span class="short">\g<0></span>', each[0]), page)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Called by MkDocs for each page: keeps options whole, and names the theme's dialog."""
    return unbroken(output).replace('role="dialog"', 'role="dialog" aria-label="Search"')
