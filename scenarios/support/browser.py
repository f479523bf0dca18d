"""A browser for pages of the lab, and how readable its colours are."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the distribution's browser if it is installed, otherwise Playwright's."""
    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


def contrast(page: Page, text: str, behind: str) -> float:
    """Return the contrast (WCAG) of the text of one selector to the background of another."""
    ink, paper = luminance(page, text, "color"), luminance(page, behind, "backgroundColor")
    return (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)


def luminance(page: Page, selector: str, name: str) -> float:
    """Return the relative luminance (WCAG) of a colour of the first element of a selector."""
    colour = page.evaluate(
        "([selector, name]) => getComputedStyle(document.querySelector(selector))[name]", [selector, name]
    )
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(", ")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
