"""Everything that is HTML: self-contained pages to keep and to send."""

from likewise.pages.map import write_map_page
from likewise.pages.reporting import report
from likewise.pages.thumbnails import thumbnails
from likewise.pages.writing import Section, write_page

__all__ = ["Section", "report", "thumbnails", "write_map_page", "write_page"]
