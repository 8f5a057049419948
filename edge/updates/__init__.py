"""Updates of the software itself: a signed bundle, from a server or a stick, to the other slot.

    signature ─► fit ─► room ─► fetch and check, file by file ─► its installer: trial, or back
                                  │ cut: goes on from there        └─ record: told by status and log

Whoever may sign software is root on the machine, so it has keys of its own: docs/security.md. The
slots are folders of /opt/edge, one for each version; scripts/install.sh fills them and goes over.
"""
