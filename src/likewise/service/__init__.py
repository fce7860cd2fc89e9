"""A service over a saved model: the questions of the library over HTTP, and a page to ask them.

`open_service` opens a model and makes the application; the command `likewise serve` runs it. Both
need the extra `serve`; keys and settings do not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from likewise.service.keys import Key, Keys, make_key, remove_key
    from likewise.service.opening import open_service
    from likewise.service.settings import Settings

__all__ = ["Key", "Keys", "Settings", "make_key", "open_service", "remove_key"]

_MODULE_OF = {"Settings": "settings", "open_service": "opening"}


def __getattr__(name: str) -> Any:
    # Loaded when first used: the command line takes defaults from `Settings` without torch.
    if name not in __all__:
        raise AttributeError(f"module 'likewise.service' has no attribute {name!r}")
    module = importlib.import_module(f"likewise.service.{_MODULE_OF.get(name, 'keys')}")
    return getattr(module, name)
