# METADATA
# title: Baseline of rate limits
# description: >-
#   Bounds what one exchange may ask for, and keeps what is expensive for those who need it. It
#   does not count: requests per window are the `rate_limit` of each resource.

# A policy is a function of one request. It sees no counter and no clock, so no policy can say
# "100 a minute". The STS counts, per resource and application, before a policy is asked:
# PATCH the resource with {"rate_limit": {"window_seconds": 60, "max_requests": 100}}; without
# one the limit is 1000 in 60 seconds. What a policy can do is keep each request small, and that
# is done here, so that a limit on the number of requests is a limit on the work.
# As it stands: at most 8 scopes, no batches, tool calls of at most 16 arguments, and nobody has
# what is expensive.
# Adapt: the numbers, what is expensive, and who may have it.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["baseline-rate-limits/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

max_scopes := 8

max_arguments := 16

max_path := 1024

expensive_scopes := {"export", "bulk", "admin"}

expensive_tools := {"export", "reindex", "replay"}

# Application ids that may have what is expensive; give their resources a rate limit of their own.
heavy_users := {"00000000-0000-0000-0000-000000000000"}

requested := {scope | some scope in input.context.requested_scopes}

expensive if count(requested & expensive_scopes) > 0

expensive if input.context.mcp.name in expensive_tools

obstacles contains "too_many_scopes" if count(requested) > max_scopes

obstacles contains "expensive" if {
	expensive
	count({input.principal.id} - heavy_users) > 0
}

# Many calls in one request count as one: none of that. Nor what is too long to be read.
obstacles contains "batch_or_unreadable" if input.context.mcp.method == ""

obstacles contains "too_many_arguments" if {
	is_string(input.context.mcp.arguments_sha256)
	not few_arguments
}

obstacles contains "path_too_long" if count(input.context.http.path) > max_path

# Where there are very many their names are left out of the input.
few_arguments if {
	is_array(input.context.mcp.argument_keys)
	count(input.context.mcp.argument_keys) <= max_arguments
}

known if {
	input.action.id == "TokenExchange"
	input.principal.type == "Application"
	is_string(input.principal.id)
	is_array(input.context.requested_scopes)
	count(requested - {scope | some scope in input.resource.scopes}) == 0
	is_whole
}

is_whole if {
	input.context.http == null
	input.context.mcp == null
}

is_whole if {
	is_string(input.context.http.path)
	input.context.mcp == null
}

is_whole if {
	is_string(input.context.http.path)
	is_string(input.context.mcp.method)
}

result := answer("allow", "baseline-rate-limits/small", []) if {
	known
	count(obstacles) == 0
}

result := answer("deny", "baseline-rate-limits/refused", [{
	"reason": "asks_for_too_much",
	"obstacles": obstacles,
}]) if {
	known
	count(obstacles) > 0
}

answer(decision, policy, diagnostics) := {
	"decision": decision,
	"evaluation_status": "complete",
	"determining_policies": [policy],
	"diagnostics": diagnostics,
}
