// Which fields have which name today. Pure: it knows objects and no API server.

package upgrade

import (
	"maps"
	"slices"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// fields are the names of the fields of an object, each with those of the object
// in it, if there is one whose names matter.
type fields map[string]fields

// kind is one of our kinds, and how its fields are spelled.
type kind struct {
	name   string
	fields fields
}

// kinds in the order in which they are upgraded: the copies in an
// AzureAssignedIdentity come after their originals.
//
// metadata and what only podid has are not here: the former was never spelled
// otherwise, and the latter is younger than the old spelling. Nor is
// AzurePodIdentityException, which v1.8.17 writes back as well: its one field has
// always been called podLabels, and MIC has no right to change who gets plain IMDS.
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

// respell gives the fields of an object their names of today and says whether any
// had another. Of a field that is there twice the value that is not empty stays,
// and that under today's name before others.
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

// spellings are the other names under which the object has the field, in an order
// that does not depend on chance.
func spellings(object map[string]any, name string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(object)), func(key string) bool {
		return key == name || !ascii.EqualFold(key, name)
	})
}

// empty tells of a value that says no more than none at all: clients of v1.8.17
// write every field, and the API server fills in defaults, both under today's name.
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

// complete names the kinds of the copies in an assigned identity: the API server
// demands them, and MIC wrote none before v1.6.
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
