"""Results for readers: the HTML report, and the timeline of one request or of a wrong number."""
