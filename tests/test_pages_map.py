"""The page of a map: holds everything, runs only its own script, and nothing given breaks it."""

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from likewise.pages import thumbnails, write_map_page
from test_pages_writing import Page

NASTY = ["</script><b>bold</b>", '"&amp;<!--', "{{DATA}}", "a\u2028b\udcff", "plain"]


class MapPage(Page):
    def handle_starttag(self, tag, attributes):
        if tag != "input":  # which is never closed
            super().handle_starttag(tag, attributes)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def written(tmp_path, n=10, **options):
    labels = torch.arange(n) % 5
    page = write_map_page(tmp_path / "map.html", random(n, 2), labels, NASTY, **options)
    source = page.read_text(encoding="utf-8")
    return source, MapPage(source)


def data_of(source):
    return json.loads(re.search(r'id="data">(.*?)</script>', source, re.DOTALL).group(1))


def pictures_of(told):
    """Every thumbnail, cut out of its sheet as the script does."""
    all_ = told["pictures"]
    sheets = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(file.partition(",")[2]))))
        for file in all_["files"]
    ]
    (w, h), (cw, ch) = all_["size"], all_["cell"]
    for i in range(len(told["x"])):
        row, column = divmod(i % all_["each"], all_["columns"])
        yield sheets[i // all_["each"]][row * ch : row * ch + h, column * cw : column * cw + w]


def test_nothing_comes_from_elsewhere_and_only_its_own_script_may_run(tmp_path):
    source, page = written(tmp_path, items=random(10, 1, 8, 8), title="</title><script>x</script>")
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "data", "poster"}
    ]
    assert links == []
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    assert "url(" not in source
    assert "@import" not in source
    assert "http://" not in source
    assert "https://" not in source
    assert len(page.all("script")) == 2, "the data and the script, and none that was given"
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        *_, content = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_names_from_outside_are_data_and_never_markup(tmp_path):
    names = [f"<img src=x onerror=alert({i})>.png" for i in range(10)]
    source, page = written(tmp_path, names=names, title="<i>{{SCRIPT}}</i>", note="a & <b>")
    told = data_of(source)
    assert [each["name"] for each in told["classes"]] == NASTY
    assert told["names"] == names
    assert page.words["title"] == page.words["h1"] == ["<i>{{SCRIPT}}</i>"]
    assert page.words["p"][0] == "a & <b>"
    assert not page.all("b")
    assert not page.all("img")


def test_the_data_are_what_was_given(tmp_path):
    points = torch.tensor([[0.1, -2e5], [1 / 3, 3e-9], [0.5, -1.0]])
    labels = torch.tensor([-1, 1, 1])
    page = write_map_page(tmp_path / "m.html", points, labels, ["a", "b"], unseen=[1])
    told = data_of(page.read_text(encoding="utf-8"))
    scaled = (points.double() - torch.tensor([0.3, -1e5])) / 1e5
    torch.testing.assert_close(
        torch.tensor([told["x"], told["y"]], dtype=torch.float64).T, scaled, rtol=0, atol=2e-7
    )
    assert told["class"] == [0, 1, 1]
    assert [(each["name"], each["count"], each["hollow"]) for each in told["classes"]] == [
        ("unknown", 1, True),
        ("b", 2, True),
    ]
    assert told["names"] is told["pictures"] is None


@pytest.mark.parametrize(("spread", "middle"), [(0.01, 1000.0), (1e-20, 0.0), (1e30, 1e30)])
def test_points_keep_their_places_wherever_they_lie(tmp_path, spread, middle):
    points = random(50, 2).double() * spread + middle
    page = write_map_page(tmp_path / "m.html", points, torch.zeros(50).long(), ["a"])
    told = data_of(page.read_text(encoding="utf-8"))
    found = torch.tensor([told["x"], told["y"]], dtype=torch.float64).T
    assert found.abs().max() == 1
    wanted = points - (points.amin(dim=0) + points.amax(dim=0)) / 2
    torch.testing.assert_close(found, wanted / wanted.abs().max(), rtol=0, atol=1e-7)


def test_points_that_are_all_one_lie_in_the_middle(tmp_path):
    page = write_map_page(tmp_path / "m.html", torch.ones(2, 2), torch.zeros(2).long(), ["a"])
    told = data_of(page.read_text(encoding="utf-8"))
    assert told["x"] == told["y"] == [0, 0]


def test_small_pictures_are_kept_to_the_bit_each_at_its_place(tmp_path):
    n = 1100  # more than a sheet holds
    items = (random(n, 3, 5, 7) * 255).round() / 255
    told = data_of(written(tmp_path, n, items=items)[0])
    assert len(told["pictures"]["files"]) == 2
    expected = (items * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for found, wanted in zip(pictures_of(told), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_photographs_take_two_kilobytes_each_and_do_not_bleed(tmp_path):
    n = 1600
    items = torch.zeros(n, 3, 48, 60, dtype=torch.uint8)
    items[1::2] = 255  # each beside its opposite
    noise = torch.randint(0, 60, (600, 3, 48, 60), generator=torch.Generator().manual_seed(0))
    items[1000:] = noise.byte()
    source, _ = written(tmp_path, n, items=items)
    assert len(source) < 2000 * n, "5,000 items in 10 MB"
    told = data_of(source)
    assert told["pictures"]["files"][0].startswith("data:image/jpeg;base64,")
    for i, picture in zip(range(1000), pictures_of(told), strict=False):
        assert picture.shape[:2] == (38, 48)
        assert abs(picture.astype(int) - (255 if i % 2 else 0)).max() <= 2


@pytest.mark.parametrize("shape", [(4, 100, 50), (4, 1, 100, 50), (4, 3, 100, 50), (4, 4, 9, 9)])
def test_thumbnails_keep_proportions_and_mean(shape):
    items = random(*shape)
    small = thumbnails(items, side=20)
    assert small.dtype == torch.uint8
    assert small.shape[-2:] == ((20, 10) if shape[-1] == 50 else (9, 9))
    assert small.shape[1] == (1 if len(shape) == 3 or shape[1] == 1 else 3)
    wanted = items.reshape(4, -1, *shape[-2:])[:, : small.shape[1]].mean(dim=(1, 2, 3))
    torch.testing.assert_close(small.float().mean(dim=(1, 2, 3)) / 255, wanted, atol=3e-3, rtol=0)
    assert torch.equal(thumbnails(small, side=20), small)


def test_values_beyond_the_range_are_clipped():
    small = thumbnails(torch.tensor([[[-3.0, 0.5], [2.0, torch.nan]]]))
    assert small.flatten().tolist() == [0, 128, 255, 0]


def test_vectors_have_no_picture(tmp_path):
    assert data_of(written(tmp_path, items=random(10, 4))[0])["pictures"] is None
    with pytest.raises(ValueError, match=r"items must be images, got shape \(10, 4\)"):
        thumbnails(random(10, 4))
    with pytest.raises(
        TypeError, match=r"items must be .* or uint8, got torch\.int64\. Use items\.b"
    ):
        thumbnails(torch.zeros(2, 4, 4, dtype=torch.int64))


def test_what_does_not_fit_is_named(tmp_path):
    labels = torch.zeros(3, dtype=torch.int64)
    page = tmp_path / "map.html"
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\) .* got \(3, 3\)"):
        write_map_page(page, random(3, 3), labels, ["a"])
    with pytest.raises(ValueError, match="names must have 3 entries, one per point, got 2"):
        write_map_page(page, random(3, 2), labels, ["a"], names=["x", "y"])
    with pytest.raises(ValueError, match="items must have 3 entries, one per point, got 1"):
        write_map_page(page, random(3, 2), labels, ["a"], items=random(1, 4, 4))
    with pytest.raises(ValueError, match="class_names must name every label, got 0 names"):
        write_map_page(page, random(3, 2), labels, [])
    with pytest.raises(
        TypeError, match=r"items must be .* or uint8, got torch\.int64\. Use items\.b"
    ):
        write_map_page(page, random(3, 2), labels, ["a"], items=torch.full((3, 4, 4), 200))
    for unseen in (["a"], "a"):
        with pytest.raises(TypeError, match="unseen must be class codes, got 'a'"):
            write_map_page(page, random(3, 2), labels, ["a"], unseen=unseen)
    with pytest.raises(ValueError, match="points must be finite, got 1 NaN"):
        write_map_page(page, torch.tensor([[0.0, torch.nan]] * 1), labels[:1], ["a"])
    with pytest.raises(FileNotFoundError, match="folder of path must exist"):
        write_map_page(tmp_path / "nowhere" / "map.html", random(3, 2), labels, ["a"])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_page(tmp_path, monkeypatch):
    page = tmp_path / "map.html"
    page.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="path must be a file that can be written"):
        write_map_page(page, random(1, 2), torch.tensor([0]), ["a"])
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]
