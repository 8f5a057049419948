"""What each route asks of whoever comes: the one place that says it, for all routes.

A route that is not here is there for nobody. Pure.
"""

from __future__ import annotations

from typing import Literal

Right = Literal["nothing", "key", "model", "own", "batch", "admin"]
"""nothing: no key. key: any. model: one that is for the model that is asked. own: any, which finds
its own alone. batch: one that is for the priority of that name. admin: one for administration."""

RIGHTS: dict[str, Right] = {
    # For whoever looks whether the appliance is alive.
    "/health": "nothing",
    "/health/ready": "nothing",
    "/v2/health/live": "nothing",
    "/v2/health/ready": "nothing",
    "/openapi.json": "key",
    "/v1/models": "key",
    "/v1/models/": "key",
    "/v1/usage": "key",
    "/v2": "key",
    "/v2/repository/": "key",
    "/v1/chat/completions": "model",
    "/v1/completions": "model",
    "/v1/responses": "model",
    "/v1/embeddings": "model",
    "/v1/rerank": "model",
    "/v1/vision/": "model",
    "/v1/chains/": "model",
    "/v2/models/": "model",
    "/v1/responses/": "own",
    "/v1/files": "own",
    "/v1/files/": "own",
    "POST /v1/batches": "batch",
    "/v1/batches": "own",
    "/v1/batches/": "own",
    "/metrics": "admin",
    "/admin/": "admin",
}
"""With a slash at its end an entry is for all that is below it. The longest one counts, and one
with a method before those without."""


def right_of(method: str, path: str) -> Right | None:
    """None for what is not declared."""
    found = RIGHTS.get(f"{method} {path}") or RIGHTS.get(path)
    while found is None and path:
        path = path[: path.rstrip("/").rfind("/") + 1]
        found = RIGHTS.get(path)
    return found
