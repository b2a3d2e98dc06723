// Renaming of fields to their current names. This file is pure logic without an API server.

package upgrade

import (
	"maps"
	"slices"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// fields holds the field names of an object. The value holds those of the nested object, if its
// names matter.
type fields map[string]fields

// kind is a kind of object and the names of its fields.
type kind struct {
	name   string
	fields fields
}

// kinds returns the kinds in upgrade order: the copies in an AzureAssignedIdentity come after their
// originals.
//
// The following are left out:
//
//   - metadata, which never had other names,
//   - fields that only podid has, which are newer than the old names,
//   - AzurePodIdentityException, although v1.8.17 writes it back as well. Its one field has always
//     been called podLabels, and MIC has no permission to change which pods get plain IMDS.
func kinds() []kind {
	secret := fields{"name": nil, "namespace": nil}
	state := fields{"status": nil, "availableReplicas": nil}
	identity := fields{
		"spec": {
			"type": nil, "resourceID": nil, "clientID": nil, "clientPassword": secret, "tenantID": nil,
			"auxiliaryTenantIDs": nil, "adResourceID": nil, "adEndpoint": nil, "replicas": nil,
		},
		"status": state,
	}
	binding := fields{
		"spec":   {"azureIdentity": nil, "selector": nil, "weight": nil},
		"status": state,
	}
	return []kind{
		{"AzureIdentity", identity},
		{"AzureIdentityBinding", binding},
		{"AzureAssignedIdentity", fields{
			"spec": {
				"azureIdentityRef": identity, "azureBindingRef": binding,
				"pod": nil, "podNamespace": nil, "nodename": nil, "replicas": nil,
			},
			"status": state,
		}},
	}
}

// respell renames the fields of an object to their current names, and reports whether any had
// another name. If a field exists several times, a value that is not empty wins, preferably the one
// under the current name.
func respell(object map[string]any, names fields) bool {
	changed := false
	for name, inner := range names {
		for _, old := range spellings(object, name) {
			if empty(object[name]) {
				object[name] = object[old]
			}
			delete(object, old)
			changed = true
		}
		if nested, ok := object[name].(map[string]any); ok && inner != nil {
			changed = respell(nested, inner) || changed
		}
	}
	return changed
}

// spellings returns the other names under which the object has the field, in a deterministic order.
func spellings(object map[string]any, name string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(object)), func(key string) bool {
		return key == name || !ascii.EqualFold(key, name)
	})
}

// empty reports whether a value means the same as an absent one. Clients of v1.8.17 write every
// field, and the API server fills in defaults, both under the current name.
func empty(value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case string:
		return value == ""
	case int64:
		return value == 0
	case float64:
		return value == 0
	case map[string]any:
		for _, inner := range value {
			if !empty(inner) {
				return false
			}
		}
		return true
	case []any:
		return len(value) == 0
	}
	return false
}

// complete fills in the kinds of the copies in an assigned identity. The API server requires them,
// and MIC did not write them before v1.6.
func complete(object map[string]any) {
	spec, _ := object["spec"].(map[string]any)
	for field, kind := range map[string]string{"azureIdentityRef": "AzureIdentity", "azureBindingRef": "AzureIdentityBinding"} {
		ref, ok := spec[field].(map[string]any)
		if !ok {
			continue
		}
		if empty(ref["kind"]) {
			ref["kind"] = kind
		}
		if empty(ref["apiVersion"]) {
			ref["apiVersion"] = v1.GroupVersion.String()
		}
	}
}
