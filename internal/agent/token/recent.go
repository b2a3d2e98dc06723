// The resources that identities are used for on this node.

package token

import (
	"slices"
	"time"
)

// recentResources records which resources the pods of this node request, by the UID of the
// identity. It keeps them after the tokens are gone: the next run of a job will request the same.
//
// It is not safe for concurrent use.
type recentResources struct{ of map[string]*identityResources }

type identityResources struct {
	namespace string
	requested []requested // the latest first, each resource once
	tried     []string    // defaults that were fetched ahead
}

type requested struct {
	resource string
	at       time.Time
}

const (
	// maxRecentIdentities is more than a node's pods use. maxRecent is more resources than should
	// be fetched ahead for one identity.
	maxRecentIdentities, maxRecent = 512, 4
	// recentTime covers jobs that run once a day.
	recentTime = 36 * time.Hour
)

func newRecentResources() *recentResources {
	return &recentResources{of: map[string]*identityResources{}}
}

// record records the use of a resource. The caller records only those with a token, so that
// requests that fail cannot fill the memory.
func (r *recentResources) record(k key, now time.Time) {
	x := r.get(k)
	x.requested = slices.DeleteFunc(x.requested, func(a requested) bool { return a.resource == k.resource })
	x.requested = slices.Insert(x.requested, 0, requested{k.resource, now})
	x.requested = x.requested[:min(len(x.requested), maxRecent)]
}

// candidates returns the resources that were requested recently, or else the defaults that were not
// tried. It marks the defaults as tried.
func (r *recentResources) candidates(k key, defaults []string, now time.Time) []string {
	x := r.get(k)
	var resources []string
	for _, a := range x.requested {
		if now.Sub(a.at) < recentTime {
			resources = append(resources, a.resource)
		}
	}
	if len(resources) > 0 {
		return resources
	}
	for _, resource := range defaults {
		if !slices.Contains(x.tried, resource) {
			resources = append(resources, resource)
		}
	}
	x.tried = defaults
	return resources
}

func (r *recentResources) get(k key) *identityResources {
	x := r.of[k.uid]
	if x != nil {
		return x
	}
	if len(r.of) >= maxRecentIdentities {
		r.evict(k.namespace)
	}
	x = &identityResources{namespace: k.namespace}
	r.of[k.uid] = x
	return x
}

// evict drops the least recently used identity of the namespace that has the most: the given one,
// if none has more.
func (r *recentResources) evict(namespace string) {
	count := map[string]int{}
	for _, x := range r.of {
		count[x.namespace]++
	}
	most := largest(count, namespace)
	var victim string
	var oldest time.Time
	for uid, x := range r.of {
		var last time.Time
		if len(x.requested) > 0 {
			last = x.requested[0].at
		}
		if x.namespace == most && (victim == "" || last.Before(oldest)) {
			victim, oldest = uid, last
		}
	}
	delete(r.of, victim)
}
