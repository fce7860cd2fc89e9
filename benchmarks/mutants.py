"""Mutants: one operator or constant of the source is changed, and some test must then fail.

    python benchmarks/mutants.py --sample 400 --seed 0 --out out/mutants.jsonl

draws mutants of the folders named in FOLDERS, runs for each the tests that reach the changed
statement, quickest first, and lists the mutants that no test noticed. A survivor is a missing test,
or a change without effect. What `--out` holds already is not judged again; with `--again` its
survivors are.

How it is quick: the tests are collected once, in a process that forks a child for each mutant. The
child gives the changed functions their changed code and runs the tests until one fails. Which tests
reach which statement is recorded before, by one run of all tests (some minutes), and kept until a
file of `src` or `tests` changes. A mutant that this leaves alive, or one outside of functions, is
judged again in a fresh process over a changed copy of the project, where subprocesses see it too.

Not changed: docstrings, annotations, decorators, `raise` statements, texts, `strict=` of zip and
`stacklevel=` of warnings.
"""

import argparse
import ast
import collections
import contextlib
import ctypes
import functools
import gc
import hashlib
import importlib.machinery
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/likewise")
FOLDERS = ["losses", "miners", "calibration", "intervals", "matching", "index", "model"]
PYTEST = ["-p", "no:cacheprovider"]
LEAST_SECONDS, SLACK = 20.0, 6.0  # a child may take this long, and so many times the usual
OUR_FAULT = 99  # status of a child that could not judge
FRESH_SECONDS = 60.0  # what a fresh process may need more: it imports everything


# ---- the changes -------------------------------------------------------------------------------

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
UNARY = {ast.Not: "not", ast.USub: "-", ast.Invert: "~"}
NAMES = {"min": "max", "any": "all", "amin": "amax", "argmin": "argmax", "minimum": "maximum"}
NAMES |= {"floor": "ceil", "sum": "mean", "zeros": "ones", "zeros_like": "ones_like"}
NAMES |= {"isfinite": "isnan", "lower": "upper", "first": "last", "left": "right"}
NAMES |= {after: before for before, after in NAMES.items()}
BUILTINS = {"min", "max", "any", "all"}
NOT_CHANGED = {"strict", "stacklevel"}


@dataclass(frozen=True)
class Mutant:
    """A change of one place. `statement` is the line the statement begins at; 0: of the import."""

    file: str
    line: int
    column: int
    start: int
    end: int
    before: str
    after: str
    statement: int

    @property
    def key(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.before} → {self.after}"


class Changes(ast.NodeVisitor):
    """Collects every mutant of one file."""

    def __init__(self, file: str, source: bytes):
        self.file, self.source = file, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.statement = self.depth = 0
        self.found: list[Mutant] = []
        self.visit(ast.parse(source))

    def place(self, node: ast.AST, end: bool = False) -> int:
        if end:
            return self.starts[node.end_lineno - 1] + node.end_col_offset
        return self.starts[node.lineno - 1] + node.col_offset

    def add(self, start: int, end: int, after: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        column = start - self.starts[line - 1]
        statement = self.statement if self.depth else 0
        before, after = (" ".join(t.split()) for t in (self.source[start:end].decode(), after))
        self.found.append(Mutant(self.file, line, column, start, end, before, after, statement))

    def between(self, left: ast.AST, right: ast.AST, before: str, after: str) -> None:
        start, end = self.place(left, end=True), self.place(right)
        words = r"\b" if before[0].isalpha() else ""
        pattern = words + re.escape(before).replace(r"\ ", r"\s+") + words
        gap = re.sub(rb"#[^\n]*", lambda m: b" " * len(m[0]), self.source[start:end])
        at = re.search(pattern.encode(), gap)
        if at:
            self.add(start + at.start(), start + at.end(), after)

    def body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.statement = statement.lineno
            self.visit(statement)

    def generic_visit(self, node: ast.AST) -> None:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self.body(value)
            elif isinstance(value, list):
                for one in value:
                    if isinstance(one, ast.AST):
                        self.visit(one)
            elif isinstance(value, ast.AST):
                self.visit(value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        outer, self.depth = self.statement, self.depth + 1
        self.body(node.body)
        self.statement, self.depth = outer, self.depth - 1

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self.depth += 1
        self.visit(node.body)
        self.depth -= 1

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.depth = self.depth, 0
        self.body(node.body)
        self.depth = outer

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Texts of errors, and which error it is, are left alone."""

    visit_JoinedStr = visit_Raise

    def visit_arg(self, node: ast.arg) -> None:
        """Annotations are left alone."""

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if "__all__" not in names:
            self.visit(node.value)
            for target in node.targets:
                self.visit(target)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            start, end = self.place(node), self.place(node, end=True)
            self.add(start, end, "pass")
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def condition(self, node: ast.If | ast.While | ast.IfExp) -> None:
        test = node.test
        if isinstance(test, ast.Name) and test.id == "TYPE_CHECKING":
            return
        if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            self.add(self.place(test), self.place(test), "not")
        self.generic_visit(node)

    visit_If = visit_While = visit_IfExp = condition

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            self.between(left, right, *COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, *words)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        sides = [ast.unparse(side) for side in (node.left, node.right)]
        # Texts, and unions of types, are no numbers.
        other = any(re.match(r"f?['\"]|None$|[A-Z]\w*[a-z]|int$|str$|float$", one) for one in sides)
        if type(node.op) in ARITHMETIC and not other:
            self.between(node.left, node.right, *ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in ARITHMETIC:
            before, after = ARITHMETIC[type(node.op)]
            self.between(node.target, node.value, before + "=", after + "=")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if type(node.op) in UNARY:
            start = self.place(node)
            self.add(start, start + len(UNARY[type(node.op)]), "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        end = self.place(node.func, end=True)
        if isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in (NAMES if isinstance(node.func, ast.Attribute) else BUILTINS):
                self.add(end - len(name), end, NAMES[name])
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in NOT_CHANGED:
            self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            changed = [not value]
        elif isinstance(value, int):
            changed = [value + 1, 0] if value == 1 else [value + 1]
        elif isinstance(value, float):
            changed = [1.0 if value == 0 else 2 * value]
        else:
            return
        for after in changed:
            self.add(self.place(node), self.place(node, end=True), repr(after))

    def visit_Break(self, node: ast.Break) -> None:
        self.add(self.place(node), self.place(node, end=True), "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.add(self.place(node), self.place(node, end=True), "break")


def mutants_of(project: Path, only: list[str]) -> list[Mutant]:
    found = []
    for folder in only:
        path = project / folder if (project / folder).exists() else project / PACKAGE / folder
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        if not files:
            raise SystemExit(f"--only must name a file or folder of the project, got {folder}.")
        for file in files:
            found += Changes(str(file.relative_to(project)), file.read_bytes()).found
    return found


def mutated(source: bytes, mutant: Mutant) -> bytes:
    after = mutant.after
    if after == "not" and not mutant.before:
        after = "not "
    if after == "pass":  # a statement of more than one line: the lines below keep their numbers
        after += "\n" * source.count(b"\n", mutant.start, mutant.end)
    return source[: mutant.start] + after.encode() + source[mutant.end :]


def drawn(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """The first `count` of the mutants in a random order that are Python."""
    found = []
    for mutant in random.Random(seed).sample(mutants, len(mutants)):
        if len(found) == count:
            break
        with contextlib.suppress(SyntaxError):
            compile(mutated((PROJECT / mutant.file).read_bytes(), mutant), mutant.file, "exec")
            found.append(mutant)
    return found


# ---- which tests reach which statement ---------------------------------------------------------


class Marked(ast.NodeTransformer):
    """Puts a mark before every statement: `_reached[number] = 1`."""

    def __init__(self, file: str, statements: list[tuple[str, int]]):
        self.file, self.statements = file, statements

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list) and body:
                setattr(node, name, self.marked(node, body, is_body=name == "body"))
        for handler in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
            self.generic_visit(handler)
        return node

    def marked(self, node: ast.AST, body: list[ast.stmt], is_body: bool) -> list[ast.stmt]:
        out = []
        for at, statement in enumerate(body):
            first = at == 0 and is_body and not isinstance(node, ast.If | ast.For | ast.While)
            text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
            if not (first and text) and not future:
                mark = ast.parse(f"_reached[{len(self.statements)}] = 1").body[0]
                for one in ast.walk(mark):
                    ast.copy_location(one, statement)
                self.statements.append((self.file, statement.lineno))
                out.append(mark)
            out.append(self.generic_visit(statement))
        return out


def seconds_used() -> float:
    """Of the processor, by this process and its ended children: other work does not lengthen it."""
    return sum(os.times()[:4])


class Record:
    """A plugin that notes for each test its time and the statements it reached."""

    def __init__(self, project: Path, told: Path, share: int, shares: int):
        self.root, self.told = str(project / PACKAGE), told
        self.share, self.shares = share, shares
        self.statements: list[tuple[str, int]] = []
        self.reached = bytearray(100_000)
        self.tests: dict[str, tuple[float, list[int]]] = {}
        self.failed: set[str] = set()
        self.spawning: set[str] = set()
        self.running = ""
        self.shared: dict[tuple[str, str], tuple[float, bool]] = {}  # of fixtures of many tests
        self.spawned = False
        usual = importlib.machinery.SourceFileLoader.get_code

        def get_code(loader, fullname):
            path = loader.get_filename(fullname)
            if not path.startswith(self.root):
                return usual(loader, fullname)
            tree = ast.parse(Path(path).read_bytes())
            file = str(Path(path).relative_to(project))
            tree = Marked(file, self.statements).generic_visit(tree)
            code = compile(tree, path, "exec", dont_inherit=True)
            import builtins

            builtins._reached = self.reached
            return code

        importlib.machinery.SourceFileLoader.get_code = get_code
        sys.addaudithook(self.audit)

    def pytest_collection_modifyitems(self, items):
        files = {item.nodeid.split("::")[0]: None for item in items}
        mine = set(list(files)[self.share :: self.shares])
        items[:] = [item for item in items if item.nodeid.split("::")[0] in mine]

    def audit(self, event: str, _) -> None:
        if event in {"subprocess.Popen", "os.posix_spawn"} and self.running:
            self.spawning.add(self.running)
            self.spawned = True

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        started, self.spawned = seconds_used(), False
        value = yield
        made = (fixturedef.baseid, fixturedef.argname)
        self.shared[made] = (seconds_used() - started, self.spawned)
        self.made.add(made)
        return value

    def pytest_collectreport(self, report):
        if report.failed:
            print(report.nodeid, report.longrepr, file=sys.stderr)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_runtest_protocol(self, item, nextitem):
        self.reached[:] = bytes(len(self.reached))
        self.running, started, self.made = item.nodeid, seconds_used(), set()
        import _pytest.runner

        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        _pytest.runner.runtestprotocol(item, nextitem=nextitem)
        took = seconds_used() - started + self.fixtures_made_before(item)
        self.running, hits, at = "", [], self.reached.find(1)
        while at >= 0:
            hits.append(at)
            at = self.reached.find(1, at + 1)
        self.tests[item.nodeid] = (took, hits)
        if len(self.tests) % 200 == 0:
            print(f"{len(self.tests)} tests", file=sys.stderr, flush=True)
        return True

    def fixtures_made_before(self, item) -> float:
        """Seconds of what a child must make again for this test alone."""
        total = 0.0
        for name, made in item._fixtureinfo.name2fixturedefs.items():
            key = (made[-1].baseid, name)
            seconds, spawned = self.shared.get(key, (0.0, False))
            if spawned:
                self.spawning.add(item.nodeid)
            if key not in self.made:
                total += seconds
        return total

    def pytest_sessionfinish(self, session):
        record = {
            "statements": self.statements,
            "tests": self.tests,
            "failed": sorted(self.failed),
            "spawning": sorted(self.spawning),
        }
        self.told.write_text(json.dumps(record))


class Quiet:
    """A plugin: Hypothesis without database, shrinking and deadline; always the same examples."""

    def pytest_configure(self):
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile(
            "mutants", database=None, derandomize=True, deadline=None, phases=phases
        )
        settings.load_profile("mutants")


def prepare(project: Path, *, compiled: bool) -> None:
    """This process runs the tests of the copy in `project` from now on, and may keep bytecode."""
    os.chdir(project)
    sys.path.insert(0, str(project / "src"))
    os.environ["PYTHONPATH"] = str(project / "src")
    sys.dont_write_bytecode = not compiled
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def copy_of_project(to: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (PROJECT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, to / name)
    return to


def state_of(tests: list[str]) -> str:
    """A name for the source and the tests as they are now."""
    files = sorted([*PROJECT.glob("src/**/*.py"), *PROJECT.glob("tests/**/*.py")])
    text = " ".join(tests).encode()
    text += b"".join(str(file.relative_to(PROJECT)).encode() + file.read_bytes() for file in files)
    return hashlib.sha256(text).hexdigest()[:16]


# ---- judging -----------------------------------------------------------------------------------


class Chosen:
    """A plugin that runs only the chosen tests, in their order, and notes the first to fail."""

    def __init__(self, names: list[str], told: Path):
        self.names, self.told = names, told

    def pytest_collection_modifyitems(self, items):
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[name] for name in self.names if name in by_name]

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.told.exists():
            self.told.write_text(report.nodeid)


def fresh(project: str, chosen: str) -> int:
    """A fresh process: run the tests named in a file over a changed copy of the project."""
    prepare(Path(project), compiled=False)
    names = Path(chosen).read_text().splitlines()
    files = sorted({name.split("::")[0] for name in names})
    told = Path(chosen + ".failed")
    return int(pytest.main([*PYTEST, "-x", *files], plugins=[Quiet(), Chosen(names, told)]))


def waited(process: int, wall: float) -> int | None:
    """The exit status of a child; None if it had to be ended, or ended itself for its time."""
    until = time.monotonic() + wall
    while time.monotonic() < until:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code in {-signal.SIGXCPU, -signal.SIGKILL} else code
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def limit(cpu: float) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu) + 1, int(cpu) + 2))
    with contextlib.suppress(OSError):  # ends with its parent
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def changed_codes(before: types.CodeType, after: types.CodeType) -> list[tuple]:
    """Pairs of code objects, of functions within functions too, that a mutant made differ."""
    if before == after:
        return []
    pairs = [(before, after)]
    inner = [
        [c for c in code.co_consts if isinstance(c, types.CodeType)] for code in (before, after)
    ]
    for one, other in zip(*inner, strict=True):
        pairs += changed_codes(one, other)
    return pairs


def patch(mutant: Mutant, project: Path) -> bool:
    """Gives the living functions of the changed file their changed code. False: not possible."""
    path = project / mutant.file
    source = path.read_bytes()
    codes = [
        compile(text, str(path), "exec", dont_inherit=True)
        for text in (source, mutated(source, mutant))
    ]
    pairs = dict(changed_codes(*codes)[1:])  # the module's own code has run already
    given = 0
    for one in gc.get_objects():
        if type(one) is types.FunctionType and one.__code__.co_filename == str(path):
            after = pairs.get(one.__code__)
            if after is not None:
                try:
                    one.__code__ = after
                except ValueError:
                    return False
                given += 1
    return given > 0


_judge = None  # of a worker: what it judges with came with the fork, and cannot be sent


def be_judge(judge):
    global _judge
    _judge = judge


def judged(mutant: Mutant) -> dict:
    return _judge.judged(mutant)


class Judge:
    """A plugin that, once all tests are collected, judges mutants instead of running tests."""

    def __init__(self, project, mutants, reached, workers, budget, tell):
        self.project, self.mutants, self.reached = project, mutants, reached
        self.workers, self.budget, self.tell = workers, budget, tell

    def pytest_runtestloop(self, session):
        self.session = session
        session.config.pluginmanager.unregister(name="terminalreporter")
        self.items = {item.nodeid: item for item in session.items}
        gc.collect()
        gc.freeze()  # children share what they do not touch
        gc.unfreeze()
        forked = multiprocessing.get_context("fork")
        with forked.Pool(self.workers, initializer=be_judge, initargs=(self,)) as pool:
            for result in pool.imap_unordered(judged, self.mutants):
                self.tell(result)
        return True

    def tests_for(self, mutant: Mutant) -> tuple[list[str], bool]:
        """Tests that reach the statement, quickest first, and whether the budget cut them."""
        names = self.reached.reaching[mutant.file, mutant.statement]
        if not mutant.statement:  # a test of signatures and defaults reaches no statement
            names = names | self.reached.idle
        # A test that starts processes may reach it there, where nothing was recorded.
        names = names or self.reached.spawning
        ordered = sorted(names, key=lambda name: (self.reached.seconds[name], name))
        taken, total = [], 0.0
        for name in ordered:
            total += self.reached.seconds[name]
            if total > self.budget and taken:
                return taken, True
            taken.append(name)
        return taken, False

    def judged(self, mutant: Mutant) -> dict:
        started = time.perf_counter()
        names, cut = self.tests_for(mutant)
        result = {"key": mutant.key, **asdict(mutant), "tests": len(names), "cut": cut}
        result["reached"] = bool(self.reached.reaching[mutant.file, mutant.statement])
        fate, by = "survived", ""
        if mutant.statement and result["reached"]:
            fate, by = self.forked(mutant, names)
        if fate == "survived" and names:
            fate, by = self.in_fresh_process(mutant, names)
        return {**result, "fate": fate, "by": by, "seconds": time.perf_counter() - started}

    def forked(self, mutant: Mutant | None, names: list[str]) -> tuple[str, str]:
        names = [name for name in names if name in self.items]
        while names:
            usual = sum(self.reached.seconds[name] for name in names)
            cpu = LEAST_SECONDS + SLACK * usual
            reading, writing = os.pipe()
            process = os.fork()
            if not process:
                os.close(reading)
                limit(cpu)
                self.child(mutant, names, writing)
            os.close(writing)
            status = waited(process, 4 * cpu)
            with os.fdopen(reading) as told:
                by = told.read()
            if status == 0:
                return "survived", ""
            if status is None:
                return "timeout", by
            if status == OUR_FAULT:
                raise RuntimeError(f"{mutant and mutant.key}: {by}")
            if status != 1 or mutant is None:  # ended by the mutant itself, or just a try
                return "killed", by or f"status {status}"
            if self.forked(None, [by])[0] == "survived":
                return "killed", by
            names = [name for name in names if name != by]  # fails without the change too
        return "survived", ""

    def child(self, mutant: Mutant | None, names: list[str], writing: int) -> None:
        """Runs in the fork, and never returns."""
        try:
            empty = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(empty, number)
            folder = tempfile.mkdtemp(prefix="mutant-", dir=self.project.parent)
            os.environ["TMPDIR"] = tempfile.tempdir = folder
            if mutant is not None and not patch(mutant, self.project):
                os._exit(0)
            items = [self.items[name] for name in names]
            for item, after in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                if self.session.testsfailed:
                    os.write(writing, item.nodeid.encode())
                    os._exit(1)
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)
        except BaseException as caught:
            os.write(writing, repr(caught)[:200].encode())
            os._exit(OUR_FAULT)

    def in_fresh_process(self, mutant: Mutant, names: list[str]) -> tuple[str, str]:
        usual = sum(self.reached.seconds[name] for name in names)
        with tempfile.TemporaryDirectory(dir=self.project.parent) as folder:
            copy = Path(folder) / "project"
            shutil.copytree(self.project, copy)
            path = copy / mutant.file
            path.write_bytes(mutated(path.read_bytes(), mutant))
            os.utime(path, (1, 1))  # another time than that of the compiled file
            chosen = Path(folder) / "chosen"
            told = Path(str(chosen) + ".failed")
            while names:
                chosen.write_text("\n".join(names))
                told.unlink(missing_ok=True)
                cpu = FRESH_SECONDS + SLACK * usual
                process = subprocess.Popen(
                    [sys.executable, __file__, "--fresh", str(copy), str(chosen)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "TMPDIR": folder},
                    preexec_fn=functools.partial(limit, cpu),
                )
                status = waited(process.pid, 4 * cpu)
                process.returncode = status or 0
                by = told.read_text() if told.exists() else ""
                if status == 0 or status == 5:
                    return "survived", ""
                if status is None:
                    return "timeout", by
                if not by or self.forked(None, [by])[0] == "survived":
                    return "killed", by or f"status {status}"
                names = [name for name in names if name != by]
        return "survived", ""


# ---- the report --------------------------------------------------------------------------------


def report(results: list[dict]) -> str:
    from likewise.intervals import binomial

    lines = [f"{'':24s}{'mutants':>8s}{'killed':>8s}{'timeout':>8s}{'alive':>8s}"]
    folders = collections.defaultdict(list)
    for result in results:
        folders[Path(result["file"]).relative_to(PACKAGE).parts[0]].append(result)
    for folder, some in [*sorted(folders.items()), ("all", results)]:
        counts = collections.Counter(result["fate"] for result in some)
        killed, late, alive = (counts[fate] for fate in ("killed", "timeout", "survived"))
        lines.append(f"{folder:24s}{len(some):8d}{killed:8d}{late:8d}{alive:8d}")
    for fate, title in [("timeout", "Ended for their time"), ("survived", "Survivors")]:
        some = sorted(
            (r for r in results if r["fate"] == fate), key=lambda r: (r["file"], r["line"])
        )
        lines += ["", f"{title}:" if some else f"{title}: none"]
        for result in some:
            how = "" if result["reached"] else "  (no test reaches it)"
            how += "  (not all tests were run)" if result["cut"] else ""
            change = f"{result['before'] or '(nothing)'} → {result['after'] or '(nothing)'}"
            lines.append(
                f"  {result['file']}:{result['line']}:{result['column'] + 1}  {change}{how}"
            )
    alive = sum(result["fate"] == "survived" for result in results)
    share = binomial(alive, len(results))
    seconds = sum(result["seconds"] for result in results) / max(len(results), 1)
    lines += ["", f"{alive} of {len(results)} survive: {share} ({share.method})"]
    lines += [f"{seconds:.1f} s for a mutant on average"]
    return "\n".join(lines)


@dataclass
class Reached:
    """What each test reaches, how long it takes, which start processes, which reach nothing."""

    seconds: dict[str, float]
    reaching: dict[tuple[str, int], set[str]]  # by file and line; line 0: any of the file
    spawning: set[str]
    idle: set[str]


def recorded(project: Path, tests: list[str], workers: int, cache: Path) -> Reached:
    """From one run of all tests, made if it is not there."""
    parts = [cache.with_suffix(f".{part}.json") for part in range(workers)]
    if not cache.exists():
        print("Running all tests once, to see what each reaches …", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--record"]
        running = [
            subprocess.Popen(
                [*command, str(project), str(told), str(part), str(workers), "--tests", *tests],
                stdout=subprocess.DEVNULL,
            )
            for part, told in enumerate(parts)
        ]
        for process in running:
            process.wait()
        if not all(told.exists() for told in parts):
            raise SystemExit("The run of all tests did not end.")
        cache.write_text(json.dumps([json.loads(told.read_text()) for told in parts]))
        for told in parts:
            told.unlink()
    reached = Reached({}, collections.defaultdict(set), set(), set())
    for part in json.loads(cache.read_text()):
        if part["failed"]:
            print("Left out, for they fail as it is:", *part["failed"], sep="\n  ", file=sys.stderr)
        for name in part["tests"].keys() - set(part["failed"]):
            reached.seconds[name], hits = part["tests"][name]
            if not hits:
                reached.idle.add(name)
            for file, line in (part["statements"][hit] for hit in hits):
                reached.reaching[file, line].add(name)
                reached.reaching[file, 0].add(name)
        reached.spawning |= set(part["spawning"]) - set(part["failed"])
    reached.idle -= reached.spawning
    return reached


def _absolute(path: str) -> Path:
    return Path(path).resolve()  # as tests go to folders of their own


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    asked.add_argument("--sample", type=int, default=400, help="how many mutants (400)")
    asked.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    asked.add_argument("--only", action="append", help="a file or folder instead; may come again")
    asked.add_argument(
        "--at", action="append", help="only mutants whose key has this, as path:line:"
    )
    asked.add_argument("--workers", type=int, default=os.cpu_count(), help="children at a time")
    asked.add_argument("--budget", type=float, default=90.0, help="seconds of tests for a mutant")
    asked.add_argument(
        "--out",
        type=lambda text: Path(text).resolve(),
        help="JSON lines, one for a judged mutant; goes on there",
    )
    asked.add_argument("--tests", nargs="+", default=["tests", "src"], help="the tests that count")
    asked.add_argument(
        "--reached", type=Path, help="a record of which tests reach what, old or not"
    )
    asked.add_argument("--again", action="store_true", help="judge the survivors in --out again")
    asked.add_argument("--fresh", nargs=2, help=argparse.SUPPRESS)
    asked.add_argument("--record", nargs=4, help=argparse.SUPPRESS)
    args = asked.parse_args()
    if args.fresh:
        sys.exit(fresh(*args.fresh))
    if args.record:
        project, told, share, shares = args.record
        prepare(Path(project), compiled=True)
        record = Record(Path(project), Path(told), int(share), int(shares))
        sys.exit(pytest.main([*PYTEST, *args.tests], plugins=[Quiet(), record]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("LIKEWISE_DATA", str(PROJECT.parent / "shared" / "data"))
    mutants = mutants_of(PROJECT, args.only or [str(PACKAGE / folder) for folder in FOLDERS])
    possible = len(mutants)
    if args.at:
        mutants = [one for one in mutants if any(part in one.key for part in args.at)]
    mutants = drawn(mutants, args.sample, args.seed)
    results = {}
    if args.out and args.out.exists():
        results = {r["key"]: r for r in map(json.loads, args.out.read_text().splitlines())}
        results = {one.key: results[one.key] for one in mutants if one.key in results}
    if args.again:
        results = {key: one for key, one in results.items() if one["fate"] != "survived"}
    left = [one for one in mutants if one.key not in results]
    print(
        f"{len(mutants)} of {possible} mutants, {len(left)} to judge", file=sys.stderr, flush=True
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)

    def tell(result: dict) -> None:
        results[result["key"]] = result
        if args.out:
            with args.out.open("a") as out:
                out.write(json.dumps(result) + "\n")
        print(
            f"{len(results):4d}/{len(mutants)} {result['seconds']:6.1f} s {result['fate']:9s}"
            f"{result['key']}  {result['by']}",
            file=sys.stderr,
            flush=True,
        )

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        project = copy_of_project(Path(folder).resolve() / "project")
        cache = args.reached or PROJECT / "out" / f"reached-{state_of(args.tests)}.json"
        cache.parent.mkdir(exist_ok=True)
        reached = recorded(project, args.tests, args.workers, cache)
        prepare(project, compiled=True)
        if left:
            judge = Judge(project, left, reached, args.workers, args.budget, tell)
            pytest.main([*PYTEST, *args.tests], plugins=[Quiet(), judge])
        print(report(list(results.values())))


if __name__ == "__main__":
    main()
