package identity_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// Few names, so that objects meet.
var (
	namespaces = []string{"a", "b", "c"}
	names      = []string{"one", "two", "three"}
	selectors  = []string{"", "demo", "Demo", "other"}
)

// world is a small cluster.
type world struct {
	rules    identity.Rules
	pod      identity.Pod
	bindings []*v1.AzureIdentityBinding
	ids      []*v1.AzureIdentity
}

func drawWorld(t *rapid.T) world {
	w := world{
		rules: identity.Rules{ForceNamespaced: rapid.Bool().Draw(t, "forced")},
		pod:   pod(pick(t, "pod namespace", namespaces), pick(t, "label", selectors)),
	}
	for _, namespace := range namespaces {
		for _, name := range names {
			if rapid.Bool().Draw(t, "identity exists") {
				w.ids = append(w.ids, drawIdentity(t, namespace, name))
			}
		}
	}
	for range rapid.IntRange(0, 8).Draw(t, "bindings") {
		b := bind(pick(t, "binding namespace", namespaces), pick(t, "binding name", names),
			pick(t, "selector", selectors), pick(t, "identity", names), rapid.IntRange(-1, 1).Draw(t, "weight"))
		if rapid.IntRange(0, 9).Draw(t, "deleted") == 0 {
			deleted(b)
		}
		w.bindings = append(w.bindings, b)
	}
	return w
}

func drawIdentity(t *rapid.T, namespace, name string) *v1.AzureIdentity {
	i := id(namespace, name, created(rapid.Int64Range(0, 2).Draw(t, "age")))
	i.Spec.ClientID = pick(t, "client", []string{guidA, guidB, ""})
	if rapid.Bool().Draw(t, "namespaced") {
		annotated(pick(t, "annotation", []string{"namespaced", "Namespaced", "x"}))(i)
	}
	if rapid.IntRange(0, 3).Draw(t, "broken") == 0 {
		i.Spec.ResourceID = "broken"
	}
	return i
}

func pick(t *rapid.T, label string, from []string) string {
	return rapid.SampledFrom(from).Draw(t, label)
}

func (w world) ask() ([]identity.Grant, []*reason.Refusal) {
	return w.rules.Grants(w.pod, w.bindings, lookup(w.ids...))
}

func TestGrantProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		grants, refusals := w.ask()

		for _, g := range grants {
			if g.Identity.Namespace != g.Binding.Namespace || g.Identity.Name != g.Binding.Spec.AzureIdentity {
				t.Fatalf("%v: not the identity that the binding names", granted(grants))
			}
			if !slices.Contains(w.bindings, g.Binding) || g.Binding.Spec.Selector != w.pod.Labels[v1.BindingLabel] {
				t.Fatalf("%v: no such binding selects the pod", granted(grants))
			}
			if !g.Binding.DeletionTimestamp.IsZero() {
				t.Fatalf("%v: a deleted binding grants", granted(grants))
			}
			if (w.rules.ForceNamespaced || identity.Namespaced(g.Identity)) && g.Identity.Namespace != w.pod.Namespace {
				t.Fatalf("%v: crosses namespaces", granted(grants))
			}
			if identity.Check(g.Identity) != nil {
				t.Fatalf("%v: a broken identity is granted", granted(grants))
			}
		}
		for i := range grants {
			for j := range grants[:i] {
				if grants[i].Identity == grants[j].Identity {
					t.Fatalf("%v: granted twice", granted(grants))
				}
				if identity.Compare(grants[j], grants[i]) >= 0 {
					t.Fatalf("%v: out of order", granted(grants))
				}
			}
		}
		for _, r := range refusals {
			if r.Message == "" || r.Reason == reason.None {
				t.Fatalf("a refusal without a word: %+v", r)
			}
		}
	})
}

// Every binding that selects the pod has a result: a grant of its identity or a refusal that names
// it.
func TestEveryBindingAnswered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		grants, refusals := w.ask()
		if len(grants) == 0 && len(refusals) == 0 {
			t.Fatal("neither granted nor refused")
		}
		for _, b := range w.bindings {
			if b.Spec.Selector == "" || b.Spec.Selector != w.pod.Labels[v1.BindingLabel] || !b.DeletionTimestamp.IsZero() {
				continue
			}
			inGrants := slices.ContainsFunc(grants, func(g identity.Grant) bool {
				return g.Identity.Namespace == b.Namespace && g.Identity.Name == b.Spec.AzureIdentity
			})
			inRefusals := slices.ContainsFunc(refusals, func(r *reason.Refusal) bool { return r.Binding == b })
			if inGrants == inRefusals && (inGrants || !w.grantedAsOwn(grants, b)) {
				t.Fatalf("binding %s/%s: granted %v, refused %v", b.Namespace, b.Name, inGrants, inRefusals)
			}
		}
	})
}

// grantedAsOwn reports whether an object of the pod's own namespace represents the managed identity
// that a binding of another namespace names.
func (w world) grantedAsOwn(grants []identity.Grant, b *v1.AzureIdentityBinding) bool {
	at := slices.IndexFunc(w.ids, func(i *v1.AzureIdentity) bool { return i.Namespace == b.Namespace && i.Name == b.Spec.AzureIdentity })
	return at >= 0 && b.Namespace != w.pod.Namespace && w.ids[at].Spec.Type == v1.UserAssignedMSI &&
		slices.ContainsFunc(grants, func(g identity.Grant) bool {
			return g.Identity.Namespace == w.pod.Namespace && g.Identity.Spec.Type == v1.UserAssignedMSI &&
				strings.EqualFold(g.Identity.Spec.ResourceID, w.ids[at].Spec.ResourceID)
		})
}

// The result depends on the objects, not on their order.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.bindings = distinctNames(w.bindings)
		before, _ := w.ask()
		w.bindings = rapid.Permutation(w.bindings).Draw(t, "other order")
		after, _ := w.ask()
		if diff := cmp.Diff(granted(before), granted(after)); diff != "" {
			t.Fatalf("another order, another answer:\n%s", diff)
		}
	})
}

func distinctNames(bindings []*v1.AzureIdentityBinding) []*v1.AzureIdentityBinding {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(bindings), func(b *v1.AzureIdentityBinding) bool {
		key := b.Namespace + "/" + b.Name
		defer func() { seen[key] = true }()
		return seen[key]
	})
}

func TestPrecedenceIsTotal(t *testing.T) {
	draw := rapid.Custom(func(t *rapid.T) identity.Grant {
		i := drawIdentity(t, pick(t, "namespace", namespaces), pick(t, "name", names))
		return identity.Grant{Identity: i, Binding: bind(i.Namespace, pick(t, "binding", names), "demo", i.Name,
			rapid.IntRange(-1, 1).Draw(t, "weight"))}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := draw.Draw(t, "a"), draw.Draw(t, "b"), draw.Draw(t, "c")
		ab, bc, ac := identity.Compare(a, b), identity.Compare(b, c), identity.Compare(a, c)
		if identity.Compare(b, a) != -ab {
			t.Fatal("not antisymmetric")
		}
		if ab <= 0 && bc <= 0 && ac > 0 {
			t.Fatal("not transitive")
		}
		same := a.Identity.Name == b.Identity.Name && a.Identity.Namespace == b.Identity.Namespace &&
			a.Binding.Name == b.Binding.Name
		if ab == 0 && !same {
			t.Fatal("two different grants are equal")
		}
	})
}

func TestCaseDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		grants, _ := w.ask()
		s := identity.Selector{ClientID: pick(t, "client", []string{guidA, guidB, ""})}
		if rapid.Bool().Draw(t, "by resource") {
			s.ResourceID = idPrefix + pick(t, "resource", names)
		}
		upper := identity.Selector{ClientID: strings.ToUpper(s.ClientID), ResourceID: strings.ToUpper(s.ResourceID)}
		a, refusedA := identity.Choose(grants, s, nil)
		b, refusedB := identity.Choose(grants, upper, nil)
		if a.Identity != b.Identity || a.Binding != b.Binding || (refusedA == nil) != (refusedB == nil) {
			t.Fatalf("%s and %s differ", s, upper)
		}
		if (refusedA == nil) != (a.Identity != nil) {
			t.Fatal("neither chosen nor refused")
		}
		if refusedA == nil && !slices.ContainsFunc(grants, func(g identity.Grant) bool { return g.Identity == a.Identity && g.Binding == a.Binding }) {
			t.Fatal("chose what was not granted")
		}
	})
}
