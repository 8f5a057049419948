"""Jobs by the key that their caller gave them."""

from __future__ import annotations

from edge.store.database import Database


async def unfinished_with_key(database: Database, scopes: str, key: str) -> list[tuple[str, str]]:
    """(scope, job id) of the jobs with this idempotency key that have not ended.

    scopes: what the scopes begin with. Goes through all keys that are kept.
    """
    query = (
        "SELECT scope, id FROM idempotency JOIN jobs ON seq = job"
        " WHERE key = ? AND substr(scope, 1, length(?)) = ? AND finished IS NULL"
    )
    return await database.read(lambda c: c.execute(query, (key, scopes, scopes)).fetchall())
