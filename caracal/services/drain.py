"""Whether this process is stopping. Set once, by ``run.serve``, in the event loop."""

from __future__ import annotations

import asyncio

draining = asyncio.Event()
"""``/ready`` answers 503 once it is set; what would never end by itself waits for it and ends."""
