"""The durable ledger: what was acknowledged is in one of its SQLite files.

`database.py` knows SQLite and nothing of jobs: one writer thread for each file, transactions that
share a sync, damaged files set aside. `jobs.py` and `deliveries.py` know jobs and nothing of
threads. `schema.py` is what is in the file.
"""
