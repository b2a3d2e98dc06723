package authorize

import (
	"maps"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// entitledNames returns the names of the identities from Entitled. said reports whether Changed was
// signaled.
func entitledNames(t *Table) (names []string, said bool) {
	select {
	case <-t.Changed():
		said = true
	default:
	}
	for _, id := range t.Entitled() {
		names = append(names, id.Name)
	}
	slices.Sort(names)
	return names, said
}

func TestEntitled(t *testing.T) {
	web := map[string]string{v1.BindingLabel: "web"}
	table := newTable(nil)
	steps := []struct {
		name string
		do   func()
		said bool
		want []string
	}{
		{name: "nothing yet", do: func() {}},
		{name: "a pod", do: func() { table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: web}) }, said: true},
		{name: "its identity", do: func() { table.SetIdentity(anIdentity("one")) }},
		{name: "bound", do: func() { table.SetBinding(aBinding("b", "one", "web", 0)) }, said: true},
		{name: "on its way", do: func() { table.SetAssigned(assigned("web", "one", v1.StateCreated)) }, said: true},
		{name: "there", do: func() { table.SetAssigned(assigned("web", "one", v1.StateAssigned)) }, said: true, want: []string{"one"}},
		{name: "nothing since", do: func() {}},
		{name: "the same pod again", do: func() { table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: web}) }},
		{name: "two pods", do: func() {
			for _, pod := range []string{"web-2", "web-3"} {
				table.SetPod(identity.Pod{Namespace: "ns", Name: pod, Labels: web})
				table.SetAssigned(assigned(pod, "one", v1.StateAssigned))
			}
		}, said: true, want: []string{"one"}},
		{name: "a second identity", do: func() {
			table.SetIdentity(anIdentity("two"))
			table.SetBinding(aBinding("b2", "two", "web", 0))
			table.SetAssigned(assigned("web", "two", v1.StateAssigned))
		}, said: true, want: []string{"one", "two"}},
		{name: "in quarantine", do: func() {
			table.SetAssigned(assigned("web", "two", v1.StateCreated, refusedFor("IdentityNotFound")))
		}, said: true, want: []string{"one"}},
		{name: "excepted", do: func() {
			e := &v1.AzurePodIdentityException{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "e"}}
			e.Spec.PodLabels = map[string]string{"x": "y"}
			table.SetException(e)
			entitledNames(table)
			table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: with(web, "x", "y")})
		}, said: true},
		{name: "gone", do: func() { table.RemovePod(key("web-2")); table.RemovePod(key("web-3")) }},
	}
	for _, step := range steps {
		step.do()
		got, said := entitledNames(table)
		if said != step.said || !slices.Equal(got, step.want) {
			t.Errorf("%s: %v (said %v), want %v (%v)", step.name, got, said, step.want, step.said)
		}
	}
}

func TestEntitledWithoutMIC(t *testing.T) {
	table := newTable(func(c *Config) { c.Standard = false })
	table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: map[string]string{v1.BindingLabel: "web"}})
	table.SetIdentity(anIdentity("one"))
	table.SetBinding(aBinding("b", "one", "web", 0))
	if got, _ := entitledNames(table); !slices.Equal(got, []string{"one"}) {
		t.Errorf("got %v: the binding is enough", got)
	}
}

func with(labels map[string]string, name, value string) map[string]string {
	more := maps.Clone(labels)
	more[name] = value
	return more
}
