"""A browser for the tests of pages."""

import pytest
from support.browser import chromium


@pytest.fixture(scope="package")
def browser():
    """Start the browser."""
    with chromium() as browser:
        yield browser
