"""The load generator behind `edge bench`: questions, clients, measurements and how they are shown.

A client like any other: it knows OpenAI's API, and of the daemon only what HTTP shows. Nothing in
here is imported by the daemon.
"""
