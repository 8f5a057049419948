"""What the machine is: read-only facts from /proc, /sys, /dev and /etc.

Every function takes the `root` under which those trees hang, so that tests can hand in a recorded
machine. A fact that cannot be read is None, which means unknown; nothing here guesses or changes
anything. Only `sensors.py` remembers: it reads what may hang in threads of its own.
"""
