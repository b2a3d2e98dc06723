// What happens on Azure: people put identities onto node groups and take them off by hand, and updates take now longer,
// now shorter.
package faults_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

// The time that an update of a node group takes, at random.
const (
	shortestUpdate = 100 * time.Millisecond
	longestUpdate  = time.Second
)

// people changes things on Azure by hand until the context ends.
func (r *rig) people(ctx context.Context, rng *rand.Rand) {
	for {
		select {
		case <-alarm(between(rng, 300*time.Millisecond, 3*time.Second)):
		case <-ctx.Done():
			return
		}
		g := groups()[rng.IntN(len(groups()))]
		switch rng.IntN(6) {
		case 0:
			r.putByHand(ctx, g)
		case 1:
			r.makeAgain(goodIDs()[rng.IntN(goodIdentities)])
		default:
			r.takeByHand(ctx, g, rng)
		}
	}
}

// putByHand puts an identity onto a group that MIC knows nothing of. From then on it has to stay.
func (r *rig) putByHand(ctx context.Context, g group) {
	if !r.byHand(ctx, g, handID(g.name), true) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range r.foreign[g.key()] {
		if id == handID(g.name) {
			return
		}
	}
	r.foreign[g.key()] = append(r.foreign[g.key()], handID(g.name))
}

// takeByHand takes an identity off a group that MIC put there. If pods need it, it has to come back.
func (r *rig) takeByHand(ctx context.Context, g group, rng *rand.Rand) {
	m, ok := r.azure.World().Machine(g.id())
	if !ok {
		return
	}
	var ours []string
	for _, id := range m.Identities {
		if !strings.HasPrefix(short(id), foreignPrefix) {
			ours = append(ours, id)
		}
	}
	if len(ours) > 0 {
		r.byHand(ctx, g, ours[rng.IntN(len(ours))], false)
	}
}

// makeAgain deletes an identity and makes another one under its name. Wherever it is, it has to be assigned anew.
func (r *rig) makeAgain(id string) {
	r.note("by hand: " + short(id) + " deleted and made again")
	err := r.azure.World().Edit(func(d *world.Document) error {
		for i := range d.Identities {
			if d.Identities[i].ResourceID == id {
				d.Identities[i].ClientID, d.Identities[i].PrincipalID = world.NewGUID(), world.NewGUID()
			}
		}
		return nil
	})
	if err != nil {
		r.t.Errorf("make %s again: %v", short(id), err)
	}
}

// byHand makes one change, as soon as no other is under way; it tells whether it came to that.
func (r *rig) byHand(ctx context.Context, g group, id string, there bool) (done bool) {
	verb := map[bool]string{true: "put onto", false: "taken off"}[there]
	for {
		m, ok := r.azure.World().Machine(g.id())
		if !ok {
			return false
		}
		_, err := r.azure.World().BeginUpdate(g.id(), world.Change{System: m.SystemAssigned != nil, User: true, Identities: map[string]bool{id: there}})
		if err == nil {
			r.note("by hand: " + short(id) + " " + verb + " " + g.name)
			return true
		}
		if !errors.Is(err, world.ErrBusy) {
			r.t.Errorf("%s, %s %s by hand: %v", short(id), verb, g.name, err)
			return false
		}
		select {
		case <-alarm(20 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
}

// weather lets updates take a random time until the context ends.
func (r *rig) weather(ctx context.Context, rng *rand.Rand) {
	for {
		took := between(rng, shortestUpdate, longestUpdate)
		r.settings(func(s *world.Settings) { s.ARM.UpdateDuration = world.Duration(took) })
		select {
		case <-alarm(2 * time.Second):
		case <-ctx.Done():
			return
		}
	}
}

// settings turns the emulator's dials.
func (r *rig) settings(change func(*world.Settings)) {
	err := r.azure.World().Edit(func(d *world.Document) error { change(&d.Settings); return nil })
	if err != nil {
		r.t.Error(err)
	}
}

// between is a random time.
func between(rng *rand.Rand, shortest, longest time.Duration) time.Duration {
	return shortest + time.Duration(rng.Int64N(int64(longest-shortest)+1))
}
