package authorize

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// item is an object of a test: its value after its name.
type item struct{ namespace, name, value string }

func (i item) GetNamespace() string { return i.namespace }
func (i item) GetName() string      { return i.name }

// TestIndex compares an index with a plain map of maps, whatever comes and goes.
func TestIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, want := index[item]{}, map[string]map[string]item{}
		for i := range rapid.IntRange(1, 100).Draw(t, "steps") {
			by := strconv.Itoa(rapid.IntRange(0, 1).Draw(t, "by"))
			it := item{strconv.Itoa(rapid.IntRange(0, 2).Draw(t, "namespace")), strconv.Itoa(rapid.IntRange(0, 9).Draw(t, "name")), strconv.Itoa(i)}
			name := it.namespace + "/" + it.name
			_, had := want[by][name]
			if rapid.Bool().Draw(t, "put") {
				if first := x.put(by, it); first != (len(want[by]) == 0) {
					t.Fatalf("put %v: first is %v", it, first)
				}
				if want[by] == nil {
					want[by] = map[string]item{}
				}
				want[by][name] = it
			} else {
				if last := x.remove(by, it.namespace, it.name); last != (had && len(want[by]) == 1) {
					t.Fatalf("remove %v: last is %v", it, last)
				}
				if delete(want[by], name); len(want[by]) == 0 {
					delete(want, by)
				}
			}
			if len(x) != len(want) {
				t.Fatalf("%d properties, want %d", len(x), len(want))
			}
			for _, by := range []string{"0", "1"} {
				var sorted []item
				for _, name := range slices.Sorted(maps.Keys(want[by])) {
					sorted = append(sorted, want[by][name])
				}
				if !slices.Equal(x[by], sorted) {
					t.Fatalf("with %s: got %v, want %v", by, x[by], sorted)
				}
			}
		}
	})
}
