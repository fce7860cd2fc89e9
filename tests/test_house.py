"""The architecture, as tests: floors, exports, names, pages."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import likewise

PROJECT = Path(__file__).parents[1]
ROOT = PROJECT / "src" / "likewise"
FLOORS = [
    ["errors"],
    ["_arguments", "_progress", "_tables"],
    ["_checks", "_devices", "_files"],
    ["_dlib", "_parts", "_pixels", "_shares", "_tokens"],
    ["_workers", "distances", "embedded", "masks", "intervals", "runtime"],
    ["data", "samplers", "augment", "encoders", "miners", "metrics", "normalization"],
    ["losses", "training", "index", "calibration", "probability"],
    ["matching", "verification", "drift"],
    ["evaluation"],
    ["plots"],
    ["model"],
    ["journeys"],
    ["pages", "sklearn"],
    ["service"],
    ["cli"],
]
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
SOURCES = sorted(ROOT.rglob("*.py"))


def name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.fixture(scope="module", params=SOURCES, ids=name)
def path(request):
    """Each file in turn; all tests of one come together."""
    return request.param


@pytest.fixture(scope="module")
def tree(path):
    return ast.parse(path.read_text())


@pytest.fixture(scope="module")
def nodes(tree):
    return list(ast.walk(tree))


def imported_modules(nodes):
    """Names of our own modules that a source imports, e.g. {"distances", "miners"}."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "likewise":
                found |= {alias.name for alias in node.names}
            elif (node.module or "").startswith("likewise."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("likewise.")}
    return found


def test_modules_import_only_from_lower_floors(path, nodes):
    module = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if module in {"__init__", "__main__"}:
        return
    assert module in FLOOR_OF, f"{module} has no floor yet: add it to FLOORS and architecture.md"
    for other in imported_modules(nodes) - {module}:
        assert FLOOR_OF[other] < FLOOR_OF[module], f"{module} must not import {other}"


GROUND = {module for floor in FLOORS[:4] for module in floor}


@pytest.mark.parametrize("path", sorted((ROOT / "runtime").glob("*.py")), ids=name)
def test_the_runtime_stands_on_the_ground_alone(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    assert imported_modules(nodes) <= GROUND - {"_checks", "_devices", "_workers"} | {"runtime"}


def imported_files(source):
    """Files of ours that `source` imports, wherever in it, also for its types only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "likewise":
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if (file_of(each)) else node.module for each in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if file_of(alias.name)}
    return {file_of(module) for module in found}


@functools.cache
def file_of(module):
    path = ROOT.parent.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.exists()), None)


def cycle_in(imports):
    """The names on one way around, if there is any, else []."""
    done, path = set(), []

    def walk(at):
        if at in path:
            return path[path.index(at) :]
        if at in done:
            return []
        done.add(at)
        path.append(at)
        found = next((way for each in sorted(imports.get(at, ())) if (way := walk(each))), [])
        path.pop()
        return found

    return next((way for at in sorted(imports) if (way := walk(at))), [])


FOLDERS = sorted(path.name for path in ROOT.iterdir() if (path / "__init__.py").exists())


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_of_a_folder_import_each_other_one_way(folder):
    imports = {path: imported_files(path.read_text()) for path in (ROOT / folder).rglob("*.py")}
    around = cycle_in({path: files & imports.keys() for path, files in imports.items()})
    assert [name(path) for path in around] == []


def test_a_cycle_is_seen_through_types_and_late_imports():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    source = "if TYPE_CHECKING:\n    from likewise.data import idx\n"
    source += (
        "def late():\n    from likewise.data.pairs import draw_pairs\n    import likewise.masks"
    )
    files = {ROOT / "data" / "idx.py", ROOT / "data" / "pairs.py", ROOT / "masks.py"}
    assert imported_files(source) == files


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import likewise.data.idx\nfrom likewise import miners\nfrom likewise.losses.x import y"
    )
    assert imported_modules(ast.walk(ast.parse(source))) == {"data", "miners", "losses"}


def test_every_exported_name_is_there():
    for exported in likewise.__all__:
        assert getattr(likewise, exported) is not None
    assert set(likewise._MODULE_OF) <= set(likewise.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = likewise.nothing


def test_every_module_that_is_public_is_exported():
    public = {path.stem for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    public |= {path.stem for path in ROOT.glob("*.py")}
    public = {module for module in public if not module.startswith("_")}
    assert public - {"cli"} <= set(likewise.__all__)


def test_architecture_names_every_module():
    architecture = (PROJECT / "docs" / "architecture.md").read_text()
    for module in FLOOR_OF:
        if (ROOT / module).exists() or (ROOT / f"{module}.py").exists():
            assert f"`{module}" in architecture, f"docs/architecture.md does not name {module}"


def test_modules_say_what_they_are(tree):
    assert ast.get_docstring(tree), "a module begins with what it is"


FORBIDDEN = {"pickle", "joblib", "print", "torch.load", "torch.save", "eval", "exec"}
READS_PICKLED_WEIGHTS = "encoders._pickled"  # the only one, with weights_only=True


def test_nothing_is_pickled_printed_or_run_from_text(path, nodes):
    used = set()
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            used |= {alias.name for alias in node.names} | {getattr(node, "module", "")}
        elif isinstance(node, ast.Call):
            used.add(ast.unparse(node.func))
            if ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node)
    allowed = {"torch.load"} if name(path) == READS_PICKLED_WEIGHTS else set()
    assert not used & (FORBIDDEN - allowed)


def test_no_code_of_others_is_trusted(nodes):
    for node in nodes:
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert ast.unparse(node.value) == "False"


def test_version_and_changelog_agree():
    settings = (PROJECT / "pyproject.toml").read_text()
    (declared,) = re.findall(r'^version = "(.*)"', settings, re.MULTILINE)
    assert likewise.__version__ == declared
    assert f"## {declared}" in (PROJECT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("statement", ["import likewise", "import likewise.cli.commands"])
def test_importing_loads_nothing_heavy(statement):
    heavy = {"torch", "numpy", "matplotlib", "faiss", "sklearn", "kornia", "accelerate"}
    code = f"import sys; {statement}; print(*sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_links_between_pages_lead_somewhere():
    pages = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]
    assert len(pages) > 5
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("reference/"):  # made with the site, which checks such links
                assert (page.parent / target).exists(), f"{page.name} points to {target}"


DOORS = {"cli", "journeys", "pages", "service"}  # a command may have a file of its name in each


def test_no_file_name_is_used_twice():
    places = {}
    for path in SOURCES:
        folder = path.relative_to(ROOT).parts[0]
        if not path.stem.startswith("__") and folder not in DOORS:
            places.setdefault(path.stem, []).append(name(path))
    assert [found for found in places.values() if len(found) > 1] == []


def test_private_files_and_names_stay_in_their_folder(path, nodes):
    own = path.relative_to(ROOT).parts[:-1]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("likewise"):
            for alias in node.names:
                chain = [*node.module.split(".")[1:], alias.name]
                for at, part in enumerate(chain):
                    if part.startswith("_") and not part.startswith("__") and at:
                        assert list(own[:at]) == chain[:at], f"{'.'.join(chain)} is private"
