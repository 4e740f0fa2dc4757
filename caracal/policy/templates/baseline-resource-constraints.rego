# METADATA
# title: Baseline of resource constraints
# description: >-
#   Which resources may be reached, and how: HTTP methods, paths, MCP methods and tools. What a
#   call does is judged, not what it says it needs.

# As it stands any resource may be read over HTTP outside of administrative paths, and asked over
# MCP for anything but a tool call.
# Adapt: the rules of your resources in `rules`; resources without one follow `usual`.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["baseline-resource-constraints/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

usual := {
	"methods": {"GET", "HEAD", "OPTIONS"},
	"paths": ["/"],
	"tools": set(),
}

# By the resource's identifier. Paths are beginnings, up to the end of a segment.
rules := {
	"resource://orders": {
		"methods": {"GET", "HEAD", "POST"},
		"paths": ["/orders", "/quotes"],
		"tools": set(),
	},
	"resource://incidents": {
		"methods": {"GET", "POST"},
		"paths": ["/"],
		"tools": {"search", "get", "summarize"},
	},
}

# Nowhere, whatever the rule of the resource says; in lower case.
closed_paths := ["/admin", "/internal", "/debug"]

# MCP methods that change nothing; "response" is an answer to the server.
asking := {
	"initialize", "ping", "response", "tools/list", "prompts/list", "prompts/get", "resources/list",
	"resources/read", "resources/templates/list", "resources/subscribe", "resources/unsubscribe",
	"completion/complete", "logging/setLevel", "notifications/initialized",
	"notifications/cancelled", "notifications/progress", "notifications/roots/list_changed",
}

requested := {scope | some scope in input.context.requested_scopes}

rule := object.get(rules, input.resource.identifier, usual)

path := input.context.http.path

under(place, beginning) if place == beginning

under(place, beginning) if startswith(place, concat("", [trim_suffix(beginning, "/"), "/"]))

obstacles contains "method_not_open" if {
	input.context.mcp == null
	count({input.context.http.method} - rule.methods) > 0
}

obstacles contains "path_closed" if {
	lowered := lower(path)
	some beginning in closed_paths
	under(lowered, beginning)
}

# The upstream may read such a path as another one.
obstacles contains "path_not_plain" if regex.match(`//|[\\%;]|(^|/)\.{1,2}(/|$)`, path)

obstacles contains "message_not_open" if {
	is_object(input.context.mcp)
	not is_open_message
}

is_open_message if input.context.mcp.method in asking

is_open_message if {
	input.context.mcp.method == "tools/call"
	input.context.mcp.name in rule.tools
}

known if {
	input.action.id == "TokenExchange"
	input.principal.type == "Application"
	is_string(input.resource.identifier)
	is_array(input.context.requested_scopes)
	count(requested - {scope | some scope in input.resource.scopes}) == 0
}

# A token is asked for; the calls made with it come back here.
reachable if input.context.http == null

reachable if {
	input.context.mcp == null
	is_string(input.context.http.method)
	in_bounds
}

reachable if {
	is_string(input.context.mcp.method)
	in_bounds
}

in_bounds if {
	some beginning in rule.paths
	under(path, beginning)
}

result := answer("allow", "baseline-resource-constraints/open", []) if {
	known
	reachable
	count(obstacles) == 0
}

result := answer("deny", "baseline-resource-constraints/refused", [{
	"reason": "call_not_open",
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
