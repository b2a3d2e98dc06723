package assignment

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestShare(t *testing.T) {
	of := map[string][]string{"a1": {"a"}, "a2": {"a"}, "a3": {"a"}, "b1": {"b"}, "ab": {"a", "b"}}
	for _, c := range []struct {
		name string
		keys []string
		n    int
		want []string
	}{
		{"none", nil, 3, []string{}},
		{"no room", []string{"a1"}, 0, []string{}},
		{"in turn", []string{"a3", "a2", "a1", "b1"}, 3, []string{"a1", "b1", "a2"}},
		{"what both need, once", []string{"ab", "b1", "a1"}, 3, []string{"a1", "ab", "b1"}},
		{"nobody's", []string{"y", "x", "a1"}, 2, []string{"x", "a1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Share(c.keys, func(key string) []string { return of[key] }, c.n)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestFairUpdate checks that an update has a share for every tenant, however much the others of a
// node group need. Identities that pods wait for come before early ones.
func TestFairUpdate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tenants := rapid.IntRange(1, 12).Draw(t, "tenants")
		of := map[string][]string{}
		g := Group{Desired: Set{}, Early: Set{}, Tenants: func(key string) []string { return of[key] }, Immutable: never}
		waiting := map[string]int{}
		for i := range tenants {
			tenant := fmt.Sprintf("t%02d", i)
			for k := range rapid.IntRange(0, 120).Draw(t, "needs") {
				key := fmt.Sprintf("%s-%d", tenant, k)
				if rapid.IntRange(0, 9).Draw(t, "kind") == 0 {
					key = fmt.Sprintf("shared-%d", k)
				}
				if slices.Contains(of[key], tenant) {
					continue
				}
				if !g.Desired.Has(key) && rapid.IntRange(0, 9).Draw(t, "early") == 0 {
					g.Early[key] = key
				}
				g.Desired[key], of[key] = key, append(of[key], tenant)
				if !g.Early.Has(key) {
					waiting[tenant]++
				}
			}
		}
		plan := ForGroup(g)
		if len(plan.Attach) != min(len(g.Desired), MaxPerRequest) {
			t.Fatalf("%d of %d", len(plan.Attach), len(g.Desired))
		}
		got, early := map[string]int{}, 0
		for _, key := range plan.Attach {
			if g.Early.Has(key) {
				early++
				continue
			}
			for _, tenant := range of[key] {
				got[tenant]++
			}
		}
		if late := len(g.Desired) - len(g.Early); early > 0 && len(plan.Attach)-early < late {
			t.Fatalf("%d early ones before %d that pods wait for", early, late-len(plan.Attach)+early)
		}
		for tenant, n := range waiting {
			if share := min(n, MaxPerRequest/tenants); got[tenant] < share {
				t.Fatalf("%s gets %d of %d, its share is %d", tenant, got[tenant], n, share)
			}
		}
		if again := ForGroup(g); !slices.Equal(plan.Attach, again.Attach) {
			t.Fatal("another plan for the same")
		}
	})
}
