"""Durable requests between the doors and the ledger: taken in, claimed in their turn, answered,
listened to."""
