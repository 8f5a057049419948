"""Who may ask, for what, and how much: keys, their limits, and what they have used."""
