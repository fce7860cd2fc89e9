"""An embedding map to move about in: one HTML page, with a thumbnail of each item."""

from likewise.map_page.thumbnails import thumbnails
from likewise.map_page.writing import write_map_page

__all__ = ["thumbnails", "write_map_page"]
