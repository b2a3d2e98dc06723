// What the definitions of a cluster lack.

package crds

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/client-go/openapi"

	v1 "github.com/podid-io/podid/api/v1"
)

// Missing returns the fields of podid's kinds that the API server does not know, such as
// "AzureIdentity.spec.objectID", and the kinds. There are none before the first definition is
// installed. It asks for the schema that the API server publishes, which every ServiceAccount may
// read.
func Missing(api openapi.Client) ([]string, error) {
	paths, err := api.Paths()
	if err != nil {
		return nil, fmt.Errorf("list the API server's schemas: %w", err)
	}
	group, ok := paths["apis/"+v1.GroupVersion.String()]
	if !ok {
		return nil, nil
	}
	data, err := group.Schema("application/json")
	if err != nil {
		return nil, fmt.Errorf("read the schema of %s: %w", v1.GroupVersion, err)
	}
	var document document
	if err := json.Unmarshal(data, &document); err != nil {
		return nil, fmt.Errorf("parse the schema of %s: %w", v1.GroupVersion, err)
	}
	return document.missing(), nil
}

// schema is a part of an OpenAPI document.
type schema struct {
	Properties map[string]schema `json:"properties"`
	Kinds      []struct {
		Kind string `json:"kind"`
	} `json:"x-kubernetes-group-version-kind"`
}

type document struct {
	Components struct {
		Schemas map[string]schema `json:"schemas"`
	} `json:"components"`
}

func (d document) missing() []string {
	published := map[string]schema{}
	for _, s := range d.Components.Schemas {
		if len(s.Kinds) == 1 {
			published[s.Kinds[0].Kind] = s
		}
	}
	var missing []string
	kinds := kinds()
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		have, ok := published[kind]
		if !ok {
			missing = append(missing, kind)
			continue
		}
		for _, part := range []string{"spec", "status"} {
			for _, field := range fields(kinds[kind], part) {
				if _, ok := have.Properties[part].Properties[field]; !ok {
					missing = append(missing, kind+"."+part+"."+field)
				}
			}
		}
	}
	return missing
}

// kinds returns the Go types of podid's kinds.
func kinds() map[string]reflect.Type {
	return map[string]reflect.Type{
		"AzureIdentity":             reflect.TypeFor[v1.AzureIdentity](),
		"AzureIdentityBinding":      reflect.TypeFor[v1.AzureIdentityBinding](),
		"AzureAssignedIdentity":     reflect.TypeFor[v1.AzureAssignedIdentity](),
		"AzurePodIdentityException": reflect.TypeFor[v1.AzurePodIdentityException](),
		"AzureIdentityPolicy":       reflect.TypeFor[v1.AzureIdentityPolicy](),
	}
}

// fields returns the JSON names in the spec or the status of a kind, none if it has no such part.
func fields(kind reflect.Type, part string) []string {
	var names []string
	for _, outer := range reflect.VisibleFields(kind) {
		if jsonName(outer) != part {
			continue
		}
		for _, field := range reflect.VisibleFields(outer.Type) {
			if name := jsonName(field); name != "" && name != "-" {
				names = append(names, name)
			}
		}
	}
	return names
}

func jsonName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}
