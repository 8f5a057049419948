"""Bundles: models, settings and wheels in one signed file, for machines without a network.

    make ──► archive (tar) ──► a stick ──► reader ──► install ──► modelstore (one journal)
      └─ manifest, keys ─────────────────────┘

What is refused, and why the file looks as it does: docs/bundles.md.
"""
