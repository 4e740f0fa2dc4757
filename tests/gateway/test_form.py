"""The form of the exchange is read as it was meant, whatever stands in it."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from hypothesis import given
from hypothesis import strategies as st

from caracal.services.gateway.exchange import encoded

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(st.from_regex("[a-z_]{1,9}", fullmatch=True), st.none() | texts))
def test_every_reader_gets_the_fields_back(form: dict[str, str | None]) -> None:
    sent = {name: text for name, text in form.items() if text is not None}
    body = encoded(form).decode("ascii")
    assert dict(parse_qsl(body, keep_blank_values=True)) == sent
    assert parse_qsl(body) == parse_qsl(urlencode(sent))
