"""Cuts students from their teachers."""
