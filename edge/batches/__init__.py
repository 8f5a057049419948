"""Batches: files of requests that become jobs, and jobs whose answers become files.

`lines.py` turns a line into a job and its outcome into a line; `batcher.py` is the loop.
"""
