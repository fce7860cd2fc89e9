"""An exported model without torch: match, verify and lookup by NumPy and ONNX Runtime.

`likewise.export` writes the folder that `load` reads. Nothing here imports torch, nor anything of
this library that does.
"""

from likewise.runtime.answers import UNKNOWN, Matches, Neighbors, Verified
from likewise.runtime.loaded import Runtime, load

__all__ = ["UNKNOWN", "Matches", "Neighbors", "Runtime", "Verified", "load"]
