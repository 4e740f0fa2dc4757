"""Mandates and governed calls, over HTTP, against the whole product."""

from __future__ import annotations

from bench.report import Row, Value, at_least, at_most
from bench.setting import Measured, Setting

_CALL = "load → gateway → STS over HTTP → gateway → tiny upstream; policy, mint, audit acked"


async def exchange(setting: Setting) -> Row:
    """A mandate of one call for an ambient token and the application's secret."""
    text = setting.world.exchange(setting.world.ambient())
    done = await setting.load("sts", text, connections=8, seconds=setting.seconds(8))
    return done.row(
        "Per-call exchange, c=8",
        "load → STS: client secret, policy, audit acknowledged, mandate signed",
        at_least("rate", done.load.rate, "/s", 1_200),
        *_latencies(done),
    )


async def governed(setting: Setting) -> Row:
    """Sixteen callers, each as fast as it is answered."""
    done = await _governed(setting, 16, 10)
    return done.row(
        "Governed call, c=16",
        _CALL,
        at_least("rate", done.load.rate, "/s", 600),
        Value("p50", done.load.p50, "ms"),
        at_most("p99", done.load.p99, "ms", 50),
    )


async def governed_alone(setting: Setting) -> Row:
    """One caller."""
    done = await _governed(setting, 1, 5)
    return done.row(
        "Governed call, c=1",
        _CALL,
        at_most("p50", done.load.p50, "ms", 4),
        Value("p99", done.load.p99, "ms"),
    )


async def governed_steady(setting: Setting) -> Row:
    """Half of what is possible, at a fixed rate: latency without a queue of our own making."""
    setting.say("looking for the rate")
    possible = await _governed(setting, 16, 3)
    done = await _governed(setting, 64, 8, rate=possible.load.rate / 2)
    return done.row(
        f"Governed call, {possible.load.rate / 2:.0f}/s",
        f"{_CALL}; due at fixed times, late ones count from when they were due",
        Value("rate", done.load.rate, "/s"),
        *_latencies(done),
        Value("longest", done.load.longest, "ms"),
    )


async def _governed(
    setting: Setting, connections: int, seconds: float, rate: float | None = None
) -> Measured:
    text = setting.world.governed(setting.world.ambient())
    seconds = setting.seconds(seconds)
    return await setting.load("gateway", text, connections=connections, seconds=seconds, rate=rate)


def _latencies(done: Measured) -> list[Value]:
    return [Value("p50", done.load.p50, "ms"), Value("p99", done.load.p99, "ms")]
