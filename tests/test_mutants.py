"""What benchmarks/mutants.py changes, and how a change reaches functions that live already."""

import importlib.util
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "benchmarks" / "mutants.py"


@pytest.fixture(scope="module")
def mutants():
    spec = importlib.util.spec_from_file_location("mutants", SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["mutants"]


def changes(mutants, source):
    found = sorted(mutants.Changes("f", source).found, key=lambda one: one.start)
    return [(one.line, one.before, one.after) for one in found]


def test_every_kind_of_operator_is_changed_once(mutants):
    source = b"""
def f(a, b=0):
    check(
        a)
    if a and not b or a <= b < 1.5:
        a += max(-b, 2)
    while a:
        break
    return [x is not None for x in b.any()] if True else a // b  # a < b
"""
    assert changes(mutants, source) == [
        (2, "0", "1"),
        (3, "check( a)", "pass"),
        (5, "and", "or"),
        (5, "not", ""),
        (5, "or", "and"),
        (5, "<=", "<"),
        (5, "<", "<="),
        (5, "1.5", "3.0"),
        (6, "+=", "-="),
        (6, "max", "min"),
        (6, "-", ""),
        (6, "2", "3"),
        (7, "", "not"),
        (8, "break", "continue"),
        (9, "is not", "is"),
        (9, "any", "all"),
        (9, "True", "False"),
        (9, "//", "/"),
    ]


def test_words_types_and_decorators_are_left_alone(mutants):
    source = b'''
"""1 < 2."""
__all__ = ["a" + "b"]
if TYPE_CHECKING:
    import x
Kind = int | None
@dataclass(frozen=True)
class A:
    """1 < 2."""
    x: Literal[1]
    def f(self, x: Literal[1, 2]) -> Annotated[int, 3]:
        raise ValueError(f"{1 + 1} of {2}", 1 < 2)
        return zip(x, x, strict=True), isinstance(x, Kind | float), "%d" % x
'''
    assert changes(mutants, source) == []


def test_what_is_changed_outside_of_functions_belongs_to_the_import(mutants):
    source = (
        b"A = 1\nclass B:\n    c = 2\n    def f(self, d=3):\n        return 4\ng = lambda e=5: 6\n"
    )
    statements = {one.before: one.statement for one in mutants.Changes("f", source).found}
    assert statements == {"1": 0, "2": 0, "3": 0, "4": 5, "5": 0, "6": 6}


def test_lines_below_a_removed_statement_keep_their_numbers(mutants):
    source = b"def f():\n    g(\n        h\n    )\n    return 0\n"
    removed, _ = mutants.Changes("f", source).found
    after = mutants.mutated(source, removed)
    assert after.count(b"\n") == source.count(b"\n")
    assert b"pass" in after
    assert b"g" not in after


def test_every_change_leaves_python_and_changes_it(mutants):
    source = b"def f(a):\n    if a and -1 not in a:\n        f(\n            2)\n    return not a\n"
    before = compile(source, "f", "exec")
    found = mutants.Changes("f", source).found
    assert len(found) == 8
    assert all(compile(mutants.mutated(source, one), "f", "exec") != before for one in found)
    (asked,) = mutants.Changes("f", b"def f(a):\n    return 1 if a else a").found[:1]
    assert mutants.mutated(b"def f(a):\n    return 1 if a else a", asked).endswith(
        b"if not a else a"
    )


def test_marks_tell_which_statements_ran(mutants):
    source = '''"""Text."""
from __future__ import annotations
def f(a):
    """Text."""
    if a:
        b = 1
    elif a == 0:
        b = 2
    try:
        c = 1 / a
    except ZeroDivisionError:
        c = 3
    with open(__file__) as d:
        return b, c
'''
    import ast

    statements = []
    tree = mutants.Marked("f", statements).generic_visit(ast.parse(source))
    made = {"_reached": bytearray(100), "__file__": __file__}
    exec(compile(tree, "f", "exec"), made)
    assert made["f"].__doc__ == "Text."
    made["_reached"][:] = bytes(100)
    assert made["f"](0) == (2, 3)
    reached = {line for (_, line), hit in zip(statements, made["_reached"], strict=False) if hit}
    assert reached == {5, 7, 8, 9, 10, 12, 13, 14}


LIVING = """
def closure(a):
    def inner(b):
        return a - b
    return inner

made = closure(10)

class C:
    def f(self):
        return 3

g = lambda: 5
bound = C().f
"""


@pytest.mark.parametrize(
    ("before", "called", "was", "becomes"),
    [
        ("-", "made(3)", 7, 13),
        ("3", "bound()", 3, 4),
        ("5", "g()", 5, 6),
        ("-", "closure(1)(1)", 0, 2),
    ],
)
def test_a_change_reaches_functions_that_live_already(
    mutants, tmp_path, before, called, was, becomes
):
    path = tmp_path / "living.py"
    path.write_text(LIVING)
    module = {}
    exec(compile(LIVING, str(path), "exec"), module)
    assert eval(called, module) == was
    (mutant,) = [
        m for m in mutants.Changes("living.py", path.read_bytes()).found if m.before == before
    ]
    assert mutants.patch(mutant, tmp_path)
    assert eval(called, module) == becomes


def test_a_change_of_the_import_reaches_nothing_that_lives(mutants, tmp_path):
    path = tmp_path / "living.py"
    path.write_text("A = 7\ndef f():\n    return A\n")
    module = {}
    exec(compile(path.read_text(), str(path), "exec"), module)
    (mutant,) = mutants.Changes("living.py", path.read_bytes()).found
    assert not mutants.patch(mutant, tmp_path)
    assert module["f"]() == 7


def test_the_report_counts_and_lists_survivors_with_the_limit_of_their_share(mutants):
    common = {"file": "src/likewise/losses/x.py", "column": 4, "before": "<", "after": "<="}
    common |= {"cut": False, "reached": True, "seconds": 2.0}
    results = [{**common, "line": line, "fate": "killed"} for line in range(97)]
    results += [{**common, "line": 98, "fate": "timeout"}]
    results += [{**common, "line": 99, "fate": "survived", "reached": False}]
    report = mutants.report(results)
    assert "1 of 99 survive: 0.010 [0.000, 0.055]" in report
    assert "src/likewise/losses/x.py:99:5  < → <=  (no test reaches it)" in report
    assert report.count("x.py:") == 2, "the one that timed out is listed too"
    assert [line.split() for line in report.splitlines()[1:3]] == [
        ["losses", "99", "97", "1", "1"],
        ["all", "99", "97", "1", "1"],
    ]
