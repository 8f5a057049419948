"""llama-server's `timings`, from a sequence's usage."""

from __future__ import annotations

import json

from edge.openai import render
from edge.types import Usage


def test_drafts_are_told_where_there_were_any() -> None:
    """By llama-server's names, and left out as it leaves them out."""
    with_drafts = Usage(10, 0, 20, 0.1, 1.0, drafted_tokens=9, accepted_tokens=7)
    told = json.loads(render.encode(render.timings(with_drafts)))
    assert (told["draft_n"], told["draft_n_accepted"]) == (9, 7)
    without = json.loads(render.encode(render.timings(Usage(10, 0, 20, 0.1, 1.0))))
    assert "draft_n" not in without
    assert without["predicted_n"] == 20
