"""Mandates and governed calls, over HTTP, against the whole product."""

from __future__ import annotations

import time

from bench.load import percentile
from bench.report import Row, Value, at_least, at_most
from bench.setting import Measured, Setting
from bench.world import RESOURCE
from caracal.client.verify import Verifier

_EXCHANGE = "load → STS: client secret, policy, audit acknowledged, mandate signed"
_CALL = "load → gateway → STS over HTTP → gateway → tiny upstream; policy, mint, audit acked"


async def exchange(setting: Setting) -> Row:
    """Mandates of one call for an ambient token and the application's secret, eight callers."""
    done = await _exchanged(setting, 8)
    return done.row("Per-call exchange, c=8", _EXCHANGE, _rate(done, 1_200), *_latencies(done))


async def exchange_alone(setting: Setting) -> Row:
    """One caller."""
    done = await _exchanged(setting, 1)
    return done.row("Per-call exchange, c=1", _EXCHANGE, _rate(done), *_latencies(done))


async def exchange_many(setting: Setting) -> Row:
    """Thirty-two callers."""
    done = await _exchanged(setting, 32)
    return done.row("Per-call exchange, c=32", _EXCHANGE, _rate(done), *_latencies(done))


async def ambient(setting: Setting) -> Row:
    """Ambient mandates: each is a session in the log, answered when its read model has it."""
    text = setting.world.ambient_request()
    done = await setting.load("sts", text, connections=8, seconds=setting.seconds(8))
    return done.row(
        "Ambient exchange, c=8",
        "load → STS: client secret, policy, audit acknowledged, session committed and projected",
        _rate(done),
        *_latencies(done),
    )


async def verification(setting: Setting) -> Row:
    """A mandate as an upstream verifies it: signature, claims, audience; keys are cached."""
    world, micros = setting.world, list[float]()
    token = world.mandate(world.ambient())
    verifier = Verifier(
        issuer=world.urls["issuer_url"],
        audience=RESOURCE,
        zone_id=world.zone_id,
        revocations=None,
        sts_url=world.urls["sts_url"],
    )
    await verifier.verify(token, "read")
    until = time.perf_counter() + setting.seconds(4)
    while (began := time.perf_counter()) < until:
        await verifier.verify(token, "read")
        micros.append((time.perf_counter() - began) * 1e6)
    await verifier.aclose()
    micros.sort()
    return Row(
        "Verification of a mandate, one after the other",
        "bench process: caracal.client.Verifier without a look at revocations",
        [
            Value("rate", len(micros) / setting.seconds(4), "/s"),
            Value("p50", percentile(micros, 0.5), "µs"),
            Value("p99", percentile(micros, 0.99), "µs"),
        ],
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


async def _exchanged(setting: Setting, connections: int) -> Measured:
    text = setting.world.exchange(setting.world.ambient())
    return await setting.load("sts", text, connections=connections, seconds=setting.seconds(8))


def _rate(done: Measured, bar: float | None = None) -> Value:
    return Value("rate", done.load.rate, "/s", bar, "at least")
