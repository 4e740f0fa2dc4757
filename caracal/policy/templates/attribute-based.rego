# METADATA
# title: Attributes
# description: >-
#   What the caller is, what the resource holds and what the call does decide together: the more
#   there is to lose, the stronger the caller's credential must be.

# As it stands all resources are `internal`: who proves itself by a secret may read, to change
# something takes a secret made by the server or a key.
# Adapt: the sensitivity of your resources, the scopes and the tools that only read. Further
# attributes of who calls: input.principal.registration_method ("dcr": it registered itself), and
# agent_kind and capabilities of its agent, which are what the application says of it, no proof.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["attribute-based/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

# How much a credential proves.
strength_of := {"password": 1, "token": 2, "url": 3, "public-key": 3}

# Resources by identifier; those that are not here are `internal`.
sensitivity_of := {
	"resource://status-page": "public",
	"resource://payroll": "restricted",
}

# The strength it takes, by sensitivity: to read, and to change.
needed := {
	"public": {"read": 1, "change": 2},
	"internal": {"read": 1, "change": 2},
	"restricted": {"read": 3, "change": 3},
}

reading_scopes := {"read", "list", "search", "agent:lifecycle"}

reading_tools := {"search", "get", "list"}

# MCP methods that change nothing; "response" is an answer to the server.
asking := {
	"initialize", "ping", "response", "tools/list", "prompts/list", "prompts/get", "resources/list",
	"resources/read", "resources/templates/list", "resources/subscribe", "resources/unsubscribe",
	"completion/complete", "logging/setLevel", "notifications/initialized",
	"notifications/cancelled", "notifications/progress", "notifications/roots/list_changed",
}

sensitivity := object.get(sensitivity_of, input.resource.identifier, "internal") if {
	is_string(input.resource.identifier)
}

requested := {scope | some scope in input.context.requested_scopes}

changing_scopes := requested - reading_scopes

# A scope is what the caller says it needs; method and tool are what it does. All speaking over
# MCP is POST, so there the message counts. A message that cannot be read has the method "".
only_reads if input.context.http == null

only_reads if {
	input.context.mcp == null
	input.context.http.method in {"GET", "HEAD", "OPTIONS"}
}

only_reads if input.context.mcp.method in asking

only_reads if {
	input.context.mcp.method == "tools/call"
	input.context.mcp.name in reading_tools
}

use := "change" if count(changing_scopes) > 0

use := "read" if {
	count(changing_scopes) == 0
	only_reads
}

known if {
	input.action.id == "TokenExchange"
	input.principal.type == "Application"
	is_array(input.context.requested_scopes)
	count(requested - {scope | some scope in input.resource.scopes}) == 0
	is_readable
}

# Also where a change was announced: what nobody can read may be anything.
is_readable if input.context.http == null

is_readable if {
	is_string(input.context.http.method)
	input.context.mcp == null
}

is_readable if {
	is_string(input.context.http.method)
	input.context.mcp.method != ""
}

strong_enough if strength_of[input.principal.credential_type] >= needed[sensitivity][use]

result := answer("allow", sprintf("attribute-based/%s", [sensitivity]), []) if {
	known
	strong_enough
}

result := answer("deny", "attribute-based/too-weak", [{
	"reason": "credential_too_weak",
	"sensitivity": sensitivity,
	"use": use,
}]) if {
	known
	strength_of[input.principal.credential_type] < needed[sensitivity][use]
}

answer(decision, policy, diagnostics) := {
	"decision": decision,
	"evaluation_status": "complete",
	"determining_policies": [policy],
	"diagnostics": diagnostics,
}
