package identity_test

import (
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/identity"
)

func TestParseResourceID(t *testing.T) {
	const good = idPrefix + "demo"
	for _, tt := range []struct{ name, id, wrong string }{
		{"as the portal shows it", good, ""},
		{"lower case", strings.ToLower(good), ""},
		{"upper case", strings.ToUpper(good), ""},
		{"group of any script", strings.Replace(good, "apps", "größe_(1).x-y", 1), ""},
		{"group with marks", strings.Replace(good, "apps", "กลุ่ม-1", 1), ""},
		{"group with spacing marks", strings.Replace(good, "apps", "समूह-1", 1), ""},
		{"group, decomposed letters", strings.Replace(good, "apps", "E\u0301te\u0301", 1), ""},
		{"group with a Kelvin sign", strings.Replace(good, "apps", "ban\u212a", 1), "imitates a plain one"},
		{"group with a long s", strings.Replace(good, "apps", "\u017fql", 1), "imitates a plain one"},
		{"group with a dotted I", strings.Replace(good, "apps", "\u0130d", 1), "imitates a plain one"},
		{"group with a dotless i", strings.Replace(good, "apps", "\u0131d", 1), "imitates a plain one"},
		{"group with a joiner", strings.Replace(good, "apps", "a\u200db", 1), "is not the name of a resource group"},
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
	f.Add(strings.Replace(idPrefix, "apps", "E\u0301É", 1) + "demo")
	f.Add(strings.Replace(idPrefix, "apps", "ban\u212a", 1) + "demo")
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
		// A key stands for one identity: what has the same key differs in ASCII letters alone.
		for _, other := range []string{strings.ToUpper(s), strings.ToLower(s), strings.ToTitle(s)} {
			if o, err := identity.ParseResourceID(other); err == nil && (o.Key() == id.Key()) != ascii.EqualFold(other, s) {
				t.Errorf("%q and %q: equal keys: %v", s, other, o.Key() == id.Key())
			}
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
