# METADATA
# title: Baseline of session state
# description: >-
#   Calls belong to a session, and all that is said of the session agrees: the session, the
#   context and the token name the same one, of this zone, opened by this caller, not for too long.

# As it stands a call needs a session; without one only a first token for reading is given out.
# Adapt: how long a token may live, and what may be had without a session.
# A session that has ended, was revoked or hangs on something that was revoked never gets here:
# the STS refuses it first. A policy sees no clock, so it cannot judge how old a token is now.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["baseline-session-state/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

# Seconds between `iat` and `exp` of the token that proves the session.
max_token_seconds := 3600

# Scopes of a first token: the application proves itself by its secret, no session is there yet.
without_session := {"agent:lifecycle", "read", "list", "search"}

requested := {scope | some scope in input.context.requested_scopes}

claims := input.context.subject_claims

first if {
	input.session == null
	input.context.session_id == null
	input.context.http == null
	is_object(claims)
	count(claims) == 0
}

in_session if {
	is_string(input.session.id)
	is_object(claims)
}

obstacles contains "session_needed" if {
	first
	count(requested - without_session) > 0
}

obstacles contains "session_of_another_token" if {
	in_session
	not consistent
}

obstacles contains "session_of_another_zone" if {
	in_session
	not same_zone
}

obstacles contains "token_not_of_a_session" if {
	in_session
	not ambient
}

obstacles contains "token_lives_too_long" if {
	in_session
	not short_lived
}

consistent if {
	input.session.id == claims.sid
	input.session.id == input.context.session_id
}

same_zone if claims.zone_id == input.principal.zone_id

# A mandate for one call is no proof of a session.
ambient if claims.use == "ambient"

short_lived if {
	claims.exp > claims.iat
	claims.exp - claims.iat <= max_token_seconds
}

known if {
	input.action.id == "TokenExchange"
	input.principal.type == "Application"
	is_array(input.context.requested_scopes)
	count(requested - {scope | some scope in input.resource.scopes}) == 0
}

way := "baseline-session-state/first-token" if first

way := "baseline-session-state/in-session" if in_session

result := answer("allow", way, []) if {
	known
	count(obstacles) == 0
}

result := answer("deny", "baseline-session-state/refused", [{
	"reason": "session_state",
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
