"""The report in a browser, offline: light, dark and on a phone; sorting, filtering, and all links to raw rows."""

import json
from pathlib import Path

import pytest
from support.browser import contrast, luminance
from support.made.run_folder import HOSTILE, checks, folder, measurements, stories

from lab.cli import main

SCREENS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
}


ARM = """() => {
    window.hashChanged = new Promise((done) => addEventListener("hashchange", () => done(), { once: true }));
}"""
FOLLOW = """link => new Promise((done) => {
    addEventListener("hashchange", done, { once: true });
    location.hash = link;
})"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Write two reports: of one run with all kinds of results, and of two runs."""
    folders = tmp_path_factory.mktemp("results")
    full = folder(
        folders / "full", checks=checks(), measurements=measurements(), recorded=True, stories=stories(checks())
    )
    other = folder(folders / "other", checks=checks(3, wrong=0), kernel={"release": "5.10.0-33-amd64"}, attach="kprobe")
    assert main(["report", str(full)]) == 0
    assert main(["report", str(full), str(other), "-o", str(folders / "both.html")]) == 0
    return {"one": full / "report.html", "both": folders / "both.html"}


class Opened:
    """A report in the browser, with the messages on its console and the URLs that it requested."""

    def __init__(self, context, path):
        self.messages, self.requested = [], []
        self.page = context.new_page()
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.path = path
        self.go("")

    def go(self, fragment):
        """Follow a link within the page."""
        self.page.goto(f"file://{self.path}{fragment}")
        self.page.wait_for_selector("body[data-ready]")

    def follow(self, link):
        """Click a link within the page and wait for its hashchange event, which the browser sends later."""
        self.page.evaluate(ARM)
        link.click()
        self.page.evaluate("() => window.hashChanged")

    def column(self, table, name):
        """Return the texts shown in a column."""
        return self.page.evaluate(
            """([table, name]) => {
                const place = document.querySelector(`[data-table=${table}]`);
                const number = [...place.querySelectorAll("thead th")].findIndex((head) => head.textContent === name);
                return [...place.querySelectorAll("tbody tr")].map((row) => row.cells[number].textContent);
            }""",
            [table, name],
        )


@pytest.fixture
def opened(browser, reports, request):
    """Open the report of one run, or the requested (report, screen)."""
    report, screen = getattr(request, "param", ("one", "light"))
    context = browser.new_context(offline=True, **SCREENS[screen])
    opened = Opened(context, reports[report])
    yield opened
    context.close()
    assert opened.messages == []
    assert {url.partition("#")[0] for url in opened.requested} == {f"file://{opened.path}"}


@pytest.mark.parametrize(
    "opened", [(report, screen) for report in ("one", "both") for screen in SCREENS], indirect=True, ids="-".join
)
def test_opens(opened):
    """The page gives no message, requests nothing, has no horizontal scroll bar, and shows process names as text."""
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    assert "3 of " in page.locator("h1").inner_text()
    assert page.locator("td", has_text=HOSTILE[:20]).count() > 0
    assert page.locator("img").count() == 0


def test_light_and_dark(browser, reports):
    """Text and background have the contrast that WCAG requires (4.5 to 1), in the light and in the dark scheme."""
    brightness = {}
    for screen in ("light", "dark"):
        context = browser.new_context(offline=True, **SCREENS[screen])
        page = Opened(context, reports["one"]).page
        for selector, against in (
            ("h2", "section"),
            (".muted", "section"),
            (".right", "section"),
            (".wrong", "section"),
            ("a", "section"),
        ):
            assert contrast(page, f"main {selector}", against) >= 4.5, (screen, selector)
        brightness[screen] = luminance(page, "section", "backgroundColor")
        context.close()
    assert brightness["light"] > 10 * brightness["dark"]


def nanoseconds(text):
    """Return a time of the table in nanoseconds."""
    number, unit = text.split()
    return float(number) * {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}[unit]


def test_a_wrong_number_opens(opened):
    """The first story is open; a click opens another, in which client, wire and server have a column each."""
    stories = opened.page.locator(".story")
    assert [story.get_attribute("open") for story in stories.all()] == ["", None, None]
    timeline = stories.nth(1).locator(".timeline")
    assert not timeline.is_visible()
    stories.nth(1).locator("summary").click()
    assert timeline.locator("th").all_inner_texts() == ["ms", "client", "wire", "server"]
    assert timeline.get_by_text("connect() called").is_visible()


def test_long_names_of_scenarios(opened):
    """A name of 110 characters, the longest of the suite, has at most five lines."""
    cell = opened.page.locator("[data-table=checks] tbody td").first
    cell.evaluate("(cell) => { cell.textContent = 'test_every_number[4 ms both ways, '.padEnd(110, 'loss 0.03, '); }")
    height = cell.evaluate("(cell) => cell.clientHeight / parseFloat(getComputedStyle(cell).lineHeight)")
    assert height < 6.5  # five lines and the padding


def test_sorting(opened):
    """Numbers sort by value, first descending and then ascending, unknown values last; names sort alphabetically."""
    place = opened.page.locator("[data-table=checks]")
    opened.page.select_option("[data-table=checks] select >> nth=1", "duration")
    for direction, reverse in (("descending", True), ("ascending", False)):
        place.get_by_role("button", name="largest error").click()
        assert place.locator("th[aria-sort]").get_attribute("aria-sort") == direction
        shown = opened.column("checks", "largest error")
        values = [nanoseconds(text) for text in shown if " " in text]
        assert len(values) == 5
        assert values == sorted(values, reverse=reverse)
        assert shown[-3:] == ["", "", ""]
    place.get_by_role("button", name="quantity").click()
    names = opened.column("checks", "quantity")
    assert names == sorted(names, key=str.casefold)
    assert len(set(names)) > 2


def test_filtering(opened):
    """Filters by probe, verdict and words combine; the count shows the remaining lines and all lines."""
    place = opened.page.locator("[data-table=checks]")
    probe, verdict = (place.get_by_label(name, exact=True) for name in ("probe", "verdict"))
    assert place.locator("output").inner_text() == "34 of 34 lines"
    probe.select_option("duration")
    assert set(opened.column("checks", "probe")) == {"duration"}
    assert place.locator("output").inner_text() == "10 of 34 lines"
    verdict.select_option("wrong")
    assert opened.column("checks", "quantity") == ["first SYN to first FIN", "owner"]
    place.get_by_label("search").fill("FIRST fin lost")
    assert opened.column("checks", "quantity") == ["first SYN to first FIN"]
    place.get_by_label("search").fill("nothing of the kind")
    assert opened.column("checks", "quantity") == []
    place.get_by_label("search").fill("")
    verdict.select_option("right")
    assert len(opened.column("checks", "quantity")) == 8


def test_long_tables_are_drawn_in_parts(opened):
    """A long table shows 100 lines and a button for more."""
    shown = opened.page.locator("[data-table=measurements] tbody tr")
    whole = len(measurements())
    assert shown.count() == min(whole, 100)
    assert opened.page.locator("[data-table=measurements] .next").is_visible() == (whole > 100)


@pytest.mark.parametrize("opened", [("one", "light"), ("both", "phone")], indirect=True, ids="-".join)
def test_every_link_leads_somewhere(opened):
    """Links lead to raw rows that equal the file, to existing sections and files, and to filters with results."""
    page = opened.page
    links = page.evaluate("[...new Set([...document.querySelectorAll('a')].map((a) => a.getAttribute('href')))]")
    raw = [link for link in links if link.startswith("#raw:")]
    assert len(raw) > 60
    for link in links:
        if not link.startswith("#"):
            assert (opened.path.parent / link).is_file(), link
            continue
        page.evaluate(FOLLOW, link)
        if link in raw:
            check_raw_rows(page, opened.path.parent)
        elif "?" in link:
            assert page.locator("[data-table=checks] tbody tr").count() > 0, link
        else:
            assert page.locator(link).count() == 1, link


def check_raw_rows(page, folder_of_page: Path):
    """Compare the raw rows shown with the lines of their file."""
    title, link, lines = page.evaluate(
        """() => [document.getElementById("rows-title").textContent, document.querySelector("#rows-about a").getAttribute("href"),
            [...document.querySelectorAll("#rows-lines li")].map((line) =>
                [line.querySelector("b")?.textContent, line.querySelector("code").textContent])]"""
    )
    assert page.locator("#rows").is_visible()
    assert title
    assert lines
    file = folder_of_page / link
    assert file.is_file()
    for number, text in lines:
        if number is None:
            assert json.loads(text)["total_ns"] > 0  # a request, derived from a recording
        else:
            whole = file.read_text().splitlines()[int(number.removeprefix("line ").replace(",", "")) - 1]
            assert (
                whole.startswith(text.partition(" ... ")[0])
                if " ... " in text
                else json.loads(whole) == json.loads(text)
            )


def test_raw_rows_hide_nothing(opened):
    """A character that changes the writing direction is shown escaped; closing the dialog removes the fragment."""
    opened.follow(opened.page.locator("#wrong .raw").first)
    rows = opened.page.locator("#rows")
    assert "\\u202e" in rows.inner_text()
    assert "\u202e" not in rows.inner_text()
    rows.get_by_role("button", name="close").click()
    assert not rows.is_visible()
    opened.page.wait_for_function("location.hash === ''")  # the close event comes later
    assert opened.page.evaluate("location.hash") == ""


@pytest.mark.parametrize("opened", [("both", "light")], indirect=True)
def test_side_by_side(opened):
    """The button of a probe shows its quantities; a cell links to the checks of its probe and run."""
    matrix = opened.page.locator("#matrix")
    quantity = matrix.get_by_role("rowheader", name="SYN retransmissions").first
    assert not quantity.is_visible()
    matrix.get_by_role("button", name="quantities").first.click()
    assert quantity.is_visible()
    opened.follow(matrix.get_by_role("link", name="3 of 323 wrong"))
    assert set(opened.column("checks", "probe")) == {"duration"}
    assert set(opened.column("checks", "run")) == {"6.18.44, real clock"}
