"""Threads, no event loop: they read through the Gateway; who steals their mandate has nothing.

Set the CARACAL_* variables of docs/sdk.md, CARACAL_GATEWAY_URL and CARACAL_UPSTREAMS too, then:
python docs/examples/bound_to_a_key.py https://files.example/api
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import httpx

from caracal.client import SyncCaracal


def read(caracal: SyncCaracal, http: httpx.Client, url: str) -> str:
    """Read one document, as a helper that may read and nothing else."""
    with caracal.delegate_to_spawn(scopes=["read"], ttl_seconds=60) as (_, edge):
        answer = http.get(url, headers={"X-Caracal-Scope": "read"})
        return f"{answer.status_code} {answer.text}, by an edge for {' '.join(edge['scopes'])}"


def steal(token: str) -> str:
    """Use a mandate without the key that it is bound to."""
    resource = os.environ["CARACAL_UPSTREAMS"].partition("=")[2]
    headers = {"Authorization": f"Bearer {token}", "X-Caracal-Resource": resource}
    answer = httpx.get(os.environ["CARACAL_GATEWAY_URL"], headers=headers)
    return f"{answer.status_code} {answer.json()['error']}"


def main(base: str) -> None:
    with (
        SyncCaracal.from_env(dpop=True) as caracal,  # a key of this process
        caracal.http() as http,
        caracal.spawn(metadata={"task": "read"}),
        ThreadPoolExecutor() as pool,
    ):
        # A thread stands at no agent's place, unless it runs in a copy of the context.
        work = [
            pool.submit(copy_context().run, read, caracal, http, f"{base}/{name}.txt")
            for name in ("report", "figures")
        ]
        for each in work:
            print(each.result())
        print("stolen:", steal(caracal.tokens.token()))


if __name__ == "__main__":
    main(sys.argv[1])
