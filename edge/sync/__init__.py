"""Finished work, as headquarters hears of it."""
