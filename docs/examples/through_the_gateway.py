"""An agent calls an upstream by its own URL; the call goes through the Gateway.

Set the CARACAL_* variables of docs/sdk.md, CARACAL_GATEWAY_URL and CARACAL_UPSTREAMS too, then:
python docs/examples/through_the_gateway.py https://files.example/api/report.txt
"""

from __future__ import annotations

import asyncio
import sys

from caracal.client import Caracal


async def main(url: str) -> None:
    async with Caracal.from_env() as caracal, caracal.http() as http, caracal.spawn():
        answer = await http.get(url, headers={"X-Caracal-Scope": "read"})
        print(answer.status_code, answer.text)
        answer = await http.get(url, headers={"X-Caracal-Scope": "write"})
        print(answer.status_code, answer.json()["error"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
