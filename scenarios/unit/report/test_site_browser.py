"""The site in a browser, offline: wide and narrow, light and dark; opening evidence, choosing a kind, and without JavaScript."""

import json
from urllib.parse import urlparse

import pytest
from support.browser import contrast
from support.made.judged_run import judged, judged_run, product
from support.made.run_folder import HOSTILE, folder, measurements

from lab.cli import main

SCREENS = {
    f"{width}-{scheme}": {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    for width in (1280, 400)
    for scheme in ("light", "dark")
}

SHOWN = """[...document.querySelectorAll(".verdicts thead a, .verdicts tbody th > a")]
    .filter((it) => it.offsetParent).map((it) => it.textContent)"""
"""The cases and tools in the tables that are not hidden."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Write a site of many cases, two kernels, hostile names and costs, after another with other verdicts."""
    place = tmp_path_factory.mktemp("results")
    states = dict.fromkeys((f"S{number}" for number in range(1, 8)), "wrong") | {"N1": "right"}
    flows = dict.fromkeys((f"F{number}" for number in range(1, 6)), "right") | {"N1": "changed the traffic"}
    for name, verdict in (("before", "right"), ("after", "missing")):
        run = judged_run(
            place / name,
            judged(product(), states | {"S3": verdict}, output="row\n" * 100_000),
            judged(product(tool="tcptop", attach="kprobe:tcp_sendmsg"), flows, kinds=("flows",)),
            judged(product(tool=HOSTILE[:50], version=HOSTILE), {"F1": "crashed", HOSTILE: "wrong"}, kinds=("flows",),
                   why=HOSTILE, log=HOSTILE * 50),
            judged(product(kernel="5.10.0-33-amd64"), {"S1": "cannot run"}, why="needs BTF"),
            commit="a" * 40,
        )  # fmt: skip
        bench = folder(place / f"bench-{name}", measurements=measurements())
        assert main(["site", str(run), str(bench), "-o", str(place / "site")]) == 0
    return place / "site"


@pytest.fixture(params=SCREENS)
def page(browser, site, request):
    """Open the index; after the test, no page has sent a message or a request to elsewhere."""
    context = browser.new_context(offline=True, **SCREENS[request.param])
    messages, requested = [], []
    page = context.new_page()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(f"file://{site}/index.html")
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert messages == []
    assert all(urlparse(url)[:2] == ("file", "") and urlparse(url).path.startswith(f"{site}/") for url in requested)


def require_fit(page):
    """Fail if the page scrolls sideways; tables and outputs scroll in their own boxes."""
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]


def test_a_cell_opens_its_evidence(page, site):
    """A click on a verdict shows the case on the tool's page: interval, value, row, and the record with a file to download."""
    require_fit(page)
    row = page.locator("#kernel-1 tr, #kernel-2 tr", has_text="tcpstates 1.0").filter(has_text="missing")
    row.get_by_role("link", name="missing").click()
    page.wait_for_selector("body[data-ready]")
    require_fit(page)
    case = page.locator("#case-S3")
    assert case.evaluate("(place) => place.matches(':target')")
    assert case.locator("h2").inner_text() == "S3: ✗ missing"
    for words in (
        "20.000 ms .. 21.000 ms",
        "22.000 ms",
        "SYN_SENT -> ESTABLISHED 22.000",
        "timestamps around the calls",
    ):
        assert case.get_by_text(words).first.is_visible(), words
    case.get_by_role("link", name="ordinary-4").click()
    record = page.locator("#record-1")
    record.locator("summary", has_text="What the tool printed").click()
    assert record.locator("pre").first.inner_text().startswith("row\nrow\n")
    require_fit(page)
    file = record.get_by_role("link", name="evidence-").first.get_attribute("href")
    assert json.loads((site / file).read_text())["printed"]["output"] == "row\n" * 100_000


def test_right_values_unfold(page):
    """The link to a right case opens its values, which are folded otherwise."""
    page.get_by_role("link", name="right").first.click()
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".case:target details .values").first.is_visible()
    assert page.locator(".case:not(:target) > details[open]").count() == 0
    require_fit(page)


def test_choose_a_kind(page):
    """Only the tools of a kind and the cases of that kind stay, and a kernel without such tools goes."""
    whole = page.evaluate(SHOWN)
    page.get_by_label("kind of numbers").select_option("flows")
    found = page.evaluate(SHOWN)
    assert {"F1", "F5", "N1", "tcptop 1.0"} <= set(found)
    assert not {"S1", "S7", "tcpstates 1.0"} & set(found)
    assert page.locator(".choices output").inner_text() == "2 lines"
    assert page.locator(".verdicts").filter(visible=True).count() == 1
    require_fit(page)
    page.get_by_label("kind of numbers").select_option("all")
    assert page.evaluate(SHOWN) == whole


def test_readable(page):
    """Every colour of a verdict, links and muted text have the contrast that WCAG requires (4.5 to 1)."""
    for selector in (".right", ".wrong", ".lost", ".muted", "section a", "h2"):
        assert contrast(page, f"main {selector}", "section") >= 4.5, selector
    assert contrast(page, "footer p", "body") >= 4.5


def test_every_page_fits(page, site):
    """No page scrolls sideways or runs a script of a result, also with everything unfolded."""
    for path in sorted(site.glob("*.html")):
        page.goto(f"file://{path}")
        page.wait_for_selector("body[data-ready]")
        page.evaluate("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
        require_fit(page)
        assert page.locator("img").count() == 0


def test_without_javascript(browser, site):
    """All verdicts and all evidence are there; the filter, which would do nothing, is not."""
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{site}/index.html")
    assert not page.locator(".choices").is_visible()
    page.get_by_role("link", name="changed the traffic").first.click()
    page.wait_for_url("**/tool-tcptop*")
    assert page.locator("#case-N1 .values").first.is_visible()
    context.close()
