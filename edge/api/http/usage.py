"""The route by which a key learns what it has used."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from edge.api.http.doorman import visitor_of
from edge.store.usage import DayUsage


def usage_routes() -> APIRouter:
    router = APIRouter()

    @router.get("/v1/usage", tags=["models"])
    async def usage(http: Request) -> JSONResponse:
        """What the caller's key has used on this day (UTC) and on the 31 before, and its limits."""
        visitor = visitor_of(http)
        days = await visitor.days()
        account, key = visitor.account, visitor.key
        return JSONResponse(
            {
                "object": "usage",
                "key": visitor.name,
                "day": account.day,
                "requests": account.requests,
                "running": account.running,
                "prompt_tokens": account.prompt_tokens,
                "completion_tokens": account.completion_tokens,
                "energy_joules": account.energy_joules,
                "limits": None if key is None else msgspec.to_builtins(key.quota),
                "days": [_day(day) for day in days],
            }
        )

    return router


def _day(used: DayUsage) -> dict[str, Any]:
    return {
        "day": used.day,
        "requests": used.requests,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "energy_joules": used.energy_joules,
    }
