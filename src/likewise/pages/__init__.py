"""Everything that is HTML: self-contained pages to keep and to send."""

from likewise.pages.map import write_map_page
from likewise.pages.thumbnails import thumbnails
from likewise.pages.writing import Section, write_page

__all__ = ["Section", "thumbnails", "write_map_page", "write_page"]
