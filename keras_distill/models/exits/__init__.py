"""Models with exits: made, cut, run in a cascade, reported."""
