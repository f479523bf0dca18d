"""A browser for the tests of pages."""

import pytest
from support.browser import chromium


# Playwright leaves an asyncio loop running in this thread, which pyroute2 then takes for its own and fails. So the browser
# must end with its module, before a test of another folder builds a network in the same worker.
@pytest.fixture(scope="module")
def browser():
    """Start the browser."""
    with chromium() as browser:
        yield browser
