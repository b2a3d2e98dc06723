// Fair division of a bounded capacity.

package assignment

// Room is a bounded capacity that tenants share for as long as they use it.
type Room struct {
	Total int
	// Used is what each tenant already occupies.
	Used map[string]int
}

// share is the part of what stays free that one tenant may occupy: a quarter.
const share = 4

// Admit divides keys into those that fit and those that do not. A tenant may occupy a quarter of
// what stays free: a single one gets a fifth of the room, and after 20 tenants that each took all
// they could, one hundredth is left for others. A key of several tenants is admitted if any of them
// has room, and counts as that tenant's. The tenants take turns, as in Share. Room is not changed.
func (r Room) Admit(keys []string, size func(key string) int, tenants func(key string) []string) (admitted, refused []string) {
	free, used := r.Total, map[string]int{}
	for tenant, n := range r.Used {
		free -= n
		used[tenant] = n
	}
	for _, key := range Share(keys, tenants, len(keys)) {
		n, fits := size(key), false
		of := tenants(key)
		if len(of) == 0 {
			of = []string{""}
		}
		for _, tenant := range of {
			if fits = share*(used[tenant]+n) <= free-n; fits {
				used[tenant] += n
				free -= n
				break
			}
		}
		if fits {
			admitted = append(admitted, key)
		} else {
			refused = append(refused, key)
		}
	}
	return admitted, refused
}
