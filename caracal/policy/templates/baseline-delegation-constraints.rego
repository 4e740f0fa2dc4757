# METADATA
# title: Baseline of delegation constraints
# description: >-
#   How far delegated authority may go: length of the chain, edges that name a resource, number
#   of scopes, and the actions that the delegator allowed.

# As it stands a chain has at most three delegations, each names a resource, and its constraints
# hold. What is not delegated passes with the scopes that its resource declares.
# Adapt: the three limits below.
# The Coordinator checks on creation that a delegation is no wider than the one before; expiry,
# revocation and `ttl_seconds` are the STS's work. This policy draws the zone's own line.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["baseline-delegation-constraints/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

max_chain := 3

max_scopes := 8

# Scopes that are never used at second hand.
never_delegated := {"admin", "delete"}

edge := input.delegation_edge if is_object(input.delegation_edge)

limits := edge.constraints_json if is_object(edge.constraints_json)

requested := {scope | some scope in input.context.requested_scopes}

asked := count(requested)

obstacles contains "chain_too_long" if count(edge.path) > max_chain

obstacles contains "too_many_scopes" if {
	is_object(edge)
	asked > max_scopes
}

obstacles contains "over_budget" if asked > limits.budget

# `policy_approved` is set by the delegator himself and proves nothing: it is not looked at.
obstacles contains "edge_names_no_resource" if {
	edge.resource_id == null
	count(object.get(limits, "resources", [])) == 0
}

obstacles contains "other_resource" if {
	is_string(edge.resource_id)
	edge.resource_id != input.resource.id
}

obstacles contains "other_resource" if {
	count(limits.resources) > 0
	count({input.resource.identifier} - {name | some name in limits.resources}) > 0
}

obstacles contains "scope_not_delegated" if {
	is_object(edge)
	count(requested - {scope | some scope in edge.scopes}) > 0
}

obstacles contains "scope_never_delegated" if {
	is_object(edge)
	count(requested & never_delegated) > 0
}

# An action is the tool that is called, else the HTTP method.
obstacles contains "action_not_allowed" if {
	is_array(limits.actions)
	is_object(input.context.http)
	count({action} - {name | some name in limits.actions}) > 0
}

action := object.get(input.context.mcp, "name", input.context.mcp.method) if {
	is_object(input.context.mcp)
}

action := input.context.http.method if input.context.mcp == null

known if {
	input.action.id == "TokenExchange"
	input.principal.type == "Application"
	is_array(input.context.requested_scopes)
	count(requested - {scope | some scope in input.resource.scopes}) == 0
	is_called_or_not
}

is_called_or_not if input.context.http == null

is_called_or_not if is_string(action)

way := "baseline-delegation-constraints/not-delegated" if {
	input.delegation_edge == null
	input.context.delegation_edge_id == null
}

way := "baseline-delegation-constraints/within" if {
	edge.id == input.context.delegation_edge_id
	edge.receiver_application_id == input.principal.id
	edge.target_session_id == input.principal.agent_session_id
	is_array(edge.path)
	is_array(edge.scopes)
	is_object(limits)
	edge.resource_id in {null, input.resource.id}
}

result := answer("allow", way, []) if {
	known
	count(obstacles) == 0
}

result := answer("deny", "baseline-delegation-constraints/refused", [{
	"reason": "delegation_goes_too_far",
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
