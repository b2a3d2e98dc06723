package broker

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
)

func TestWanted(t *testing.T) {
	federated := func(change func(*v1.AzureIdentity)) *v1.AzureIdentity {
		id := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: v1.AzureIdentitySpec{Type: v1.Federated}}
		if change != nil {
			change(id)
		}
		return id
	}
	for _, tt := range []struct {
		name string
		id   *v1.AzureIdentity
		want bool
	}{
		{"gone", nil, false},
		{"federated", federated(nil), true},
		{"other type", federated(func(i *v1.AzureIdentity) { i.Spec.Type = v1.UserAssignedMSI }), false},
		{"shared from another", federated(func(i *v1.AzureIdentity) { i.Spec.SharedFrom = v1.IdentityReference{Namespace: "a", Name: "b"} }), false},
		{"name too long", federated(func(i *v1.AzureIdentity) { i.Name = strings.Repeat("x", 253) }), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Wanted(tt.id); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestIdentityOf(t *testing.T) {
	for broker, want := range map[string]types.NamespacedName{
		"shop.web":    {Namespace: "shop", Name: "web"},
		"shop.web.v1": {Namespace: "shop", Name: "web.v1"},
	} {
		if got, ok := identityOf(broker); !ok || got != want {
			t.Errorf("%s: got %v, %v", broker, got, ok)
		}
	}
	for _, broker := range []string{"default", "", ".web", "shop."} {
		if got, ok := identityOf(broker); ok {
			t.Errorf("%q: got %v", broker, got)
		}
	}
}
