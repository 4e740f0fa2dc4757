# For development on one machine: whoever can authenticate may do everything.
package caracal.authz

import rego.v1

result := {
	"decision": "allow",
	"evaluation_status": "complete",
	"determining_policies": ["local-dev-allow"],
	"diagnostics": [],
}
