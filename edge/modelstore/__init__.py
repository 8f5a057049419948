"""The models on disk: what there is to fetch, fetching it, checking it, keeping it.

One directory holds the models; `ModelStore` is the only writer of it. Nothing in here loads a
model: a file is checked as plain bytes before llama.cpp ever sees it.
"""
