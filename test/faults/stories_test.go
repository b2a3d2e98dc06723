package faults_test

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

// fixedSeed is the seed of a story whose history is always the same.
const fixedSeed = 1

// TestFaults runs every story with its own parts, some at the same time.
func TestFaults(t *testing.T) {
	if os.Getenv(envTest) == "" {
		t.Skip("fault runs need root and a control plane: run `make test-faults`")
	}
	long := os.Getenv(envLong) != ""
	seed, fixed := rand.Uint64()>>32, !long
	if text := os.Getenv(envSeed); text != "" {
		fixed = false
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s=%q: give a number", envSeed, text)
		}
	}
	t.Logf("%s=%d", envSeed, seed)
	for i, s := range []story{
		{name: "killed", mics: 1, fixed: true, trouble: killed},
		{name: "one of two killed", mics: 2, trouble: killed},
		{name: "no API server", mics: 1, trouble: noAPIServer},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if s.fixed && fixed {
				runStory(t, s, i, fixedSeed, long)
				return
			}
			runStory(t, s, i, seed, long)
		})
	}
}

// wait lets time pass.
func (r *run) wait(d time.Duration) {
	select {
	case <-alarm(d):
	case <-r.Context().Done():
		r.Fatal(context.Cause(r.Context()))
	}
}

// killed: MIC is killed repeatedly, at random times: while it starts, while it waits for Azure,
// while it writes.
func killed(r *run) {
	rng := r.random("kills")
	kills := 12
	if r.story.mics > 1 {
		kills = 5
	}
	if r.long {
		kills = 50
	}
	for range kills {
		index := rng.IntN(r.story.mics)
		longest := 4 * time.Second
		if r.story.mics > 1 {
			longest = lease * 3 / 2
		}
		r.wait(between(rng, 0, longest))
		r.note("MIC " + strconv.Itoa(index) + " is killed")
		r.killMIC(index)
		r.wait(between(rng, 0, time.Second/2))
		r.startMIC(index)
	}
}

// noAPIServer: the API server is killed and returns after a while, once together with etcd.
func noAPIServer(r *run) {
	rng := r.random("outages")
	outages, longest := 3, 6*time.Second
	if r.long {
		outages, longest = 12, 20*time.Second
	}
	for i := range outages {
		r.wait(between(rng, 3*time.Second, 6*time.Second))
		killed := time.Now()
		away := between(rng, 2*time.Second, longest)
		r.note("the API server is killed for " + away.String())
		r.api.kill()
		if i == 1 {
			r.etcd.kill()
			r.startEtcd()
		}
		r.wait(away)
		started := time.Now()
		r.startAPI()
		r.note("the API server is back")
		r.missing(outage{killed: killed, started: started, ready: time.Now()})
	}
	r.wait(3 * time.Second)
}

// The random duration of an update of a node group.
const (
	shortestUpdate = 100 * time.Millisecond
	longestUpdate  = time.Second
)

// weather varies the duration of updates until the context ends.
func (r *rig) weather(ctx context.Context, rng *rand.Rand) {
	for {
		took := between(rng, shortestUpdate, longestUpdate)
		err := r.azure.World().Edit(func(d *world.Document) error { d.Settings.ARM.UpdateDuration = world.Duration(took); return nil })
		if err != nil {
			r.t.Error(err)
		}
		select {
		case <-alarm(2 * time.Second):
		case <-ctx.Done():
			return
		}
	}
}

// between returns a random duration.
func between(rng *rand.Rand, shortest, longest time.Duration) time.Duration {
	return shortest + time.Duration(rng.Int64N(int64(longest-shortest)+1))
}
