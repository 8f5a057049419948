"""Answers that are used again."""
