"""Text: tokens that two models share, and what reads raw strings before a step."""
