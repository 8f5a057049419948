"""Cloud models: OpenAI-compatible servers somewhere on the network, one owner for each.

`upstream.py` is what the policy above asks; it knows when a server may be asked at all
(`breaker.py`, `probe.py`) and turns one request into HTTP calls (`attempt.py`, `call.py`).
"""
