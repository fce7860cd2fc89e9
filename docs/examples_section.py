"""Griffe reads our docstrings: it calls the section of examples `Examples`, in the plural."""

import re
from typing import Any

import griffe


class ExamplesSection(griffe.Extension):  # type: ignore[misc]  # griffe is not there for mypy
    """Names the section as Griffe does, so that its lines are shown as code."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called by Griffe for each object that it has loaded."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
