"""The page of the service, in a browser: with a pointer, a keyboard, and on a phone."""

import importlib.util
import io
import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import likewise as lw

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("httptools", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
if not os.environ.get("LIKEWISE_TEST_BROWSER"):
    pytest.importorskip("playwright", reason="Playwright is not installed")

from playwright.sync_api import expect

from likewise.service import Keys, Settings, make_key
from likewise.service.application import PAGE, Application
from likewise.service.routes import Routes
from services import Running

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 220),
    "gray": (128, 128, 128),
}
HOSTILE = '<img src=x onerror="window.struck=1">&amp;\'</script>'
WIDTHS = {"phone": 390, "small phone": 320}


class Averages(nn.Module):
    """The mean color of an image."""

    def forward(self, images):
        return images.mean(dim=(2, 3))


def square(color, spread=0):
    """Images of one color, changed a little."""
    drawn = torch.Generator().manual_seed(spread)
    shift = torch.randint(-4, 5, (3,), generator=drawn) if spread else torch.zeros(3)
    pixels = (torch.tensor(color) + shift).clamp(0, 255).to(torch.uint8)
    return pixels.view(3, 1, 1).expand(3, 8, 8)


def color_model(folder):
    """Three items of each of three colors; all other colors are unknown."""
    model = lw.SimilarityModel(
        Averages(), preprocess=lw.data.Preprocess((3, 8, 8), (0.0,) * 3, (1.0,) * 3)
    )
    model.use_gallery(folder)
    colors = {name: color for name, color in COLORS.items() if name != "gray"}
    labels = [name for name in colors for _ in range(3)]
    images = torch.stack([square(colors[name], at + 1) for at, name in enumerate(labels)]) / 255
    model.add((images, labels), keep_pictures=True)
    aside = [name for name in COLORS for _ in range(8)]
    images = torch.stack([square(COLORS[name], at + 50) for at, name in enumerate(aside)]) / 255
    model.calibrate((images, aside))
    model.calibrate((images, aside), rule="pairs")
    return model


def served(model, keep, keys=None, writes=True):
    return Running(Application(Routes(model, Settings(), keep=keep, writes=writes), keys))


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with served(color_model(folder / "known"), folder / "keep") as service:
        yield service.url


@contextmanager
def opened(browser, address, **options):
    """A page in a browser that knows nothing; what went wrong in it fails the test."""
    context = browser.new_context(**options)
    context.set_default_timeout(15_000)
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None,
    )
    try:
        page.goto(address)
        yield page
        assert wrong == []
    finally:
        context.close()


@pytest.fixture
def page(browser, url):
    with opened(browser, url) as page:
        yield page


def file_of(color, spread=0, name="square.png"):
    content = io.BytesIO()
    Image.fromarray(square(color, spread).permute(1, 2, 0).numpy()).save(content, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": content.getvalue()}


def upload(page, color, spread=0):
    page.get_by_label("Drop a picture here").set_input_files(file_of(color, spread))


def answer(page):
    return page.locator("section:not([hidden]) .answer h3")


def visit(page, view):
    page.get_by_role("navigation").get_by_role("link", name=view, exact=True).click()
    expect(page.get_by_role("heading", level=2, name=view, exact=True)).to_be_focused()


def things(page):
    return page.locator("section:not([hidden]) .thing")


def test_an_upload_is_matched_and_the_answer_told_whole(page):
    upload(page, COLORS["red"], 77)
    expect(answer(page)).to_have_text("red")
    shown = page.locator(".answer .facts").first.inner_text().split("\n")
    terms, values = shown[::2], shown[1::2]
    assert terms == ["Distance", "Threshold", "Probability"]
    assert [re.sub("[0-9.]+", "0", each) for each in values] == ["0", "0", "0%"]
    assert float(values[0]) < float(values[1])
    assert page.get_by_role("status").inner_text() == (
        f"Match: red. Distance {values[0]}, threshold {values[1]}. Probability {values[2]}. "
        "5 neighbors."
    )
    assert things(page).count() == 5
    expect(things(page).first.locator("img")).to_have_js_property("naturalWidth", 8)


def test_a_picture_may_be_dropped(page):
    moved = """bytes => {
        const moved = new DataTransfer();
        moved.items.add(new File([new Uint8Array(bytes)], "blue.png", { type: "image/png" }));
        return moved;
    }"""
    place = page.locator("label.drop").first
    for onto in (place, page.locator("body")):  # beside its place it counts too
        page.reload()
        assert "blue.png" not in place.inner_text()
        dropped = page.evaluate_handle(moved, list(file_of(COLORS["blue"], 3)["buffer"]))
        onto.dispatch_event("drop", {"dataTransfer": dropped})
        expect(answer(page)).to_have_text("blue")
        assert "blue.png" in place.inner_text()


def test_an_unknown_is_enrolled_and_then_matches(page):
    yellow = (240, 240, 20)
    upload(page, yellow)
    expect(answer(page)).to_have_text("UNKNOWN")
    expect(page.get_by_role("status")).to_contain_text("Unknown.")
    page.reload()
    upload(page, yellow)  # which the queue has already
    expect(answer(page)).to_have_text("UNKNOWN")
    asked = page.get_by_label("What is it?")
    asked.fill("red")
    assert page.locator(".enroll small").inner_text() == "Known, with 3 items."
    asked.fill("yellow")
    assert page.locator(".enroll small").inner_text() == "New."
    page.get_by_role("button", name="Enroll").click()
    expect(answer(page)).to_have_text("yellow")
    expect(answer(page)).to_be_focused()
    assert "Enrolled as “yellow”" in page.locator(".answer .note").first.inner_text()
    upload(page, yellow, 5)
    expect(page.locator(".answer .note")).to_have_count(0)
    assert answer(page).inner_text() == "yellow"
    visit(page, "Unknowns")
    expect(page.get_by_role("status")).to_have_text(re.compile("matched nothing|Nothing was"))
    assert things(page).count() == 0


def test_unknowns_are_listed_newest_first_and_enrolled_or_forgotten(page):
    for color in ((20, 240, 240), (240, 20, 240)):
        upload(page, color)
        expect(page.get_by_role("status")).to_contain_text("Unknown.")
        page.reload()
    visit(page, "Unknowns")
    rows = things(page)
    expect(rows).to_have_count(2)
    expect(rows.first.locator("img")).to_have_js_property("naturalWidth", 8)
    pixel = """image => {
        const drawn = document.createElement("canvas").getContext("2d");
        drawn.drawImage(image, 0, 0);
        return [...drawn.getImageData(1, 1, 1, 1).data].slice(0, 3);
    }"""
    assert rows.first.locator("img").evaluate(pixel) == [240, 20, 240]
    rows.first.get_by_role("textbox").or_(rows.first.get_by_role("combobox")).fill("pink")
    rows.first.get_by_role("button", name="Enroll").click()
    expect(rows).to_have_count(1)
    expect(page.get_by_role("status")).to_contain_text("Enrolled as “pink”")
    expect(page.locator(".thing input")).to_be_focused()
    rows.first.get_by_role("button", name="Forget").click()
    expect(rows).to_have_count(0)
    expect(page.get_by_role("heading", level=2)).to_be_focused()
    visit(page, "Match")
    upload(page, (240, 20, 240), 6)
    expect(answer(page)).to_have_text("pink")


def test_a_wrong_label_is_corrected(page):
    upload(page, COLORS["green"], 41)
    expect(answer(page)).to_have_text("green")
    things(page).first.get_by_role("button", name="Relabel").click()
    asked = page.get_by_label(re.compile("Right label of item"))
    expect(asked).to_be_focused()
    asked.fill("lime")
    page.get_by_role("button", name="Save").click()
    expect(answer(page)).to_have_text("lime")
    assert "is “lime” now." in page.locator(".answer .note").first.inner_text()
    visit(page, "Known")
    page.get_by_label("Only those of a class").fill("lime")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(things(page)).to_have_count(1)
    things(page).first.get_by_role("button", name="Relabel").click()
    page.get_by_label(re.compile("Right label of item")).fill("green")
    page.get_by_role("button", name="Save").click()
    expect(things(page).first.locator("strong")).to_have_text("green")
    expect(things(page).first.get_by_role("button", name="Relabel")).to_be_focused()
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    things(page).first.get_by_role("button", name="Remove").click()
    expect(things(page)).to_have_count(0)
    assert len(asked) == 1
    assert asked[0].endswith(", “green”?")


def test_a_view_that_is_asked_for_before_the_model_is_known_has_the_focus(browser, url):
    with opened(browser, "about:blank") as page:
        asked = []

        def moved(route):
            asked.append(
                page.evaluate(
                    "new Promise(go => { addEventListener('hashchange', () => go(location.hash));"
                    "location.hash = 'compare'; })"
                )
            )
            route.continue_()

        page.route("**/v1/model", moved)
        page.goto(url)
        expect(page.get_by_role("heading", level=2, name="Compare")).to_be_focused()
        assert asked == ["#compare"]


def test_two_items_are_compared(page):
    visit(page, "Compare")
    first, second = (page.get_by_label(f"{side} picture") for side in ("First", "Second"))
    first.set_input_files(file_of(COLORS["red"], 8))
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("section:not([hidden]) .refusal").first).to_contain_text("must be given")
    second.set_input_files(file_of(COLORS["red"], 9))
    page.get_by_role("button", name="Compare").click()
    expect(answer(page)).to_have_text("SAME")
    second.set_input_files(file_of(COLORS["blue"]))
    page.get_by_role("button", name="Compare").click()
    expect(answer(page)).to_have_text("DIFFERENT")
    distance, threshold = page.locator(".answer .facts").first.locator("dd").all_inner_texts()[:2]
    assert float(distance) > float(threshold)
    told = f"Different. Distance {distance}, threshold {threshold}."
    assert page.get_by_role("status").inner_text().startswith(told)


class Lengths(nn.Module):
    """An encoder of texts."""

    takes_texts = True

    def forward(self, texts):
        return torch.tensor([[float(len(text)), float(text.count("e")), 1.0] for text in texts])


def test_texts_are_typed(browser, tmp_path):
    model = lw.SimilarityModel(Lengths())
    model.use_gallery(tmp_path / "known")
    model.add((["eee", "aaaa", "ee", "bbbbb"], ["e", "a", "e", "a"]))
    model.calibrate((["eeee", "aaaaaaa", "eeeee", "bbbb"], ["e", "a", "e", "a"]))
    with (
        served(model, tmp_path / "keep") as service,
        opened(browser, service.url) as page,
    ):
        page.get_by_role("button", name="Match").click()
        expect(page.get_by_role("alert").filter(has_text="A text must be given")).to_be_visible()
        page.get_by_label("A text").fill("eee")
        page.keyboard.press("Control+Enter")
        expect(answer(page)).to_have_text("e")
        page.get_by_text("Is this wrong?").click()
        page.get_by_label("What is it really?").fill("three")
        page.get_by_role("button", name="Add as this").click()
        expect(page.locator(".answer .note").first).to_contain_text("Enrolled as “three”")
        visit(page, "Known")
        expect(things(page)).to_have_count(5)
        newest = things(page).first.locator(".about > *").all_inner_texts()
        assert newest == ["three", "item 4", "text: eee"]
        visit(page, "Compare")
        expect(page.locator("section:not([hidden]) .note")).to_contain_text("not calibrated")


class ColorWords(nn.Module):
    """The colors that a text names."""

    takes_texts = True

    def forward(self, texts):
        names = ("red", "green", "blue")
        return torch.tensor([[float(name in text) + 0.01 for name in names] for text in texts])


def tower_model(folder):
    """Texts over pictures of two colors, of which "pairs" alone is calibrated."""
    model = lw.SimilarityModel(
        Averages(),
        preprocess=lw.data.Preprocess((3, 8, 8), (0.0,) * 3, (1.0,) * 3),
        query_encoder=ColorWords(),
    )
    model.use_gallery(folder)
    pictures = torch.stack([square(COLORS[name]) for name in ("red", "green")]) / 255
    model.add((pictures, ["red", "green"]), keep_pictures=True)
    words = ["red", "a red one", "green", "a green one"]
    rows = torch.cartesian_prod(torch.arange(4), torch.arange(2))
    pairs = lw.data.CrossPairs(
        lw.data.TextDataset(words, [0, 0, 1, 1]),
        lw.data.ArrayDataset(pictures, [0, 1]),
        rows,
        rows[:, 0] // 2 == rows[:, 1],
    )
    model.calibrate(pairs, rule="pairs")
    return model


def test_a_text_finds_pictures_which_are_added_where_known_items_are(browser, tmp_path):
    model = tower_model(tmp_path / "known")
    with served(model, tmp_path / "keep") as service, opened(browser, service.url) as page:
        note = page.locator("section:not([hidden]) .note")
        expect(note).to_contain_text("Until then only the nearest known items are shown.")
        page.get_by_label("A text").fill("a red one")
        page.keyboard.press("Control+Enter")
        expect(answer(page)).to_have_text("Nearest known items")
        expect(things(page)).to_have_count(2)
        expect(things(page).first).to_contain_text("red")
        expect(things(page).first.locator("img")).to_be_visible()
        said = page.get_by_role("status").inner_text()
        assert said.startswith("2 neighbors. Nearest: “red”, distance ")
        things(page).first.get_by_role("button", name="Relabel").click()
        page.get_by_label("Right label of item 0").fill("crimson")
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".answer .note").first).to_contain_text("Item 0 is “crimson” now.")

        visit(page, "Known")
        page.get_by_text("Add a known item").click()
        page.get_by_label("Its label").fill("sky")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_role("alert").filter(has_text="A picture must be given")).to_be_visible()
        page.get_by_label("Picture to add").set_input_files(file_of(COLORS["blue"]))
        page.get_by_role("button", name="Add", exact=True).click()
        expect(things(page)).to_have_count(3)
        expect(things(page).first).to_contain_text("sky")
        expect(page.get_by_role("status")).to_contain_text("Added as “sky”, item 2.")

        visit(page, "Match")
        page.get_by_label("A text").fill("blue")
        page.get_by_role("button", name="Look up").click()
        expect(things(page).first).to_contain_text("sky")

        visit(page, "Compare")
        page.get_by_label("First text").fill("blue")
        for color, verdict in (("blue", "SAME"), ("red", "DIFFERENT")):
            page.get_by_label("Second picture").set_input_files(file_of(COLORS[color]))
            page.get_by_role("button", name="Compare").click()
            expect(answer(page)).to_have_text(verdict)


def test_an_unknown_text_cannot_become_a_known_picture(browser, tmp_path):
    model = tower_model(tmp_path / "known")
    words = ["red", "a red one", "green", "a green one", "blue"]
    model.calibrate((words * 4, ["red", "red", "green", "green", "blue"] * 4))
    with served(model, tmp_path / "keep") as service, opened(browser, service.url) as page:
        page.get_by_label("A text").fill("only blue")
        page.get_by_role("button", name="Match").click()
        expect(answer(page)).to_have_text("UNKNOWN")
        assert page.get_by_role("button", name="Enroll").count() == 0
        visit(page, "Unknowns")
        expect(things(page)).to_have_count(1)
        expect(things(page).first).to_contain_text("only blue")
        shown = page.locator("section:not([hidden])").inner_text()
        assert "an unknown cannot become known" in shown
        assert page.get_by_role("button", name="Enroll").count() == 0
        things(page).get_by_role("button", name="Forget").click()
        expect(things(page)).to_have_count(0)


def test_vectors_are_pasted_and_a_service_that_changes_nothing_says_so(browser):
    model = lw.SimilarityModel(None)
    model.index.add(
        torch.eye(3).repeat(2, 1),
        labels=["a", "b", "c"] * 2,
        metadata=[{"shop": "north"}] * 3 + [{"shop": "south"}] * 3,
    )
    model.calibrate((torch.eye(3).repeat(4, 1) + 0.01, ["a", "b", "c"] * 4))
    with served(model, None, writes=False) as service, opened(browser, service.url) as page:
        given = page.get_by_label("A vector")
        given.fill("[1.0, one]")
        page.get_by_role("button", name="Match").click()
        expect(page.get_by_role("alert").filter(has_text="got “one”")).to_be_visible()
        given.fill("[1.0, 2e-2]")
        page.get_by_role("button", name="Match").click()
        expect(page.get_by_role("alert").filter(has_text="must hold 3 numbers")).to_be_visible()
        given.fill("1.01 1e-2; 0.01")
        page.get_by_text("More").click()
        page.get_by_label("Only among known items").fill('{"shop": "south"}')
        page.get_by_role("button", name="Match").click()
        expect(answer(page)).to_have_text("a")
        expect(things(page)).to_have_count(3)
        assert "it changes nothing" in page.locator(".answer").inner_text()
        assert page.get_by_role("button", name="Relabel").count() == 0
        visit(page, "Unknowns")
        note = page.locator("section:not([hidden]) .note")
        expect(note).to_be_visible()
        assert "--keep" in note.inner_text()


def test_rates_and_drift_are_shown(page):
    upload(page, COLORS["red"])
    expect(answer(page)).to_have_text("red")
    visit(page, "Over time")
    expect(page.get_by_role("img", name="Share of unknowns by hour")).to_be_visible()
    expect(page.get_by_role("img", name="Mean distance by hour")).to_be_visible()
    matched = page.locator("dt", has_text="Matched as known").locator("xpath=../dd")
    assert int(matched.inner_text()) >= 1
    page.get_by_text("The same as a table").click()
    expect(page.locator("section:not([hidden]) tbody tr").first).to_be_visible()
    told = page.locator("dt", has_text="Calibrate again").locator("xpath=../dd")
    assert told.inner_text() == "no"

    def outgrown(route):
        answer = {**route.fetch().json(), "calibrate_again": ["a reason"], "advice": "All of it."}
        route.fulfill(json=answer)

    page.route("**/v1/drift*", outgrown)
    page.get_by_role("button", name="Refresh").click()
    expect(told).to_have_text("yes")
    expect(page.get_by_text("All of it.", exact=True)).to_be_visible()


def test_the_keyboard_is_enough(page):
    def tab_to(what):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("what => document.activeElement.matches(what)", what):
                return
        raise AssertionError(f"Tab does not reach {what}")

    # Listened to early: the browser must have heard of it before the key is pressed.
    page.on("filechooser", lambda chooser: chooser.set_files(file_of((250, 140, 10))))
    expect(page.locator("input[type=file]")).to_be_attached()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    tab_to("input[type=file]")
    outline = page.locator("label.drop").first.evaluate("it => getComputedStyle(it).outlineWidth")
    assert outline == "3px"
    page.keyboard.press("Space")
    expect(answer(page)).to_have_text("UNKNOWN")
    tab_to(".enroll input")
    page.keyboard.type("orange")
    page.keyboard.press("Enter")
    expect(answer(page)).to_have_text("orange")
    expect(answer(page)).to_be_focused()
    tab_to(".thing button")
    page.keyboard.press("Enter")
    page.keyboard.type("amber")
    page.keyboard.press("Enter")
    expect(answer(page)).to_have_text("amber")
    expect(things(page).first.get_by_role("button", name="Relabel")).to_be_focused()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_phone_needs_no_scrolling_aside(browser, url, width):
    options = {"viewport": {"width": width, "height": 700}, "has_touch": True}
    with opened(browser, url, **options) as page:
        for view in ("Compare", "Unknowns", "Known", "Over time", "Match"):
            visit(page, view)
            expect(page.locator("section:not([hidden])")).to_have_count(1)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        upload(page, (90, 10, 160))
        expect(answer(page)).to_have_text(re.compile("."))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, nav a, select, .drop")]
                .filter(each => each.checkVisibility() && each.offsetHeight < 40)
                .map(each => each.outerHTML)"""
        )
        assert small == []


def test_names_are_never_read_as_html(page):
    color = (140, 240, 140)
    upload(page, color)
    expect(answer(page)).to_have_text("UNKNOWN")
    page.get_by_label("What is it?").fill(HOSTILE)
    page.get_by_role("button", name="Enroll").click()
    expect(answer(page)).to_have_text(HOSTILE)
    visit(page, "Known")
    expect(things(page).first.locator("strong")).to_have_text(HOSTILE)
    assert (
        page.locator("#classes option")
        .evaluate_all("all => all.map(each => each.value)")
        .count(HOSTILE)
    )
    assert page.evaluate("window.struck") is None
    assert page.locator("img[src=x]").count() == 0
    for file in PAGE.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", file.read_text()
        )


def test_a_refusal_is_the_sentence_of_the_service(page):
    broken = {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.get_by_label("Drop a picture here").set_input_files(broken)
    expect(page.get_by_role("alert").filter(has_text="items[0]")).to_contain_text("must")
    expect(answer(page)).to_have_count(0)
    upload(page, COLORS["red"])
    expect(answer(page)).to_have_text("red")
    expect(page.get_by_role("alert").filter(has_text="items[0]")).to_have_count(0)
    page.route("**/v1/match", lambda route: route.abort())
    upload(page, COLORS["red"], 4)
    refused = page.get_by_role("alert").filter(has_text="must be reachable")
    expect(refused).to_be_visible()
    assert refused.count() == 1


def test_the_newest_question_is_the_one_answered(page):
    page.evaluate(
        """() => {
            const plain = fetch;
            let first = true;
            window.fetch = async (path, options) => {
                const isFirst = first && path === "v1/match";
                if (isFirst) first = false;
                const answer = await plain(path, options);
                if (isFirst) {
                    document.body.dataset.held = "";
                    await new Promise(done => (window.letGo = done));
                }
                return answer;
            };
        }"""
    )
    upload(page, COLORS["red"], 4)
    expect(page.locator("body[data-held]")).to_be_attached()
    upload(page, COLORS["blue"], 4)
    expect(answer(page)).to_have_text("blue")
    page.evaluate("window.letGo()")
    page.evaluate("new Promise(done => setTimeout(done))")
    assert answer(page).inner_text() == "blue"


def test_a_key_is_asked_for_and_kept_for_the_session_only(browser, tmp_path):
    key = make_key(tmp_path / "keys.json", "reader")
    model = color_model(tmp_path / "known")
    with (
        served(model, tmp_path / "keep", Keys(tmp_path / "keys.json")) as service,
        opened(browser, service.url) as page,
    ):
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("The service wants a key.")
        page.keyboard.press("Escape")
        expect(page.get_by_role("alert").first).to_contain_text("Authorization must be Bearer")
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_label("Your key")).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("that the service knows, got another.")
        page.get_by_label("Your key").fill(key)
        page.keyboard.press("Enter")
        expect(dialog).to_have_count(0)
        upload(page, (5, 5, 5))
        expect(answer(page)).to_have_text("UNKNOWN")
        expect(things(page).first.locator("img")).to_have_js_property("naturalWidth", 8)
        page.get_by_label("What is it?").fill("black")
        page.get_by_role("button", name="Enroll").click()
        expect(page.get_by_role("alert").filter(has_text="allowed to write")).to_be_visible()
        kept = page.evaluate(
            "[Object.values(sessionStorage), localStorage.length, document.cookie]"
        )
        assert kept == [[key], 0, ""]
        page.reload()
        expect(page.get_by_label("Drop a picture here")).to_be_attached()
        page.get_by_role("button", name="Forget the key").click()
        expect(dialog).to_contain_text("The service wants a key.")
        assert page.evaluate("sessionStorage.length") == 0


def axe_source():
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core is not installed (axe-playwright-python)")
    return (Path(found.origin).parent / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(browser, url, scheme):
    source = axe_source()

    def check(page):
        found = page.evaluate("async () => (await axe.run()).violations")
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        told = [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious]
        assert told == [], json.dumps(told, indent=1)

    with opened(browser, url, color_scheme=scheme) as page:
        page.evaluate(source)
        upload(page, (10, 60, 60))
        expect(answer(page)).to_have_text("UNKNOWN")
        page.locator(".answer .point summary").click()
        page.locator(".answer button", has_text="Relabel").first.click()
        check(page)
        upload(page, COLORS["blue"])
        expect(answer(page)).to_have_text("blue")
        check(page)
        visit(page, "Compare")
        for side in ("First", "Second"):
            page.get_by_label(f"{side} picture").set_input_files(file_of(COLORS["blue"]))
        page.get_by_role("button", name="Compare").click()
        expect(answer(page)).to_have_text("SAME")
        check(page)
        for view in ("Unknowns", "Known"):
            visit(page, view)
            expect(things(page).first).to_be_visible()
            check(page)
        visit(page, "Over time")
        expect(page.get_by_role("img", name="Share of unknowns by hour")).to_be_visible()
        page.get_by_text("The same as a table").click()
        check(page)
