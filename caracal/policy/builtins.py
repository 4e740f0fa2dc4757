"""The builtin functions a policy may call: an allowlist.

Each was compared with OPA 1.20 on the same arguments. Left out are those that reach the network,
the clock, randomness, files or the environment, those that write (print, trace), those that make
much from little (numbers.range), and those the engine does not have. ``sprintf`` and ``upper``
differ from OPA in details of the text they make; ``\\d \\w \\b`` of a regular expression know
Unicode here and only ASCII in OPA, and its time is linear in both.
"""

from __future__ import annotations

_ALLOWED = """
    abs ceil floor round max min sum product count format_int to_number type_name
    array.concat array.reverse array.slice
    base64.decode base64.encode base64.is_valid
    base64url.decode base64url.encode base64url.encode_no_pad
    bits.and bits.or
    concat contains endswith startswith indexof indexof_n lower upper replace split sprintf
    substring trim trim_left trim_right trim_prefix trim_suffix trim_space
    strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n
    strings.reverse
    glob.match glob.quote_meta
    hex.decode hex.encode
    intersection union
    is_array is_boolean is_null is_number is_object is_set is_string
    json.filter json.is_valid json.marshal json.patch json.remove json.unmarshal
    object.filter object.get object.keys object.remove object.subset object.union object.union_n
    regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace
    regex.split regex.template_match
    semver.compare semver.is_valid
    time.add_date time.clock time.date time.diff time.format time.parse_duration_ns
    time.parse_rfc3339_ns time.weekday
    units.parse units.parse_bytes
    urlquery.decode urlquery.decode_object urlquery.encode urlquery.encode_object
"""

_TOTAL = "abs concat count lower object.get object.keys split sum trim_space upper"

_SPACES = """
    array base64 base64url bits crypto glob graph graphql hex http io json net numbers object opa
    providers rand regex rego semver strings time units urlquery uuid
"""

ALLOWED = frozenset(_ALLOWED.split())

TOTAL = frozenset(_TOTAL.split())
"""Of these, some that have a value for all arguments they accept (``min`` of nothing has none)."""

_FAMILIES = frozenset(_SPACES.split())
_REFUSED = frozenset({"print", "trace", "walk"})


def is_builtin(name: str) -> bool:
    """Whether ``name`` is, or lies among, the names of Rego's own functions."""
    family, dot, _ = name.partition(".")
    return name in ALLOWED or name in _REFUSED or (dot == "." and family in _FAMILIES)
