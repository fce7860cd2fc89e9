"""Pages name only what is there: Python names, files, commands, options, make targets."""

import ast
import builtins
import functools
import importlib
import inspect
import keyword
import re
import textwrap
import tomllib
from pathlib import Path

import pytest
import typer

import likewise
from likewise.cli import commands
from likewise.service.openapi import ENDPOINTS

PROJECT = Path(__file__).parents[1]
ROOT = PROJECT / "src" / "likewise"
PAGES = [*sorted(PROJECT.glob("*.md")), *sorted(PROJECT.glob("docs/**/*.md"))]

# What stands in backticks and is no name of ours: formulas, file formats, words of a shell.
NO_NAMES = {
    *(".csv", ".jsonl", ".parquet", ".feather", ".arrow", ".npy", "MODEL.gallery"),
    "takes_texts = True",
    *("x", "y", "path,label", ".npz", "train/", "val/", "a, b", "distance <= threshold"),
    *(
        "DATA",
        "LIKEWISE_DATA",
        "out/",
        "out/demo/report.html",
        "model.json",
        ".venv",
        ".venv-lowest",
        ".tsv",
        "make",
        "kill -9",
        "../shared/data",
    ),
    *(
        "<argument> must <rule>, got <value>. <remedy>.",
        "<part>/loss",
        "<part>/<fact>",
        "memory/loss",
    ),
    *("import torch", "import likewise", ".item()", ".nonzero()", "torch.save", "torch.load"),
    *("encoder.onnx", "embeddings.npy", "labels.npy", "items.json", "cohort.npy"),
    *("tokenizer.json", "export.json", "parity.json"),  # in the folder of an exported model
    *("anna/1.jpg", "anna/1.jpg.png", "failures.csv"),  # in folders of faces
    *("Host", "Origin", "multipart/form-data", "enroll"),
    *(
        "KMP_DUPLICATE_LIB_OK=TRUE",
        "dist/",
        "pre-commit install",
        "project.urls",
        "/v1",
        "cuda:1",
        "pickle",
        "DataLoader",
        "nn.Module",
        "main",
        "gradcheck",
        "OMP_NUM_THREADS=1",
    ),
    *("accelerate launch", "torchrun", "by_rows = True", "card.md", "out/site"),
    *("do_bulk_insert", "LIKEWISE_MILVUS_PYTHON", "gallery.search", "https://"),
    *("benchmarks/milvus.py --items N", "benchmarks/milvus.py --kills 50"),
    'connection={"server_pem_path": …}',
    'connection={"client_pem_path": …, "db_name": …}',
}
# Files of tests whose functions CONTRIBUTING.md names.
NAMED_TESTS = ["test_distances.py", "test_losses.py"]
# What pages call an object of a class or kind.
OBJECTS = {
    "model": ["model.SimilarityModel"],
    "distance": ["distances.Distance"],
    "encoder": ["encoders.ConvEncoder", "encoders.backbones.Backbone"],
    "loss": ["losses.TripletLoss"],
    "data": ["data", "data.datasets.ArrayDataset"],
    "index": ["index", "index.Index"],
}


def spans(page):
    """What stands in backticks outside of blocks, and each command of a console block."""
    page = re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        lines = block.replace("\\\n", " ").splitlines()
        found += [line.removeprefix("$ ").split("  #")[0].strip() for line in lines]
    text = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    found += re.findall(r"(?<!`)`([^`]+)`(?!`)", text)
    return [" ".join(one.split()) for one in found if one.strip()]


@functools.cache
def defined():
    """Every name that a file of ours gives: functions, classes, arguments, fields, words."""
    names = {path.stem for path in [*ROOT.rglob("*.py"), *PROJECT.glob("tests/*.py")]}
    for path in [*ROOT.rglob("*.py"), *(PROJECT / "tests" / file for file in NAMED_TESTS)]:
        names |= names_given_in(path.read_text())
    return names | {path.name for path in ROOT.iterdir()} | set(extras())


def extras():
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    return settings["project"]["optional-dependencies"].keys()


def names_given_in(source):
    names = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.arg(arg=name) | ast.keyword(arg=str(name)) | ast.alias(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.Constant(value=str(name)) if re.fullmatch(r"[\w-]+", name):
                names.add(name)
    return names


def owner(name):
    """A module or class, of its path below the package."""
    for cut in range(name.count(".") + 1, -1, -1):
        parts = name.split(".")
        try:
            found = importlib.import_module(".".join(["likewise", *parts[:cut]]))
        except ImportError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        if found is not None:
            return found
    return None


def member(of, name):
    """An attribute of a module, a class or its objects; None if there is none."""
    if hasattr(of, name):
        return getattr(of, name)
    if inspect.ismodule(of):
        return owner(f"{of.__name__}.{name}".removeprefix("likewise."))
    return inspect.Parameter.empty if inspect.isclass(of) and name in fields(of) else None


@functools.cache
def fields(of):
    """What the methods of a class of ours set or read on `self`, and its annotated fields."""
    found = set()
    for parent in of.__mro__:
        if parent.__module__.startswith("likewise"):
            source = textwrap.dedent(inspect.getsource(parent))
            given = [
                node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)
            ]
            found |= {node.attr for node in given if ast.unparse(node.value) == "self"}
            found |= set(getattr(parent, "__annotations__", {}))
    return found


def resolved(dotted):
    """What a dotted name is; None if it is nothing. A name alone may be of any module."""
    head, *rest = dotted.split(".")
    heads = [owner(path) for path in OBJECTS.get(head, [])]
    if head in {"lw", "likewise"}:
        heads = [likewise]
    elif not heads:
        heads = [of for of in [owner(head), *everywhere(head)] if of is not None]
    for of in heads:
        for name in rest:
            of = member(of, name)
            if of is None or of is inspect.Parameter.empty:
                break
        if of is not None:
            return of
    return None


@functools.cache
def everywhere(name):
    """The public functions and classes of this name, of any module and class."""
    found = []
    for module in likewise.__all__:
        within = getattr(likewise, module)
        if inspect.ismodule(within) and hasattr(within, name):
            found.append(getattr(within, name))
        elif module == name:
            found.append(within)
    for of in (likewise.SimilarityModel, likewise.Index, likewise.Gallery):
        if hasattr(of, name):
            found.append(getattr(of, name))
    return found


def takes(function, argument):
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    kinds = {parameter.kind for parameter in parameters.values()}
    return argument in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def is_python(text, extra=frozenset()):
    """Whether an expression names only what is there, calls only with arguments there are."""
    text = re.sub(r"=(?=[,)])", "=...", text)
    text = re.sub(r"^(\w+=)$", r"\1...", text)
    if re.match(r"\w+=(?!=)", text):
        text = f"dict({text})"
    try:
        tree = ast.parse(text.replace("(..., ", "(*..., "), mode="eval").body
    except SyntaxError:
        return False
    known = defined() | set(dir(builtins)) | set(keyword.kwlist) | extra
    for node in ast.walk(tree):
        match node:
            case ast.Attribute() if isinstance(node.value, ast.Name | ast.Attribute):
                dotted = ast.unparse(node)
                made_here = extra - OBJECTS.keys()  # by the Python of the page
                if dotted.split(".")[0] not in made_here and resolved(dotted) is None:
                    return False
            case ast.Name(id=name) if name not in known and len(name) > 1:
                return False
            case ast.Call(func=function, keywords=given) if given and text[:5] != "dict(":
                candidates = [*everywhere(ast.unparse(function)), resolved(ast.unparse(function))]
                for argument in given:
                    if argument.arg and not any(takes(one, argument.arg) for one in candidates):
                        return False
            case ast.keyword(arg=str(name)) if name not in known:
                return False
    return True


def is_file(text):
    if not re.fullmatch(r"[\w./-]+", text) or not re.search(r"[./]", text):
        return False
    places = [PROJECT / text, ROOT / text, *ROOT.rglob(text.rstrip("/").rsplit("/")[-1])]
    inside = [str(place) for place in places if place.exists()]
    return any(place.endswith(text.rstrip("/")) for place in inside)


@functools.cache
def command_options():
    """The options of each command, e.g. {"gallery check": {"--json", …}}."""
    found = {"": {"--help", "--version"}}

    def walk(command, name):
        found[name] = {"--help"} | {o for p in command.params for o in [*p.opts, *p.secondary_opts]}
        for child, under in getattr(command, "commands", {}).items():
            walk(under, f"{name} {child}".strip())

    for name, command in typer.main.get_command(commands.app).commands.items():
        walk(command, name)
    return found


@functools.cache
def script_options():
    scripts = [p for folder in ("examples", "benchmarks") for p in (PROJECT / folder).glob("*.py")]
    return {o for path in scripts for o in re.findall(r'"(--[\w-]+)"', path.read_text())}


def is_command(text):
    """Whether a line of a shell names targets, commands, options, extras and files there are."""
    first, *rest = re.sub(r'"[^"]*"', "TEXT", text).split() or [""]
    options = {word.split("=")[0] for word in rest if re.match(r"--\w", word)}
    if first == "make":
        targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
        return bool(rest) and set(rest) <= set(targets)
    if first == "likewise":
        if rest and rest[0].startswith("--"):
            return options <= command_options()[""]
        alternatives = [word.split("|") for word in rest[:2]]
        names = [" ".join(words) for words in product(alternatives)]
        groups = {name.split(" ")[0] for name in command_options() if " " in name}
        if any(name not in command_options() for name in names) and rest[0] not in groups:
            names = [words[0] for words in product(alternatives[:1])]
        return all(
            name in command_options() and options <= command_options()[name] for name in names
        )
    if first == "cd":
        return (PROJECT / rest[0]).is_dir() and is_command(text.split("&&")[1])
    if first == "python":
        if rest[:1] == ["-m"]:
            return rest[1] == "likewise"
        if rest[:1] == ["-c"]:
            code = ast.parse(re.search('"([^"]*)"', text)[1])
            imports = [node.names for node in ast.walk(code) if isinstance(node, ast.Import)]
            return all(alias.name in defined() for names in imports for alias in names)
        files = [word for word in rest if word.endswith(".py")]
        source = "".join(p.read_text() for p in map(PROJECT.joinpath, files) if p.exists())
        return bool(source) and all(f'"{option}"' in source for option in options)
    if first == "pip":
        asked = re.findall(r"likewise\[([\w,]+)\]", text)
        return {extra for some in asked for extra in some.split(",")} <= extras()
    if first.startswith("--"):
        known = set().union(*command_options().values()) | script_options()
        return first in known and options <= known
    return False


def is_of_service(text):
    """Whether it is an address of the service, its parameters, a metric, or a call of curl."""
    paths = {each.path for each in ENDPOINTS} | {"/", "/openapi.json"}
    calls = {f"{each.method} {each.path}" for each in ENDPOINTS}
    if text in paths | calls or text == "lw_N2Y1…":
        return True
    if text.startswith("?"):
        named = set(re.findall(r"(\w+)=", text))
        queries = [each.query for each in ENDPOINTS if each.query is not None]
        return any(named <= set(query.__struct_fields__) for query in queries)
    if re.fullmatch(r"likewise_[a-z_]+", text):
        name = text.removesuffix("_total")
        sources = (ROOT / "service").glob("*.py")
        return any(f'"{name}"' in source.read_text() for source in sources)
    if text.startswith(("curl ", "http://")):
        addresses = re.findall(r"http://[\w.]+:8000(/[^ ]*)?", text)
        return bool(addresses) and all((each or "/") in paths for each in addresses)
    return False


def product(alternatives):
    if not alternatives:
        return [[]]
    return [[one, *more] for one in alternatives[0] for more in product(alternatives[1:])]


def is_there(text, extra=frozenset()):
    return (
        text in NO_NAMES | set(keyword.kwlist)
        or (PROJECT / text).is_dir()
        or text in defined() | extra
        or is_file(text)
        or is_command(text)
        or is_of_service(text)
        or is_python(text, extra)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_what_is_there(page):
    text = page.read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    extra = frozenset(names_given_in(code))
    missing = sorted({one for one in spans(text) if not is_there(one, extra)})
    assert not missing, f"{page.name} names what is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_name_is_in_the_file_it_is_said_to_be_in(page):
    for name, file in re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", page.read_text()):
        (path,) = [p for p in (PROJECT / file, ROOT / file) if p.exists()]
        assert name in names_given_in(path.read_text()), f"{page.name}: {name} is not in {file}"


@pytest.mark.parametrize(
    "invented",
    [
        *("fit_treshold", "model.probability", "lw.nonsense", "lw.losses.TripleLoss", "losses.x"),
        *("TripletLoss(magrin=1.0)", "lw.data.load(sauce)", "nonsense=0.5", "encoder.nonsense"),
        *("index/nonsense.py", "nonsense.md", "cli/options.toml", "nonsense/", "docs/nonsense/"),
        *("make nonsense", "likewise nonsense", "likewise match --nonsense", "--nonsense"),
        *(
            "likewise gallery nonsense",
            "likewise gallery check|nonsense",
            "likewise gallery --point",
        ),
        *("python benchmarks/nonsense.py", "python benchmarks/losses.py --nonsense", "rm -rf out"),
        *("python -m nonsense", 'pip install "likewise[nonsense]"', "Index.nonsense", "a sentence"),
    ],
)
def test_an_invented_name_is_found(invented):
    assert not is_there(invented)


@pytest.mark.parametrize(
    "name",
    [
        *("fit_threshold", "model.probabilities", "lw.losses.TripletLoss", "losses.TripletLoss"),
        *("TripletLoss(margin=1.0)", "lw.data.load(source)", "recall=0.95", "calibrate(items=...)"),
        *(
            "verify(..., prior=)",
            "where=",
            "index/index.py",
            "README.md",
            "make test",
            "Index.add",
        ),
        *("likewise match --threshold", "--json", "likewise gallery check|repair", "ValueError"),
        *("python benchmarks/losses.py --growth docs/growth.png", "python -m likewise", "umap"),
        *(
            'pip install "likewise[backbones]"',
            "distance.paired",
            "loss.facts",
            "assert",
            "far=0.01",
        ),
    ],
)
def test_a_name_that_is_there_is_known(name):
    assert is_there(name)


def test_names_are_read_from_lines_and_from_console_blocks_only():
    page = "`a\nb` c\n```python\n`d`\n```\n```console\n$ make e  # f\nlikewise \\\n  g\n```\n`h`"
    assert spans(page) == ["make e", "likewise g", "a b", "h"]


def test_pages_name_the_python_that_is_required():
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    least = settings["project"]["requires-python"].removeprefix(">=")
    said = [
        found for page in PAGES for found in re.findall(r"Python (?:≥ )?(3\.\d+)", page.read_text())
    ]
    assert set(said) == {least}
