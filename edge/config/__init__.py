"""The configuration's tree: every section and key with its type, bounds, default and meaning.

Frozen: made once at the start (`reader.py`) and passed on by section.
"""
