"""The page holds everything it shows, runs nothing, and says what it was given."""

import base64
from html.parser import HTMLParser

import pytest

from likewise import plots
from likewise.intervals import binomial
from likewise.pages import Section, write_page

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Tags with their attributes, and the text of each kind of element."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(source)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.words.setdefault(tag, [])
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self._open and data.strip():
            self.words[self._open[-1]].append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def figure():
    return plots.items_per_class({"a": 1, "b": 2})


def written(tmp_path, **arguments) -> tuple[str, Page]:
    source = write_page(tmp_path / "r.html", **arguments).read_text(encoding="utf-8")
    return source, Page(source)


def full_page(tmp_path) -> tuple[str, Page]:
    return written(
        tmp_path,
        title="Digits",
        facts=[("accuracy", binomial(9, 10)), ("threshold", 0.25), ("as text", "0.5 [0.4, 0.6]")],
        sections=[
            Section(
                "Matching",
                "One.\n\nTwo.",
                figures=[("A caption", figure()), figure()],
                table=[["class", "items", "accuracy"], ["a", 1200, binomial(1, 2)], ["b", 2, None]],
            ),
            Section("Empty"),
        ],
        settings={"seed": 3, "classes": ["a", "b"]},
    )


def test_nothing_comes_from_elsewhere_and_nothing_runs(tmp_path):
    source, page = full_page(tmp_path)
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "data", "poster"}
    ]
    assert len(links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form"}
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    assert "@import" not in source
    assert "url(" not in source
    policy = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_images_are_whole_pictures_with_a_description(tmp_path):
    _, page = full_page(tmp_path)
    for image in page.all("img"):
        content = base64.b64decode(image["src"].partition(",")[2], validate=True)
        assert content.startswith(b"\x89PNG")
        assert content.endswith(b"IEND\xaeB\x60\x82")
        assert image["alt"] == "3 items in 2 classes."
    assert page.words["figcaption"] == ["A caption"]


def test_a_picture_without_a_title_is_described_by_its_caption(tmp_path):
    from matplotlib.figure import Figure

    _, page = written(
        tmp_path, title="t", sections=[Section("s", figures=[("My caption", Figure((2, 2)))])]
    )
    assert page.all("img")[0]["alt"] == "My caption."


def test_facts_show_value_and_interval_apart(tmp_path):
    _, page = full_page(tmp_path)
    assert page.words["dt"][:3] == ["accuracy", "threshold", "as text"]
    assert page.words["dd"][:3] == ["0.900", "0.25", "0.5"]
    low, high = binomial(9, 10).low, binomial(9, 10).high
    assert page.words["small"] == [f"interval {low:.3f} to {high:.3f}", "interval 0.4 to 0.6"]


def test_tables_are_tables_with_numbers_to_the_right(tmp_path):
    _, page = full_page(tmp_path)
    assert page.words["th"] == ["class", "items", "accuracy"]
    assert page.words["td"] == ["a", "1,200", str(binomial(1, 2)), "b", "2", "–"]
    assert [cell.get("class") for cell in page.all("td")] == [None, "number", "number"] * 2
    assert [cell["scope"] for cell in page.all("th")] == ["col"] * 3


def test_text_becomes_paragraphs_and_the_foot_tells_how_it_was_made(tmp_path):
    _, page = full_page(tmp_path)
    assert page.words["p"][:2] == ["One.", "Two."]
    assert page.words["p"][2].startswith("Made with likewise ")
    assert page.words["dt"][-2:] == ["seed", "classes"]
    assert page.words["dd"][-2:] == ["3", "a, b"]


def test_the_page_is_made_for_phones_and_for_dark_rooms(tmp_path):
    source, page = full_page(tmp_path)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in source
    assert page.all("html") == [{"lang": "en"}]


HOSTILE = "<script>alert('x')</script>\" onload=\"&amp;{}"


def test_everything_from_outside_is_escaped(tmp_path):
    source, page = written(
        tmp_path,
        title=HOSTILE,
        facts=[(HOSTILE, HOSTILE)],
        sections=[
            Section(
                HOSTILE,
                HOSTILE,
                figures=[(HOSTILE, plots.roc({HOSTILE: _sweep()}))],
                table=[[HOSTILE], [HOSTILE]],
            )
        ],
        settings={HOSTILE: HOSTILE},
    )
    assert "<script" not in source
    assert not page.all("script")
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    for tag in ("title", "h1", "h2", "dt", "dd", "p", "th", "td", "figcaption"):
        assert HOSTILE in "".join(page.words[tag]), tag


def _sweep():
    import torch

    from likewise.metrics import sweep

    return sweep(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([True, False, True]))


def test_a_path_that_is_no_text_is_written_all_the_same(tmp_path):
    source, _ = written(tmp_path, title="caf\udce9")
    assert "<h1>caf?</h1>" in source


def test_a_ragged_table_is_refused(tmp_path):
    ragged = Section("Per class", table=[["a", "b"], [1]])
    with pytest.raises(
        ValueError, match=r"table of section 'Per class' must have 2 cells .* got 1"
    ):
        write_page(tmp_path / "r.html", title="t", sections=[ragged])
    assert not (tmp_path / "r.html").exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder of path must exist, got '.*nowhere'"):
        write_page(tmp_path / "nowhere" / "r.html", title="t")


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_disk_that_refuses_leaves_the_old_page(tmp_path, monkeypatch, step):
    path = write_page(tmp_path / "r.html", title="old")

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(step, refuse)
    with pytest.raises(OSError, match=r"path must be a file .*r\.html' \(Read-only file system\)"):
        write_page(path, title="new")
    assert "<h1>old</h1>" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_page_replaces_the_old_one(tmp_path):
    path = write_page(tmp_path / "r.html", title="old")
    write_page(str(path), title="new")
    assert "<h1>new</h1>" in path.read_text(encoding="utf-8")
