package assignment

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// ofTenant is a key's tenant: what precedes the slash.
func ofTenant(key string) []string {
	tenant, _, _ := strings.Cut(key, "/")
	return strings.Split(tenant, "+")
}

func keysOf(tenant string, n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprintf("%s/%03d", tenant, i))
	}
	return keys
}

func TestAdmit(t *testing.T) {
	for name, c := range map[string]struct {
		used map[string]int
		keys []string
		want map[string]int // admitted, by tenant
	}{
		"all fit":                    {nil, append(keysOf("a", 10), keysOf("b", 10)...), map[string]int{"a": 10, "b": 10}},
		"one alone gets a fifth":     {nil, keysOf("a", 500), map[string]int{"a": 20}},
		"two get a sixth each":       {nil, append(keysOf("a", 500), keysOf("b", 500)...), map[string]int{"a": 16, "b": 16}},
		"full tenant, another one":   {map[string]int{"a": 20}, append(keysOf("a", 1), keysOf("b", 500)...), map[string]int{"b": 16}},
		"more than the room is used": {map[string]int{"old": 120}, keysOf("a", 1), nil},
		"shared key, one has room":   {map[string]int{"a": 20}, []string{"a+b/0"}, map[string]int{"a+b": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			admitted, refused := Room{Total: 100, Used: c.used}.Admit(c.keys, func(string) int { return 1 }, ofTenant)
			got := map[string]int{}
			for _, key := range admitted {
				tenant, _, _ := strings.Cut(key, "/")
				got[tenant]++
			}
			for tenant, n := range c.want {
				if got[tenant] != n {
					t.Errorf("%s: %d admitted, want %d", tenant, got[tenant], n)
				}
			}
			if len(got) != len(c.want) || len(admitted)+len(refused) != len(c.keys) {
				t.Errorf("admitted %v, refused %d of %d", got, len(refused), len(c.keys))
			}
		})
	}
}

// In whatever order 20 tenants fill it, the room is never exceeded, and another one gets something.
func TestAdmitLeavesRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const total = 1000
		used, sum := map[string]int{}, 0
		tenants := rapid.IntRange(1, 20).Draw(t, "tenants")
		for range rapid.IntRange(0, 60).Draw(t, "rounds") {
			tenant := fmt.Sprint("t", rapid.IntRange(1, tenants).Draw(t, "tenant"))
			keys := keysOf(tenant, rapid.IntRange(1, 400).Draw(t, "keys"))
			admitted, _ := Room{Total: total, Used: used}.Admit(keys, func(string) int { return 1 }, ofTenant)
			used[tenant] += len(admitted)
			sum += len(admitted)
		}
		if sum > total {
			t.Fatalf("%d of %d used", sum, total)
		}
		admitted, _ := Room{Total: total, Used: used}.Admit([]string{"new/0"}, func(string) int { return 1 }, ofTenant)
		if len(admitted) == 0 {
			t.Fatalf("no room for a new tenant with %d of %d used by %d", sum, total, len(used))
		}
	})
}
