"""Text: tokens that two models share, and the readers of raw strings before a step."""
