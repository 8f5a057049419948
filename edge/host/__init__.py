"""What the machine is: read-only facts from /proc, /sys and /dev.

Every function takes the `root` under which those trees hang, so that tests can hand in a recorded
machine. A fact that cannot be read is None, which means unknown; nothing here guesses, caches or
changes anything.
"""
