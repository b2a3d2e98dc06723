// Passing tokens on to the agent that replaces this one, so that it needs none from their sources
// when it begins.

package token

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
)

// Carried is a token on its way to another agent, in memory only. It prints as a mask.
type Carried struct {
	Namespace, Name string
	UID             types.UID
	Spec            v1.AzureIdentitySpec
	Resource        string
	Reply           json.RawMessage // as a pod gets it
	Since           time.Time       // when the source first returned it
}

// Format writes a mask, whatever the verb.
func (Carried) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[token]")) }

// Identity returns the identity that the token is of.
func (c Carried) Identity() *v1.AzureIdentity {
	return &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name, UID: c.UID}, Spec: c.Spec,
	}
}

// MaxCarried is the size of the largest reply that is passed on, in bytes.
const MaxCarried = 64 << 10

// Carry returns the tokens in use, the latest used first. Those with auxiliary tokens, and very
// large ones, are left out: the next agent gets new ones.
func (c *Cache) Carry() []Carried {
	now := time.Now()
	type used struct {
		Carried
		last int64
	}
	var all []used
	c.mu.RLock()
	for _, e := range c.entries {
		t, last := e.token.Load(), e.used.Load()
		if last == 0 || !t.fresh(now) {
			continue
		}
		reply := t.Body.Append(nil, now)
		if len(reply) > MaxCarried || len(reply) == 0 || reply[0] != '{' {
			continue
		}
		id := e.request.Identity
		all = append(all, used{Carried{
			Namespace: id.Namespace, Name: id.Name, UID: id.UID, Spec: id.Spec,
			Resource: e.request.Resource, Reply: reply, Since: t.since,
		}, last})
	}
	c.mu.RUnlock()
	slices.SortFunc(all, func(a, b used) int { return cmp.Compare(b.last, a.last) })
	carried := make([]Carried, len(all))
	for i := range all {
		carried[i] = all[i].Carried
	}
	return carried
}

// Adopt keeps a token that another agent passed on, restored from its reply, unless there is one.
func (c *Cache) Adopt(from Carried, t *Token) error {
	r := Request{Identity: from.Identity(), Resource: from.Resource}
	k, now := keyOf(r), time.Now()
	t.hash()
	t.units = 1 + (t.Size()+len(r.Resource))/unit
	body, err := c.cfg.Render(t, r)
	if err != nil {
		return err
	}
	t.Body, t.Fields, t.since = body, nil, from.Since
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[k] != nil || c.fetches[k] != nil || !t.fresh(now) {
		return nil
	}
	e := c.add(k, t.units, now)
	e.request = r
	e.token.Store(t)
	e.used.Store(now.UnixNano())
	c.recent.record(k, now)
	if t.ObjectID != "" {
		c.objects[k.identity()] = t.ObjectID
	}
	c.schedule(k, e, t.refreshIn(now, rand.Float64()), now) //nolint:gosec // spreads load, guards nothing
	return nil
}
