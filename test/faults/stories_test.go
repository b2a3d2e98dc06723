package faults_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
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
		{name: "one of two killed", mics: 2, hands: true, trouble: killed},
		{name: "no API server", mics: 1, trouble: noAPIServer},
		{name: "Azure is ill", mics: 1, hands: true, crowd: true, trouble: azureIll},
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
		from := time.Now()
		away := between(rng, 2*time.Second, longest)
		r.note("the API server is killed for " + away.String())
		r.api.kill()
		if i == 1 {
			r.etcd.kill()
			r.startEtcd()
		}
		r.wait(away)
		starts := time.Now()
		r.startAPI()
		r.note("the API server is back")
		r.missing(span{from, starts}, time.Now())
	}
	r.wait(3 * time.Second)
}

// operationsFail is a fault with a certain outcome.
const operationsFail = "operations are preempted"

// ills returns the faults of Azure.
func ills(long bool) []world.Fault {
	hang := 20 * time.Second
	if long {
		hang = time.Minute
	}
	const operations, nodeGroups = "*/operations/*", "*/resourceGroups/*"
	return []world.Fault{
		{Name: "writes are throttled", Method: http.MethodPatch, Status: http.StatusTooManyRequests, RetryAfter: 3, Probability: 0.7},
		{Name: "everything is throttled", Status: http.StatusTooManyRequests, RetryAfter: 2, Probability: 0.5},
		{Name: "500", Path: nodeGroups, Status: http.StatusInternalServerError, Probability: 0.7},
		{Name: "503", Path: nodeGroups, Status: http.StatusServiceUnavailable, RetryAfter: 2, Probability: 0.5},
		{Name: operationsFail, Method: http.MethodPatch, Path: nodeGroups, Operation: "OperationPreempted", Probability: 0.6},
		{Name: "operations are said to have failed", Path: operations, Status: http.StatusOK, Count: 4, Body: `{"status":"Canceled","error":{"code":"OperationPreempted","message":"The operation has been preempted by a more recent operation."}}`},
		{Name: "answers get lost", Path: nodeGroups, Drop: true, After: true, Probability: 0.5},
		{Name: "polls fail", Path: operations, Status: http.StatusInternalServerError, Probability: 0.5},
		{Name: "hangs", Hang: true, Latency: world.Duration(hang), Probability: 0.5},
	}
}

// azureIll: Azure has one fault after the other, and limits.
func azureIll(r *run) {
	rng := r.random("ills")
	r.settings(func(s *world.Settings) {
		s.Limits.Enabled = true
		s.Limits.ScaleSetWrites, s.Limits.MachineWrites = world.Bucket{Size: 12, PerMinute: 30}, world.Bucket{Size: 12, PerMinute: 30}
	})
	defer r.settings(func(s *world.Settings) { s.Limits.Enabled = false })
	list := ills(r.long)
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	if r.long {
		list = slices.Concat(list, list, list)
	}
	for _, ill := range list {
		lasts := between(rng, 3*time.Second, 5*time.Second)
		if ill.Hang {
			lasts, ill.Latency = time.Duration(ill.Latency), 0
		}
		ill.Surface = world.SurfaceARM
		r.note("Azure: " + ill.Name + " for " + lasts.String())
		r.must(r.azure.World().SetFault(ill))
		r.wait(lasts)
		r.azure.World().RemoveFault(ill.Name)
		r.wait(between(rng, 500*time.Millisecond, 2*time.Second))
	}
}
