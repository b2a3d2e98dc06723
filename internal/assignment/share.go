// Sharing what does not suffice for all.

package assignment

import (
	"maps"
	"slices"
)

// Share takes n of the keys so that every tenant gets one in turn: who asks for a
// thousand does not keep out who asks for one. tenants tells who asks for a key;
// one that several ask for is taken once, by whoever's turn comes first. Of those
// nobody asks for, all together count as one tenant. The keys come back in the
// order in which they were taken; the same keys give the same order.
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
