"""Write docs/report.png, the picture of the README: the head of the report of a demo, as a browser shows it.

Run it as root: `.venv/bin/python docs/pictures.py`; with `--of REPORT` it takes the picture of a report that is there.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
WIDTH, HEIGHT = 1100, 870
BROWSERS = ("/usr/bin/chromium", "/usr/bin/google-chrome")


def main() -> None:
    """Hold a demo, write its report, and take a picture of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", type=Path, metavar="REPORT", help="a report (HTML)")
    with tempfile.TemporaryDirectory() as folder:
        report = parser.parse_args().of or demo(Path(folder))
        take(report.absolute(), DOCS / "report.png")


def demo(folder: Path) -> Path:
    """Return the report of a demo."""
    environment = os.environ | {"LAB_RESULTS": str(folder)}
    subprocess.run([sys.executable, "-P", "-m", "lab", "demo"], check=True, stdout=subprocess.DEVNULL, env=environment)
    return folder / "latest" / "report.html"


def take(page: Path, picture: Path) -> None:
    """Write what a browser shows of a page, at the top."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(filter(os.path.exists, BROWSERS), None), args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        tab.goto(page.as_uri())
        tab.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
