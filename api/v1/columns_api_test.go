package v1_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	v1 "github.com/podid-io/podid/api/v1"
)

// testColumns reads what kubectl get shows: a table that the server makes.
// Columns of kubectl get -o wide have a star.
func (s *server) testColumns(t *testing.T) {
	config := rest.CopyConfig(s.config)
	config.APIPath, config.GroupVersion = "/apis", &v1.GroupVersion
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	c, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	for resource, want := range map[string]map[string]any{
		"azureidentities": {"Name": "old", "Type": int64(0), "ClientID": otherGUID, "Age": nil, "Problem*": nil},
		"azureidentitybindings": {
			"Name": "old", "AzureIdentity": "old", "Selector": "demo", "Weight*": int64(0), "Age": nil,
		},
		"azureassignedidentities": {
			"Name": "old", "Pod": "web-0", "PodNamespace": "default", "Node": "node-1", "State": "Assigned", "Age": nil,
			"Identity*": "old", "Reason*": nil,
		},
		"azurepodidentityexceptions": {"Name": "old", "Age": nil},
	} {
		t.Run(resource, func(t *testing.T) {
			table := &metav1.Table{}
			err := c.Get().Namespace("default").Resource(resource).Name("old").
				SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Into(table)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]any{}
			for i, column := range table.ColumnDefinitions {
				name := column.Name
				if column.Priority > 0 {
					name += "*"
				}
				got[name] = table.Rows[0].Cells[i]
				if name == "Age" {
					got[name] = nil
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("columns (-want +got):\n%s", diff)
			}
		})
	}
}
