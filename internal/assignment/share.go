// Fair selection when not all keys fit.

package assignment

import (
	"maps"
	"slices"
)

// Share returns n of the keys, chosen so that the tenants take turns: a tenant with a thousand keys
// does not keep out one with a single key. tenants returns the tenants of a key. A key of several
// tenants is chosen once, on the first turn of any of them. All keys without a tenant count as
// those of one tenant. The result is in the order of choice and deterministic.
func Share(keys []string, tenants func(key string) []string, n int) []string {
	queues := map[string][]string{}
	for _, key := range slices.Sorted(slices.Values(keys)) {
		of := tenants(key)
		if len(of) == 0 {
			of = []string{""}
		}
		for _, tenant := range of {
			queues[tenant] = append(queues[tenant], key)
		}
	}
	turns := slices.Sorted(maps.Keys(queues))
	taken := map[string]bool{}
	out := make([]string, 0, min(n, len(keys)))
	for len(turns) > 0 && len(out) < n {
		turns = slices.DeleteFunc(turns, func(tenant string) bool {
			queue := queues[tenant]
			for len(queue) > 0 && taken[queue[0]] {
				queue = queue[1:]
			}
			if len(queue) == 0 || len(out) >= n {
				return true
			}
			out, queues[tenant] = append(out, queue[0]), queue[1:]
			taken[queue[0]] = true
			return false
		})
	}
	return out
}
