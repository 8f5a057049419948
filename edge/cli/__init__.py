"""The terminal door: parses, calls and prints. What a command knows, another package found out.

`main.py` is where it starts; each command has a file of its own name, read only when it is used.
"""
