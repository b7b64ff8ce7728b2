"""Models with exits: adds them, cuts at them, stops at them and reports on them."""
