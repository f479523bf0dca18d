"""Events, timelines and result folders made by hand, with the rows that must come of them."""
