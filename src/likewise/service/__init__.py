"""A service over a saved model: the questions of the library over HTTP, and a page to ask them.

`open_service` opens a model and makes the application; the command `likewise serve` runs it. Both
need the extra `serve`; keys and settings do not.
"""

from likewise.service.keys import Key, Keys, make_key, remove_key
from likewise.service.opening import open_service
from likewise.service.settings import Settings

__all__ = ["Key", "Keys", "Settings", "make_key", "open_service", "remove_key"]
