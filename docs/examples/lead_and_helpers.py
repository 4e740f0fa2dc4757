"""A lead agent gives its helpers narrower authority than its own; all of them end with it.

Set the CARACAL_* variables of docs/sdk.md, then: python docs/examples/lead_and_helpers.py
"""

from __future__ import annotations

import asyncio

from caracal.client import Caracal


async def helper(caracal: Caracal, topic: str) -> None:
    """Do one part of the work, with no more than it needs."""
    async with caracal.delegate_to_spawn(
        scopes=["read"], ttl_seconds=60, metadata={"topic": topic}
    ) as (agent, edge):
        print(f"{topic}: {agent['id']} may {' '.join(edge['scopes'])} until {edge['expires_at']}")


async def main() -> None:
    async with Caracal.from_env() as caracal:
        async with caracal.spawn(metadata={"task": "report"}) as lead:
            print(f"lead: {lead['id']}")
            async with asyncio.TaskGroup() as helpers:
                for topic in ("sources", "figures"):
                    helpers.create_task(helper(caracal, topic))
        print("ended: the lead, and what it had spawned")


if __name__ == "__main__":
    asyncio.run(main())
