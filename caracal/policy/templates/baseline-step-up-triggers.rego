# METADATA
# title: Baseline of step-up triggers
# description: >-
#   Some things take more than a token: a person's approval, a second factor, or proof of what
#   software is running. Until then the answer is a challenge; afterwards the same request passes.

# As it stands reading is open, writing takes approval, deleting and administration a second
# factor, and agents that write must attest what they are.
# Adapt: which words stand for which step, and the tools of your MCP servers.
# The policy learns that a challenge was met, not which one: of several steps that apply it asks
# for the one that is most, and that is the one that was met.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["baseline-step-up-triggers/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

# The last word of a scope: incidents:read is read.
open := {"read", "list", "search", "lifecycle"}

steps := {
	"write": "human_approval",
	"create": "human_approval",
	"update": "human_approval",
	"delete": "mfa",
	"admin": "mfa",
}

# Tools by name; those that are not here take a person's approval.
open_tools := {"search", "get", "list"}

# MCP methods that change nothing; "response" is an answer to the server.
asking := {
	"initialize", "ping", "response", "tools/list", "prompts/list", "prompts/get", "resources/list",
	"resources/read", "resources/templates/list", "resources/subscribe", "resources/unsubscribe",
	"completion/complete", "logging/setLevel", "notifications/initialized",
	"notifications/cancelled", "notifications/progress", "notifications/roots/list_changed",
}

requested := {scope | some scope in input.context.requested_scopes}

last_of(scope) := parts[count(parts) - 1] if parts := split(scope, ":")

words := {last_of(scope) | some scope in requested}

unknown_words := (words - open) - object.keys(steps)

triggers contains step if {
	some word in words
	step := steps[word]
}

# What a call does, whatever scope it names.
triggers contains "mfa" if input.context.http.method == "DELETE"

triggers contains "human_approval" if {
	input.context.mcp == null
	input.context.http.method in {"POST", "PUT", "PATCH"}
}

triggers contains "human_approval" if {
	is_object(input.context.mcp)
	not is_open_message
}

is_open_message if input.context.mcp.method in asking

is_open_message if {
	input.context.mcp.method == "tools/call"
	input.context.mcp.name in open_tools
}

triggers contains "software_attestation" if {
	is_string(input.principal.agent_session_id)
	count(words - open) > 0
}

wanted := "mfa" if "mfa" in triggers

wanted := "human_approval" if {
	"human_approval" in triggers
	not "mfa" in triggers
	not "software_attestation" in triggers
}

wanted := "software_attestation" if {
	"software_attestation" in triggers
	not "mfa" in triggers
}

known if {
	input.action.id == "TokenExchange"
	input.principal.type == "Application"
	is_array(input.context.requested_scopes)
	count(requested - {scope | some scope in input.resource.scopes}) == 0
	count(unknown_words) == 0
	is_readable
}

# What cannot be read has no tool that could be approved.
is_readable if input.context.http == null

is_readable if {
	input.context.mcp == null
	input.context.http.method in {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
}

is_readable if input.context.mcp.method != ""

result := answer("allow", "baseline-step-up-triggers/open", []) if {
	known
	count(triggers) == 0
	is_boolean(input.context.challenge_resolved)
}

result := answer("allow", "baseline-step-up-triggers/resolved", []) if {
	known
	count(triggers) > 0
	input.context.challenge_resolved == true
}

result := answer("deny", "baseline-step-up-triggers/step-up", [{"step_up_required": wanted}]) if {
	known
	count(triggers) > 0
	input.context.challenge_resolved == false
}

result := answer("deny", "baseline-step-up-triggers/refused", [{
	"reason": "scope_not_known",
	"words": unknown_words,
}]) if count(unknown_words) > 0

answer(decision, policy, diagnostics) := {
	"decision": decision,
	"evaluation_status": "complete",
	"determining_policies": [policy],
	"diagnostics": diagnostics,
}
