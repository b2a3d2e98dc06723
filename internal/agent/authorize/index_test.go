package authorize

import (
	"maps"
	"strconv"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// TestIndex holds an index against a plain map of maps, whatever comes and goes.
func TestIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, want := index[int]{}, map[string]map[types.NamespacedName]int{}
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			by := strconv.Itoa(rapid.IntRange(0, 1).Draw(t, "by"))
			name := types.NamespacedName{Name: strconv.Itoa(rapid.IntRange(0, 2).Draw(t, "name"))}
			if rapid.Bool().Draw(t, "put") {
				x.put(by, name, i)
				if want[by] == nil {
					want[by] = map[types.NamespacedName]int{}
				}
				want[by][name] = i
			} else {
				x.remove(by, name)
				if delete(want[by], name); len(want[by]) == 0 {
					delete(want, by)
				}
			}
			if len(x) != len(want) {
				t.Fatalf("%d properties, want %d", len(x), len(want))
			}
			for _, by := range []string{"0", "1"} {
				if got := maps.Collect(x.with(by)); !maps.Equal(got, want[by]) {
					t.Fatalf("with %s: got %v, want %v", by, got, want[by])
				}
			}
		}
	})
}
