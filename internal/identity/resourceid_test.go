package identity_test

import (
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/identity"
)

func TestParseResourceID(t *testing.T) {
	const good = idPrefix + "demo"
	for _, tt := range []struct{ name, id, wrong string }{
		{"as the portal shows it", good, ""},
		{"lower case", strings.ToLower(good), ""},
		{"upper case", strings.ToUpper(good), ""},
		{"group of any script", strings.Replace(good, "apps", "größe_(1).x-y", 1), ""},
		{"longest name", idPrefix + strings.Repeat("a", 128), ""},
		{"empty", "", "resource ID is empty"},
		{"name alone", "demo", `"demo" is not the resource ID of a user-assigned identity`},
		{"trailing slash", good + "/", "is not the resource ID"},
		{"trailing blank", good + " ", `"demo " is not the name of a user-assigned identity`},
		{"no leading slash", good[1:], "is not the resource ID"},
		{"placeholder", strings.Replace(good, guidA, "<id>", 1), `subscription "<id>" is not a GUID`},
		{"GUID too long", strings.Replace(good, guidA, guidA+"0", 1), "is not a GUID"},
		{"GUID without dashes", strings.Replace(good, guidA, strings.Replace(guidA, "-", "0", 1), 1), "is not a GUID"},
		{"GUID, not hexadecimal", strings.Replace(good, guidA, strings.Replace(guidA, "b", "g", 1), 1), "is not a GUID"},
		{"no group", strings.Replace(good, "apps", "", 1), `"" is not the name of a resource group`},
		{"group ends in a dot", strings.Replace(good, "apps", "apps.", 1), "is not the name of a resource group"},
		{"group too long", strings.Replace(good, "apps", strings.Repeat("ä", 91), 1), "is not the name of a resource group"},
		{"other provider", strings.Replace(good, "ManagedIdentity", "Compute", 1), `has "Microsoft.Compute" where "Microsoft.ManagedIdentity" belongs`},
		{"a VM", strings.Replace(good, "userAssignedIdentities", "virtualMachines", 1), `where "userAssignedIdentities" belongs`},
		{"folds to ASCII", strings.Replace(good, "subscriptions", "ſubscriptions", 1), `where "subscriptions" belongs`},
		{"name begins with a dash", idPrefix + "-demo", "is not the name of a user-assigned identity"},
		{"name too long", idPrefix + strings.Repeat("a", 129), "is not the name of a user-assigned identity"},
		{"no name", idPrefix, "is not the name of a user-assigned identity"},
		{"query", good + "?x=y", "is not the name of a user-assigned identity"},
		{"far too long", good + strings.Repeat("a", 2000), "bytes long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := identity.ParseResourceID(tt.id)
			switch {
			case tt.wrong == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.wrong == "" && (got.String() != tt.id || got.Key() != strings.ToLower(tt.id)):
				t.Errorf("got %q with key %q", got, got.Key())
			case tt.wrong != "" && err == nil:
				t.Errorf("accepted, want %q", tt.wrong)
			case tt.wrong != "" && (!strings.Contains(err.Error(), tt.wrong) || !strings.Contains(err.Error(), identity.ResourceIDShape)):
				t.Errorf("got %v, want %q and the shape", err, tt.wrong)
			}
		})
	}
}

func TestResourceIDParts(t *testing.T) {
	got, err := identity.ParseResourceID(strings.ToUpper(idPrefix) + "Demo")
	if err != nil {
		t.Fatal(err)
	}
	if got.SubscriptionID != strings.ToUpper(guidA) || got.ResourceGroup != "APPS" || got.Name != "Demo" {
		t.Errorf("got %+v", got)
	}
}

func FuzzParseResourceID(f *testing.F) {
	f.Add(idPrefix + "demo")
	f.Add(strings.ToUpper(idPrefix) + "DEMO")
	f.Add("/subscriptions//resourceGroups//providers///")
	f.Add(strings.Replace(idPrefix, "apps", "\xff", 1) + "x")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.ParseResourceID(s)
		if err != nil {
			if id != (identity.ResourceID{}) {
				t.Errorf("an error and %+v", id)
			}
			return
		}
		if id.String() != s {
			t.Errorf("String is %q, was %q", id, s)
		}
		again, err := identity.ParseResourceID(id.Key())
		if err != nil || again.Key() != id.Key() {
			t.Errorf("key %q reads as %q, %v", id.Key(), again.Key(), err)
		}
		for _, part := range []string{id.SubscriptionID, id.ResourceGroup, id.Name} {
			if part == "" || strings.ContainsAny(part, "/?#% \n") {
				t.Errorf("part %q of %q", part, s)
			}
		}
	})
}

func BenchmarkGrants(b *testing.B) {
	p := pod("a", "demo")
	bindings := benchBindings()
	find := lookup(id("a", "one"))
	b.ReportAllocs()
	for b.Loop() {
		if grants, _ := (identity.Rules{ForceNamespaced: true}).Grants(p, bindings, find); len(grants) != 1 {
			b.Fatal("not granted")
		}
	}
}
