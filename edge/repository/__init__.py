"""Model folders on disk: what lies where, and what their two kinds of configuration say."""
