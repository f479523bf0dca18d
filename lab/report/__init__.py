"""Results as people read them: the HTML page, and the timeline of one request."""
