"""Students cut from their teachers."""
