"""The core without I/O: its flows, fed by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal import clock
from caracal.client import AdminApiError, AdminTransportError
from caracal.client.answer import Answer, Failed, Outcome
from caracal.client.call import Call, api, listing
from caracal.client.core import Attempt, Core, Flow
from caracal.client.options import Options
from caracal.client.retry import backoff, retry_after
from caracal.errors import CaracalError

ZONES = api("GET", "zones")
OK = Answer(200, "OK", {}, b"{}")
REFUSED = Failed(ConnectionRefusedError("refused"), timed_out=False)
LATE = Failed(TimeoutError("late"), timed_out=True)


def core(chance: float = 0.0, **options: Any) -> Core:
    return Core(Options("http://api", "t", **options), chance=lambda: chance)


def status(number: int, **headers: str) -> Answer:
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return Answer(number, "Reason", named, b"{}")


def feed(flow: Flow[Any], outcomes: Iterable[Outcome]) -> tuple[list[Attempt], Any]:
    """Drive a flow with these outcomes; return its attempts and what came of it."""
    attempts = [next(flow)]
    try:
        for outcome in outcomes:
            attempt = flow.send(outcome)
            attempts.append(attempt)
    except StopIteration as end:
        return attempts, end.value
    except CaracalError as error:
        return attempts, error
    raise AssertionError(f"the flow goes on after {len(attempts)} attempts")


def delays(outcomes: Iterable[Outcome], chance: float = 0.0, **options: Any) -> list[float]:
    attempts, _ = feed(core(chance, **options).answer(ZONES), outcomes)
    return [attempt.after for attempt in attempts]


# --- retries ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [408, 425, 429, 500, 501, 502, 503, 504, 599])
def test_what_may_help_is_tried_again(number: int) -> None:
    attempts, result = feed(core().answer(ZONES), [status(number), OK])
    assert (len(attempts), result) == (2, {})


@pytest.mark.parametrize("number", [301, 307, 400, 401, 403, 404, 409, 413, 422, 424, 426, 600])
def test_everything_else_fails_at_once(number: int) -> None:
    attempts, error = feed(core().answer(ZONES), [status(number, Retry_After="1")])
    assert len(attempts) == 1
    assert isinstance(error, AdminApiError)
    assert error.status == number


@pytest.mark.parametrize("outcome", [status(503), REFUSED, LATE])
def test_at_most_retries_plus_one_requests(outcome: Outcome) -> None:
    for retries in (0, 1, 3):
        attempts, error = feed(core(retries=retries).answer(ZONES), [outcome] * (retries + 1))
        assert len(attempts) == retries + 1
        assert isinstance(error, AdminApiError | AdminTransportError)


def test_the_last_outcome_is_the_one_reported() -> None:
    _, error = feed(core(retries=1).answer(ZONES), [REFUSED, status(503)])
    assert (type(error), error.status) == (AdminApiError, 503)
    _, error = feed(core(retries=1).answer(ZONES), [status(503), LATE])
    assert (error.code, error.__cause__) == ("admin_request_timeout", LATE.error)
    _, error = feed(core(retries=0).answer(ZONES), [REFUSED])
    assert (error.code, error.__cause__) == ("admin_request_failed", REFUSED.error)


def test_the_delays_without_and_with_most_chance() -> None:
    outcomes = [REFUSED] * 8
    least = [0, 0.125, 0.25, 0.5, 1, 2, 2.5, 2.5]
    assert delays(outcomes, 0.0, retries=7) == least
    most = delays(outcomes, 1.0, retries=7)
    assert most == [2 * delay for delay in least]


@given(attempt=st.integers(0, 5000), chance=st.floats(0, 1, exclude_max=True))
def test_every_delay_is_within_its_bounds(attempt: int, chance: float) -> None:
    base = min(0.25 * 2 ** min(attempt, 20), 5.0)
    assert base / 2 <= backoff(attempt, lambda: chance) <= base


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("2", 2),
        (" 2 ", 2),
        ("0", 0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("2.", 2),
        ("-3", 0),
        ("-0.1", 0),
        ("30", 30),
        ("31", 30),
        ("9" * 20, 30),
        *((text, 0.125) for text in ("", "soon", "1e3", "0x10", "nan", "inf", "1_0", "1,5", "٣")),
        *((text, 0.125) for text in ("9" * 21, "1, 2", "Mon", "Mon, 99 Foo 2026 99:99:99 GMT")),
        *((text, 0.125) for text in ("2026-01-01T00:00:00Z", "Mon, 01 Jan 99999999 00:00:00 GMT")),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Sun Nov  6 08:49:37 1994", 0),
        ("Fri, 31 Dec 2299 23:59:59 GMT", 30),
    ],
)
def test_retry_after_takes_the_place_of_the_delay(text: str, delay: float) -> None:
    assert delays([status(429, Retry_After=text), OK]) == [0, delay]


def test_retry_after_as_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
    monkeypatch.setattr(clock, "now", lambda: now)
    for seconds, delay in ((7, 7), (-7, 0), (90, 30)):
        date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
        assert delays([status(503, Retry_After=date), OK]) == [0, delay]


def test_retry_after_of_what_is_not_tried_again_and_of_no_answer() -> None:
    assert delays([status(400, Retry_After="9")]) == [0]
    assert delays([status(503, Retry_After="9"), LATE, OK]) == [0, 9, 0.25]


@given(st.text(max_size=80) | st.from_regex(r"[+-]?[0-9]{0,30}\.?[0-9]{0,30}"))
def test_no_retry_after_breaks_or_holds_up_the_client(text: str) -> None:
    (_, delay) = delays([status(503, Retry_After=text), OK])
    assert 0 <= delay <= 30


@given(st.integers(0, 7_000_000_000))
def test_every_date_of_the_standard_is_read(seconds: int) -> None:
    moment = datetime.fromtimestamp(seconds, UTC)
    text = format_datetime(moment, usegmt=True)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after(text, now) == min(max((moment - now).total_seconds(), 0), 30)


def test_methods_that_are_not_to_be_repeated() -> None:
    post = api("POST", "zones", body={})
    for outcome in (status(503), REFUSED):
        attempts, _ = feed(core(retry_methods={"get", "DELETE"}).answer(post), [outcome])
        assert len(attempts) == 1
        attempts, _ = feed(core(retry_methods={"get"}).answer(ZONES), [outcome, OK])
        assert len(attempts) == 2


# --- consistency --------------------------------------------------------------------------


def pending(position: str) -> Answer:
    headers = {"caracal-position": position, "caracal-consistency": "pending"}
    return Answer(201, "Created", headers, b"{}")


def asked(one: Core, call: Call[Any] = ZONES) -> str | None:
    attempts, _ = feed(one.answer(call), [OK])
    return attempts[0].headers.get("Caracal-Min-Position")


def test_reads_after_a_pending_answer_wait_for_its_position() -> None:
    one, post = core(), api("POST", "zones", body={})
    assert asked(one) is None
    feed(one.answer(post), [Answer(201, "Created", {"caracal-position": "5"}, b"{}")])
    assert (one.last_position, asked(one)) == (5, None)
    feed(one.answer(post), [pending("9")])
    feed(one.answer(post), [pending("7")])
    assert (one.last_position, asked(one)) == (7, "9")
    assert asked(one, post) is None
    for text in ("", "-1", "1.5", "x", "٣", "9" * 40):
        feed(one.answer(post), [pending(text)])
    assert (one.last_position, asked(one)) == (7, "9")


def test_a_refusal_teaches_too() -> None:
    one = core(retries=0)
    headers = {"x-request-id": "r1", "caracal-position": "12", "caracal-consistency": "Pending"}
    _, error = feed(one.answer(ZONES), [Answer(409, "Conflict", headers, b"{}")])
    assert (error.request_id, error.position) == ("r1", 12)
    assert (one.last_request_id, one.last_position, asked(one)) == ("r1", 12, "12")


# --- what an answer says ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "body", "code", "parsed"),
    [
        ("Bad", b'{"error":"invalid_input","detail":"x"}', "invalid_input", None),
        ("Bad", b'{"error":"","x":1}', "Bad", {"error": "", "x": 1}),
        ("Bad", b'{"error":5}', "Bad", {"error": 5}),
        ("Bad", b"[1]", "Bad", [1]),
        ("Bad", b"null", "Bad", None),
        ("Bad", b"oops", "Bad", "oops"),
        ("Bad", b"\xff\xfe", "Bad", "��"),
        ("Bad", b"[" * 5000, "Bad", "[" * 5000),
        ("Bad", b"", "Bad", {}),
        ("", b"", "request_failed", {}),
        ("", b"oops", "request_failed", "oops"),
    ],
)
def test_code_and_body_of_a_refusal(reason: str, body: bytes, code: str, parsed: object) -> None:
    _, error = feed(core().answer(ZONES), [Answer(400, reason, {}, body)])
    assert (error.status, error.code, str(error)) == (400, code, f"{code} (HTTP 400)")
    if code != "invalid_input":
        assert error.body == parsed


def test_a_traceback_says_what_the_server_said() -> None:
    body = b'{"error":"access_denied","error_description":"policy denied"}'
    _, error = feed(core().answer(ZONES), [Answer(403, "Bad", {"x-request-id": "r1"}, body)])
    assert str(error) == "access_denied (HTTP 403)"
    assert error.__notes__ == ["policy denied (request r1)"]


UNUSABLE = [b"", b"<html>", b"{", b"NaN", b"\xff", b'"x"', b"7", b"null", b"{} x"]


@pytest.mark.parametrize("body", [*UNUSABLE, b"[]"])
def test_a_success_that_is_no_object(body: bytes) -> None:
    _, error = feed(core().answer(ZONES), [Answer(200, "OK", {"x-request-id": "r"}, body)])
    assert (error.code, error.status, error.request_id) == ("invalid_response", 200, "r")


@pytest.mark.parametrize("body", [*UNUSABLE, b"{}", b"[1]", b'{"items":{}}', b'{"rows":5}'])
def test_a_success_that_is_no_list(body: bytes) -> None:
    _, error = feed(core().all(listing(ZONES)), [Answer(200, "OK", {}, body)])
    assert (error.code, error.status) == ("invalid_response", 200)


def test_a_body_that_was_cut_off() -> None:
    _, error = feed(core().answer(ZONES), [Answer(200, "OK", {}, b"{}", complete=False)])
    assert error.code == "invalid_response"


# --- pages --------------------------------------------------------------------------------


def page(*ids: str, link: str | None = None) -> Answer:
    body = ",".join(f'{{"id":"{each}"}}' for each in ids)
    return Answer(200, "OK", {"link": link} if link else {}, f"[{body}]".encode())


def walk(*answers: Answer, base: str = "http://api", follow: bool = True) -> tuple[list[str], Any]:
    one = Core(Options(base, "t"))
    attempts, result = feed(one.all(listing(ZONES, None if follow else 1)), answers)
    return [attempt.url for attempt in attempts], result


def test_a_list_follows_its_links() -> None:
    urls, items = walk(
        page("a", link='</v1/zones?limit=1&cursor=A>; rel="next"'),
        page("b", link="<?limit=1&cursor=B>; rel=next"),
        page("c", link='<http://API:80/v1/zones?cursor=C>; rel="prev next"'),
        page("d", link='</v1/zones?cursor=A>; rel="prev"'),
    )
    assert [item["id"] for item in items] == ["a", "b", "c", "d"]
    queries = ["", "?limit=1&cursor=A", "?limit=1&cursor=B", "?cursor=C"]
    assert urls == [f"http://api/v1/zones{query}" for query in queries]


def test_one_page_does_not_follow() -> None:
    urls, items = walk(page("a", link='</v1/zones?cursor=A>; rel="next"'), follow=False)
    assert (len(urls), items) == (1, [{"id": "a"}])


@pytest.mark.parametrize("prefix", ["", "/caracal"])
def test_a_server_behind_a_prefix(prefix: str) -> None:
    link = f'<{prefix}/v1/zones?cursor=A>; rel="next"'
    urls, _ = walk(page("a", link=link), page("b"), base="https://h/caracal/")
    assert urls[1] == "https://h/caracal/v1/zones?cursor=A"


@pytest.mark.parametrize(
    "target",
    [
        "http://evil/v1/zones",
        "//evil/v1/zones",
        "https://api/v1/zones",
        "http://api:81/v1/zones",
        "http://api.evil/v1/zones",
        "http://t@api/v1/zones",
        "http://api@evil/v1/zones",
        "http://api\\@evil/v1/zones",
        "http://api:port/v1/zones",
        "http://[api/v1/zones",
        "/v1/z\u00e4nes",
        "/v1/zo nes",
        "file:///etc/passwd",
    ],
)
def test_a_link_that_leads_elsewhere_is_not_followed(target: str) -> None:
    urls, error = walk(page("a", link=f'<{target}?cursor=A>; rel="next"'))
    assert (urls, error.code) == (["http://api/v1/zones"], "invalid_response")


@pytest.mark.parametrize(
    "links",
    [['</v1/zones>; rel="next"'], ["<?cursor=A>; rel=next", "<?cursor=B>; rel=next"] * 2],
)
def test_pages_that_go_in_a_circle(links: list[str]) -> None:
    _, error = walk(*(page("a", link=link) for link in links))
    assert error.code == "invalid_response"


@pytest.mark.parametrize("name", ["items", "rows"])
def test_other_generations_of_the_server(name: str) -> None:
    first = f'{{"{name}":[{{"id":"a"}}],"next_cursor":"A/="}}'.encode()
    last = f'{{"{name}":[],"next_cursor":null}}'.encode()
    urls, items = walk(Answer(200, "OK", {}, first), Answer(200, "OK", {}, last))
    assert urls == ["http://api/v1/zones", "http://api/v1/zones?cursor=A%2F%3D"]
    assert items == [{"id": "a"}]


@given(st.text(max_size=200) | st.from_regex(r'(<[^>]{0,20}>; ?rel="?next"?,? ?){0,3}'))
def test_no_link_breaks_the_client_or_leads_elsewhere(link: str) -> None:
    one = core()
    flow = one.all(listing(ZONES))
    next(flow)
    try:
        attempt = flow.send(Answer(200, "OK", {"link": link}, b"[]"))
    except (StopIteration, AdminApiError):
        return
    assert re.match(r"http://api/", attempt.url)


# --- options ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"api_url": "localhost:3000"}, "api_url"),
        ({"api_url": "ftp://api"}, "api_url"),
        ({"api_url": "http://"}, "api_url"),
        ({"api_url": "http://user@api"}, "api_url"),
        ({"api_url": "http://api?x=1"}, "api_url"),
        ({"api_url": "http://a pi"}, "api_url"),
        ({"api_url": "http://api:x"}, "api_url"),
        ({"coordinator_url": "coord"}, "coordinator_url"),
        ({"admin_token": ""}, "admin_token"),
        ({"admin_token": None}, "admin_token"),
        ({"admin_token": "SECRET\n"}, "admin_token"),
        ({"admin_token": "SECRET x"}, "admin_token"),
        ({"coordinator_token": "SECRET\u00e4"}, "coordinator_token"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"retries": -1}, "retries"),
    ],
)
def test_what_cannot_work_is_said_at_once(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as raised:
        Options(**{"api_url": "http://api", "admin_token": "t", **wrong})
    assert "SECRET" not in str(raised.value)
