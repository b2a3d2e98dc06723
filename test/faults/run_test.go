// One run: the course of a story and its checks, from the first object to the last.
package faults_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

const (
	// settleTimeout bounds the time until everything is at rest once nothing fails any more. Azure
	// allows a scale set four updates a minute, and MIC does not try more.
	settleTimeout = 3 * time.Minute
	// mostPerSecond is the bound of requests to ARM: reading and writing every group, with polls,
	// twice, for a machine that stalled for a second.
	mostPerSecond = 120
	// changesEvery is the mean time between two changes in the cluster.
	changesEvery = 40 * time.Millisecond
	// changesFirst is the number of changes that fill the cluster at first.
	changesFirst = 120
)

// story is one kind of failure.
type story struct {
	name string
	// mics is the number of replicas of MIC.
	mics int
	// fixed means that the history is always the same unless a seed is given, so that runs are
	// comparable.
	fixed bool
	// trouble causes the failures, and returns when they are over.
	trouble func(*run)
}

// run is a story in progress.
type run struct {
	*rig
	*testing.T
	story story
	seed  uint64
	long  bool

	steady map[types.UID]string // the assigned identities of pods that stay
	began  time.Time            // the end of the first rest
	before []needs
	unrest string // what was wrong after settleTimeout
}

// random returns a separate source for each purpose, so that they do not affect each other.
func (r *run) random(purpose string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(r.story.name + "/" + purpose)) // a hash never fails
	return rand.New(rand.NewPCG(r.seed, h.Sum64()))
}

// runStory runs a story from start to end.
func runStory(t *testing.T, s story, number int, seed uint64, long bool) {
	r := &run{rig: newRig(t, number), T: t, story: s, seed: seed, long: long, steady: map[types.UID]string{}}
	defer r.explain()
	for i := range s.mics {
		r.startMIC(i)
	}
	r.settleIn()
	r.disturb()
	r.settle("after the trouble")
	r.checkSteady()
	r.patient()
	r.fixRefused()
	r.settle("after refused identities were fixed")
	r.idle()
	r.serveAtOnce()
	r.judge()
}

// settleIn creates the pods that stay, and waits until MIC is at rest for the first time.
func (r *run) settleIn() {
	for i, node := range steadyNodes() {
		name := fmt.Sprintf("%s%d", steadyPrefix, i)
		meta := metav1.ObjectMeta{Namespace: steady, Name: name}
		r.must(r.client.Create(r.Context(), &v1.AzureIdentity{ObjectMeta: meta, Spec: v1.AzureIdentitySpec{ResourceID: steadyIDs()[i]}}))
		r.must(r.client.Create(r.Context(), &v1.AzureIdentityBinding{ObjectMeta: meta, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: name}}))
		r.must(r.client.Create(r.Context(), newPod(steady, name, name, node)))
	}
	now := r.settle("before the trouble")
	for i := range now.assigned {
		r.steady[now.assigned[i].UID] = now.assigned[i].Name
	}
	r.quiet()
	r.began = time.Now()
	for i := range r.mics {
		n, err := r.needs(r.Context(), i)
		r.must(err)
		r.before = append(r.before, n)
	}
}

// disturb causes the failures while things change.
func (r *run) disturb() {
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	var all sync.WaitGroup
	all.Go(func() { r.churn(ctx, r.random("history")) })
	all.Go(func() { r.weather(ctx, r.random("weather")) })
	r.story.trouble(r)
	stop()
	all.Wait()
	for i, m := range r.mics {
		if !m.alive() {
			r.Errorf("MIC %d has ended by itself:\n%s", i, m.said(20))
			r.startMIC(i)
		}
	}
	r.note("the trouble is over")
}

// churn applies the history until the context ends, and then completes what is half done.
func (r *run) churn(ctx context.Context, rng *rand.Rand) {
	h := newHistory(rng)
	for range changesFirst {
		r.happen(h.next())
	}
	for ctx.Err() == nil {
		r.happen(h.next())
		select {
		case <-alarm(time.Duration(rng.ExpFloat64() * float64(changesEvery))):
		case <-ctx.Done():
		}
	}
	for _, c := range h.goOn() {
		r.happen(c)
	}
}

// happen makes a change, however long it takes, because the history relies on it.
func (r *run) happen(c change) {
	ctx, cancel := context.WithTimeout(r.Context(), startTime)
	defer cancel()
	r.note(c.what)
	var first time.Time // attempt that may have had an effect
	for {
		began := time.Now()
		err := c.do(ctx, r.client)
		if err == nil {
			if !first.IsZero() {
				r.retry(retried{began: first, ended: time.Now()})
			}
			return
		}
		if first.IsZero() && !refused(err) {
			first = began
		}
		if mistaken(err) || ctx.Err() != nil {
			r.Errorf("%s: %v", c.what, err)
			return
		}
		select {
		case <-alarm(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// refused reports whether a change certainly had no effect: no API server has read it.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err)
}

// settle waits until everything is as it must be.
func (r *run) settle(when string) rest {
	r.Helper()
	began := time.Now()
	var wrong []string
	for {
		now, err := r.look(r.Context())
		if err == nil {
			if wrong = now.wrong(); len(wrong) == 0 {
				r.Logf("%s: at rest after %.1f s; %d pods, %d assigned identities", when, time.Since(began).Seconds(), len(now.pods), len(now.assigned))
				return now
			}
		}
		if time.Since(began) > settleTimeout {
			r.unrest = fmt.Sprintf("%s: not at rest after %s (%v):\n%s", when, settleTimeout, err, strings.Join(wrong, "\n"))
			r.Fatal(r.unrest)
		}
		select {
		case <-alarm(250 * time.Millisecond):
		case <-r.Context().Done():
			r.Fatal(r.Context().Err())
		}
	}
}

// checkSteady checks that pods that stayed kept what they had.
func (r *run) checkSteady() {
	r.Helper()
	var list v1.AzureAssignedIdentityList
	r.must(r.client.List(r.Context(), &list, client.InNamespace(steady)))
	left := map[types.UID]bool{}
	for i := range list.Items {
		left[list.Items[i].UID] = true
	}
	for uid, name := range r.steady {
		if !left[uid] {
			r.Errorf("assigned identity %s of a pod that stayed was deleted and made again", name)
		}
	}
}

// fixRefused corrects the identities that Azure refuses, as a person would after reading the
// reason.
func (r *run) fixRefused() {
	var list v1.AzureIdentityList
	r.must(r.client.List(r.Context(), &list))
	for i := range list.Items {
		id := &list.Items[i]
		named, _ := r.azure.World().Identity(id.Spec.ResourceID)
		if refusals()[fold(id.Spec.ResourceID)] == "" && !mismatched(id.Spec, named.ClientID) {
			continue
		}
		r.happen(change{"fix identity " + id.Namespace + "/" + id.Name, func(ctx context.Context, c client.Client) error {
			return edit(ctx, c, c, id, func(i *v1.AzureIdentity) { i.Spec.ResourceID, i.Spec.ClientID = goodIDs()[0], "" })
		}})
	}
}

// quiet waits until MIC writes nothing any more, since Events come after what they report.
func (r *run) quiet() {
	r.Helper()
	const still, most = 3 * time.Second, 2 * time.Minute
	for began := time.Now(); ; {
		since := time.Now()
		<-alarm(still)
		written := r.written(since)
		if len(written) == 0 && r.writesToARM(since) == 0 {
			return
		}
		if time.Since(began) > most {
			r.Fatalf("MIC does not stop writing: %v in the last %s", written, still)
		}
	}
}

func (r *run) writesToARM(since time.Time) (n int) {
	for _, c := range r.calls().list {
		if c.write && c.at.After(since) {
			n++
		}
	}
	return n
}

// explain logs what led to a failure.
func (r *run) explain() {
	if !r.Failed() {
		return
	}
	r.mu.Lock()
	done := slices.Clone(r.done)
	r.mu.Unlock()
	r.Logf("to repeat this history: %s=%d", envSeed, r.seed)
	r.Logf("the last of what happened:\n%s", strings.Join(done[max(len(done)-60, 0):], "\n"))
	for _, m := range r.mics {
		r.Logf("%s said at last:\n%s", m.name, shortened(m.said(40)))
	}
	r.must(writeLines(r.path("history.log"), done))
	var asked []string
	for _, c := range r.calls().list {
		asked = append(asked, c.String())
	}
	r.must(writeLines(r.path("arm.log"), asked))
	if r.unrest != "" {
		for _, wrong := range r.moments().wrong() {
			r.Log(wrong)
		}
		r.Log(r.unrest) // again, at the end of a long log
	}
}

// shortened cuts long lines. The file that is kept has them in full.
func shortened(text string) string {
	const most = 300
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if len(line) > most {
			lines[i] = strings.ToValidUTF8(line[:most], "") + "…"
		}
	}
	return strings.Join(lines, "\n")
}
