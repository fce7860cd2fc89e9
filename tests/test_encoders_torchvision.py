"""A torchvision built for another torch: only its exact failure is mended, in a new process."""

import subprocess
import sys

# A torchvision that asks for an operator as the real one does, and a library that imports it.
TORCHVISION = """
import torch
import torchvision.before
torch.library.register_fake("torchvision::nms")(lambda dets, scores, threshold: dets)
torch.library.register_fake("torchvision::qnms")(lambda dets, scores, threshold: dets)
"""
LIBRARY = "import torchvision\nanswer = 42\n"


def in_new_process(code, folder, torchvision=TORCHVISION, library=LIBRARY):
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(torchvision)
    (package / "before.py").write_text("")
    (folder / "library.py").write_text(library)
    start = f"import importlib, sys; sys.path.insert(0, {str(folder)!r})\n"
    start += "from likewise.encoders._torchvision import retried\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True)


def test_the_missing_operators_are_declared_after_the_failure_and_only_then(tmp_path):
    code = (
        "import torch\n"
        "loaded = lambda: importlib.import_module('library').answer\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n"
        "assert retried(lambda: 7) == 7\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n"
        "assert retried(loaded) == 42 == retried(loaded)\n"
        "assert hasattr(torch.ops.torchvision, 'qnms')\n"
    )
    ran = in_new_process(code, tmp_path)
    assert ran.returncode == 0, ran.stderr


FAILURES = {
    "of_another_operator": "RuntimeError('operator torchvision::roi_align does not exist')",
    "of_more_words": "RuntimeError('operator torchvision::nms does not exist, they said')",
    "of_another_kind": "OSError('operator torchvision::nms does not exist')",
}


def test_any_other_failure_is_raised_and_nothing_is_declared(tmp_path):
    for name, failure in FAILURES.items():
        (tmp_path / f"{name}.py").write_text(f"raise {failure}")
    code = (
        "import torch\n"
        f"for name in {list(FAILURES)}:\n"
        "    try:\n        retried(lambda: importlib.import_module(name))\n"
        "    except Exception as error:\n        print(type(error).__name__)\n"
        "    assert not hasattr(torch.ops.torchvision, 'nms')\n"
    )
    ran = in_new_process(code, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [failure.partition("(")[0] for failure in FAILURES.values()]


def test_a_failure_wrapped_by_a_lazy_library_is_mended(tmp_path):
    library = (
        "try:\n    import torchvision\n"
        "except RuntimeError as error:\n    raise ModuleNotFoundError('no such model') from error\n"
        "answer = 42\n"
    )
    code = "assert retried(lambda: importlib.import_module('library')).answer == 42"
    ran = in_new_process(code, tmp_path, library=library)
    assert ran.returncode == 0, ran.stderr
