package identity_test

import (
	"strings"
	"testing"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

func TestChoose(t *testing.T) {
	const object = "0b1ec7ed-0000-4000-8000-000000000001"
	const learned = "1ea12ed0-0000-4000-8000-000000000002"
	first := id("a", "first", func(i *v1.AzureIdentity) { i.Spec.ClientID = guidA; i.Spec.ObjectID = object })
	second := id("a", "second", func(i *v1.AzureIdentity) { i.Spec.ClientID = strings.ToUpper(guidB) })
	third := id("a", "third", spec(principal(v1.ServicePrincipal)))
	third.Spec.ResourceID = idPrefix + "strayed"
	third.Spec.ClientID = ""
	var grants []identity.Grant
	for _, i := range []*v1.AzureIdentity{first, second, third} {
		grants = append(grants, identity.Grant{Identity: i, Binding: bind("a", "b", "demo", i.Name, 0)})
	}
	tokenSaid := func(i *v1.AzureIdentity) string {
		if i.Name == "second" {
			return learned
		}
		return guidA // must not be believed for first, whose spec says it
	}

	for _, tt := range []struct {
		name     string
		selector identity.Selector
		objectID func(*v1.AzureIdentity) string
		want     string // "" is a refusal
	}{
		{"none named", identity.Selector{}, nil, "first"},
		{"client ID", identity.Selector{ClientID: guidB}, nil, "second"},
		{"client ID, other case", identity.Selector{ClientID: strings.ToUpper(guidA)}, nil, "first"},
		{"resource ID, other case", identity.Selector{ResourceID: strings.ToUpper(idPrefix + "second")}, nil, "second"},
		{"resource ID of a principal", identity.Selector{ResourceID: idPrefix + "strayed"}, nil, ""},
		{"object ID of the spec", identity.Selector{ObjectID: strings.ToUpper(object)}, nil, "first"},
		{"object ID of the token", identity.Selector{ObjectID: learned}, tokenSaid, "second"},
		{"object ID nobody knows", identity.Selector{ObjectID: learned}, nil, ""},
		{"spec before token", identity.Selector{ObjectID: guidA}, func(i *v1.AzureIdentity) string {
			if i == first {
				return guidA
			}
			return ""
		}, ""},
		{"unknown client ID", identity.Selector{ClientID: "deadbeef-0000-4000-8000-000000000009"}, nil, ""},
		{"client ID of a neighbour's length", identity.Selector{ClientID: guidA[:35]}, nil, ""},
		{"two that agree", identity.Selector{ClientID: guidA, ObjectID: object}, nil, "first"},
		{"two that do not", identity.Selector{ClientID: guidB, ObjectID: object}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			grant, refusal := identity.Choose(grants, tt.selector, tt.objectID)
			switch {
			case tt.want != "" && (refusal != nil || grant.Identity.Name != tt.want):
				t.Errorf("got %v, %v, want %s", grant, refusal, tt.want)
			case tt.want == "" && (refusal == nil || refusal.Reason != reason.NoMatch):
				t.Errorf("got %v, %v, want a refusal", grant, refusal)
			}
		})
	}
}

func TestNoMatchMessage(t *testing.T) {
	grants := []identity.Grant{{Identity: id("a", "one"), Binding: bind("a", "b", "demo", "one", 0)}}
	for _, tt := range []struct {
		name     string
		grants   []identity.Grant
		selector identity.Selector
		want     string
	}{
		{"client ID shortened", grants, identity.Selector{ClientID: guidA}, "client_id b9fe2d38… names none of the identities this pod may use (a/one): "},
		{"object ID shortened", grants, identity.Selector{ObjectID: guidA}, "object_id b9fe2d38… names none"},
		{"resource ID", grants, identity.Selector{ResourceID: "/x"}, "msi_res_id /x names none"},
		{"nothing granted", nil, identity.Selector{}, "may use no identity"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, refusal := identity.Choose(tt.grants, tt.selector, nil)
			if refusal == nil || !strings.Contains(refusal.Message, tt.want) {
				t.Errorf("got %v, want %q", refusal, tt.want)
			}
			if strings.Contains(refusal.Message, guidA) {
				t.Errorf("the whole id is in the message: %s", refusal.Message)
			}
		})
	}
	if (identity.Selector{}).Named() || !(identity.Selector{ObjectID: "x"}).Named() {
		t.Error("Named does not tell whether anything is named")
	}
}
