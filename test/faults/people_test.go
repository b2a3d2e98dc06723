// Changes on Azure: people attach and detach identities by hand, and updates take varying time.
package faults_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

// The random duration of an update of a node group.
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

// putByHand attaches an identity that MIC knows nothing of to a group. It must stay from then on.
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

// takeByHand detaches an identity that MIC attached to a group. If pods need it, it must return.
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

// makeAgain deletes an identity and recreates it under its name. Wherever it is needed, it must be
// assigned again.
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

// byHand makes one change as soon as no update is in progress, and reports whether it did.
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

// weather varies the duration of updates until the context ends.
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

// settings changes the emulator's settings.
func (r *rig) settings(change func(*world.Settings)) {
	err := r.azure.World().Edit(func(d *world.Document) error { change(&d.Settings); return nil })
	if err != nil {
		r.t.Error(err)
	}
}

// between returns a random duration.
func between(rng *rand.Rand, shortest, longest time.Duration) time.Duration {
	return shortest + time.Duration(rng.Int64N(int64(longest-shortest)+1))
}
