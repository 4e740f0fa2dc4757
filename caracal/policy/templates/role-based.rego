# METADATA
# title: Roles
# description: >-
#   A role is a set of scopes. Applications have roles, and so have users: whoever acts for a user
#   has that user's roles and no others.

# As it stands every application that proves who it is may read, nothing more.
# Adapt: the scopes of each role, and who has which role.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["role-based/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

# What each role may ask for. Without agent:lifecycle an application can run no agents.
scopes_of := {
	"reader": {"read", "list", "search", "agent:lifecycle"},
	"writer": {"write", "create", "update"},
	"owner": {"delete", "admin"},
}

# Roles by application id. Ids of applications whose credential type is `public` may not stand
# here: they get no tokens.
application_roles := {"00000000-0000-0000-0000-000000000000": {"reader", "writer"}}

# Roles by user id, the `sub` of the user's token.
user_roles := {"someone@example.com": {"reader", "writer", "owner"}}

# What all others have. Make it set() to let in only those that are listed.
others := {"reader"}

claims := input.context.subject_claims

roles := object.get(user_roles, claims.sub, others) if claims.sub_type == "user"

roles := object.get(application_roles, input.principal.id, others) if for_itself

for_itself if claims.sub_type == "application"

for_itself if claims == {}

open contains scope if {
	some role in roles
	some scope in scopes_of[role]
}

requested := {scope | some scope in input.context.requested_scopes}

refused := requested - open

known if {
	input.action.id == "TokenExchange"
	input.principal.type == "Application"
	input.principal.credential_type in {"token", "password", "public-key", "url"}
	is_array(input.context.requested_scopes)
	count(requested - {scope | some scope in input.resource.scopes}) == 0
	is_string(input.principal.id)
	count(roles) > 0
	says_what_for
}

# A token may be asked for without scopes, for a call behind the Gateway one must be named.
says_what_for if input.context.http == null

says_what_for if {
	is_string(input.context.http.method)
	count(requested) > 0
}

result := answer("allow", "role-based/allow", []) if {
	known
	count(refused) == 0
}

result := answer("deny", "role-based/refused", [{"reason": "role_lacks_scope", "scopes": refused}]) if {
	known
	count(refused) > 0
}

answer(decision, policy, diagnostics) := {
	"decision": decision,
	"evaluation_status": "complete",
	"determining_policies": [policy],
	"diagnostics": diagnostics,
}
