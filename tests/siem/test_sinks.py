"""Each sink against a real receiver: what it gets, and what is said when it does not take it."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caracal import clock
from caracal.services.siem.lines import Lines
from caracal.services.siem.record import Record
from caracal.services.siem.sink import Away, Refused
from caracal.services.siem.syslog import Syslog, message
from caracal.services.siem.webhook import Webhook, judge, seconds_of
from tests.backbone import eventually
from tests.siem.receiver import HOST, Receiver, SyslogReceiver, trusting

AT = datetime(2026, 5, 11, 20, 0, 1, 123456, tzinfo=UTC)


def record(name: str, *, denied: bool = False) -> Record:
    body = json.dumps({"metadata": {"uid": name}, "text": "é"}, ensure_ascii=False).encode()
    return Record(name, AT, "token_exchange", denied, body)


# --- HTTPS ---------------------------------------------------------------------------------


def webhook(receiver: Receiver, form: str = "jsonl", timeout: float = 5) -> Webhook:
    tls = trusting(receiver.folder)
    return Webhook(receiver.url, token="t0ken", form=form, timeout=timeout, tls=tls)


async def test_lines_with_a_bearer(receiver: Receiver) -> None:
    sink = webhook(receiver)
    await sink.send([record("a"), record("b")])
    await sink.close()
    headers, body = receiver.calls[0]
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["Content-Type"] == "application/x-ndjson"
    assert body == record("a").body + b"\n" + record("b").body + b"\n"


async def test_the_event_collector_of_splunk(receiver: Receiver) -> None:
    sink = webhook(receiver, "hec")
    receiver.answer = lambda body: (200, {})
    await sink.send([record("a"), record("b")])
    await sink.close()
    headers, body = receiver.calls[0]
    assert headers["Authorization"] == "Splunk t0ken"
    events = [json.loads(line) for line in body.split(b"\n")]
    assert [event["event"]["metadata"]["uid"] for event in events] == ["a", "b"]
    assert events[0]["time"] == 1778529601.123
    assert events[0]["sourcetype"] == "caracal:ocsf"


@pytest.mark.parametrize("status", [400, 406, 409, 413, 415, 422])
async def test_what_is_about_the_records(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda body: (status, {})
    sink = webhook(receiver)
    with pytest.raises(Refused, match=f"sink_refused:{status}"):
        await sink.send([record("a")])
    await sink.close()


@pytest.mark.parametrize("status", [302, 307, 401, 403, 404, 405, 408, 429, 500, 502, 503, 504])
async def test_what_is_about_the_call_or_the_sink(receiver: Receiver, status: int) -> None:
    """A token that has expired, or a wrong URL, must not use up the records; nor a redirect."""
    location = receiver.url.replace("/in", "/elsewhere")
    receiver.answer = lambda body: (status, {"Retry-After": "7", "Location": location})
    sink = webhook(receiver)
    with pytest.raises(Away, match=f"status {status}") as caught:
        await sink.send([record("a")])
    await sink.close()
    assert caught.value.retry_after == 7
    assert len(receiver.calls) == 1


async def test_a_certificate_of_somebody_else(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Receiver(tmp_path / "other")
    sink = Webhook(receiver.url, token="t0ken", form="jsonl", timeout=5, tls=trusting(other.folder))
    with pytest.raises(Away, match=r"ConnectError: .+"):
        await sink.send([record("a")])
    await sink.close()
    assert receiver.calls == []


async def test_nobody_listens_or_answers(receiver: Receiver) -> None:
    sink = webhook(receiver, timeout=0.2)
    never = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await never.wait()
        writer.close()

    server = await asyncio.start_server(silent, HOST, 0)
    slow = Webhook(
        f"http://{HOST}:{server.sockets[0].getsockname()[1]}/in",
        token="",
        form="jsonl",
        timeout=0.2,
        tls=trusting(receiver.folder),
    )
    with pytest.raises(Away, match="Timeout"):
        await slow.send([record("a")])
    await receiver.stop()
    with pytest.raises(Away):
        await sink.send([record("a")])
    never.set()
    server.close()
    await slow.close()
    await sink.close()


def test_how_long_to_wait() -> None:
    soon = email.utils.format_datetime(clock.now() + timedelta(seconds=90), usegmt=True)
    assert 60 < seconds_of(soon) <= 90
    far = email.utils.format_datetime(clock.now() + timedelta(days=9), usegmt=True)
    assert [seconds_of(text) for text in ("7", " 7 ", far, "9" * 400)] == [7, 7, 300, 300]
    past = email.utils.format_datetime(clock.now() - timedelta(days=9), usegmt=True)
    assert [seconds_of(text) for text in (past, "", "-5", "soon", "\u0667", "1.5")] == [0] * 6
    beyond = [
        f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT",
        f"Mon, 01 Jan 2026 {'9' * 20}:00:00 GMT",
        f"Mon, 01 Jan 2026 00:00:00 +{'9' * 20}",
    ]
    assert [seconds_of(text) for text in beyond] == [0] * 3
    judge(204)


# --- syslog --------------------------------------------------------------------------------

_FORM = re.compile(
    rb"<(\d+)>1 (2026-05-11T20:00:01\.123456Z) (\S{1,255}) caracal (\d+) (\S{1,32}) - (.*)",
    re.DOTALL,
)


def to_syslog(syslog: SyslogReceiver, timeout: float = 5) -> Syslog:
    return Syslog(HOST, syslog.port, timeout=timeout, tls=trusting(syslog.folder))


async def received(syslog: SyslogReceiver, count: int) -> None:
    async def there() -> bool:
        return len(syslog.messages) >= count

    await eventually(there, what=f"{count} messages")


async def test_frames_of_rfc_5425(syslog: SyslogReceiver) -> None:
    sink = to_syslog(syslog)
    await sink.send([record("a"), record("b", denied=True)])
    await sink.send([record("c")])
    await received(syslog, 3)
    await sink.close()
    found = [_FORM.fullmatch(text) for text in syslog.messages]
    assert all(found)
    priorities = [int(one[1]) for one in found if one]
    assert priorities == [13 * 8 + 6, 13 * 8 + 4, 13 * 8 + 6]
    assert [one[6] for one in found if one] == [record(name).body for name in "abc"]
    assert syslog.connections == 1


async def test_a_receiver_that_has_gone_is_noticed(syslog: SyslogReceiver) -> None:
    sink = to_syslog(syslog)
    await sink.send([record("a")])
    await received(syslog, 1)
    syslog.hang_up()

    async def sent_again() -> bool:
        try:
            await sink.send([record("b")])
        except Away:
            return False
        return True

    await eventually(sent_again)
    await received(syslog, 2)
    assert syslog.connections == 2
    sink.reopen()
    await sink.send([record("b")])
    await received(syslog, 3)
    assert syslog.connections == 3
    await syslog.stop()
    sink.reopen()
    with pytest.raises(Away):
        await sink.send([record("c")])
    await sink.close()


async def test_a_receiver_that_does_not_read(syslog: SyslogReceiver) -> None:
    """Its kernel takes what it can hold; what it cannot is not handed over."""
    syslog.deaf.set()
    sink = to_syslog(syslog, timeout=0.5)
    long = Record("a", AT, "token_exchange", False, b"x" * 20_000_000)
    with pytest.raises(Away, match="TimeoutError"):
        await sink.send([long])
    await sink.close()


async def test_no_receiver_we_trust(syslog: SyslogReceiver, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = SyslogReceiver(tmp_path / "other")
    sink = Syslog(HOST, syslog.port, timeout=5, tls=trusting(other.folder))
    with pytest.raises(Away, match="SSL"):
        await sink.send([record("a")])
    await sink.close()
    assert syslog.messages == []


def test_a_name_that_does_not_fit_is_made_to() -> None:
    odd = Record("a", AT, "x y\n" * 20, False, b"{}")
    frame = message(odd, "höst", 1)
    size, _, line = frame.partition(b" ")
    assert int(size) == len(line)
    assert b" h_st caracal 1 x_y_x_y_x_y_x_y_x_y_x_y_x_y_x_y_ - {}" in line


# --- files ---------------------------------------------------------------------------------


def names(file: Path) -> list[str]:
    return [json.loads(line)["metadata"]["uid"] for line in file.read_text().splitlines()]


async def test_lines_in_a_file_that_is_moved_aside(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    sink = Lines(file)
    await sink.send([record("a"), record("b")])
    assert stat.S_IMODE(file.stat().st_mode) & 0o007 == 0
    file.rename(tmp_path / "out.jsonl.1")
    await sink.send([record("c")])
    file.unlink()
    await sink.send([record("d")])
    sink.reopen()
    await sink.send([record("e")])
    await sink.close()
    assert names(tmp_path / "out.jsonl.1") == ["a", "b"]
    assert names(file) == ["d", "e"]


async def test_the_folder_of_the_file_is_made(tmp_path: Path) -> None:
    file = tmp_path / "not" / "there" / "out.jsonl"
    sink = Lines(file)
    await sink.send([record("a")])
    await sink.close()
    assert names(file) == ["a"]


async def test_a_line_that_was_cut_off_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_bytes(record("a").body + b"\n" + record("b").body[:9])
    sink = Lines(file)
    await sink.send([record("b")])
    await sink.close()
    lines = file.read_bytes().splitlines()
    assert lines == [record("a").body, record("b").body[:9], record("b").body]


async def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sink = Lines(tmp_path / "file" / "out.jsonl")
    with pytest.raises(Away, match=r"Error: .+"):  # what it is, not only its class
        await sink.send([record("a")])
    full = Lines(Path("/dev/full"))
    with pytest.raises(Away, match="OSError: No space left on device"):
        await full.send([record("a")])
    await sink.close()
    await full.close()


async def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    sink = Lines(None)
    await sink.send([record("a")])
    await sink.close()
    assert capfd.readouterr().out == record("a").body.decode() + "\n"
    assert os.fstat(1)
