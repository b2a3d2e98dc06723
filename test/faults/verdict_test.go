// After the rest: what MIC does without work, which resources it needs, and what it did before.
package faults_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

const (
	// mostIdle is the share of a CPU that an idle MIC may use.
	mostIdle = 0.05
	// atOnce is how long a pod may wait for an identity that is on its node already, on a slow
	// machine or one that stalls until MIC loses its Lease.
	atOnce = 30 * time.Second
	// slow is logged.
	slow = 3 * time.Second
	// afterAll is how long a pod may wait for an identity that is not on its node: Azure's limits
	// on updates may be used up.
	afterAll = 90 * time.Second
	// lateEvents is the number of Events that may be repeated, as client-go does for recurring
	// ones.
	lateEvents = 3
	// moreGoroutines is how many more goroutines a MIC may have than before, for connections and
	// workers that come and go. Its memory may double: before, it had six pods and had done nothing
	// yet. (The bounds also hold with the race detector.)
	moreGoroutines = 60
	moreMemory     = 2
)

// patient checks that MIC retries identities that Azure refuses now and then, not continually. What
// is still in flight when the objects are at rest, such as Events, is over at the next look.
func (r *run) patient() {
	r.Helper()
	const window, looks, mostToAzure, mostToCluster = 3 * time.Second, 5, 12, 40
	for look := 1; ; look++ {
		since := time.Now()
		<-alarm(window)
		toAzure, total := r.writesToARM(since), 0
		written := r.written(since)
		for _, n := range written {
			total += n
		}
		switch {
		case toAzure <= mostToAzure && total <= mostToCluster:
			return
		case look == looks:
			r.Errorf("at rest but for refused identities, MIC wrote to Azure %d times in %s, at most %d are fine, and to the API server: %v, at most %d are fine",
				toAzure, window, mostToAzure, written, mostToCluster)
			return
		}
	}
}

// idle checks that MIC does nothing while nothing happens. If a MIC lost its Lease because the
// machine stalled, it is watched again.
func (r *run) idle() {
	r.Helper()
	for range 3 {
		terms := r.terms()
		r.quiet()
		complaints := r.watchIdle()
		if r.terms() == terms {
			for _, c := range complaints {
				r.Error(c)
			}
			return
		}
		r.Log("MIC lost its Lease meanwhile, watching again")
	}
	r.Error("MIC loses its Lease all the time")
}

// terms counts how often MICs became leader.
func (r *run) terms() (n int) {
	for _, m := range r.mics {
		n += strings.Count(m.said(1<<20), "msg=leading")
	}
	return n
}

// watchIdle returns what MIC does while nothing happens.
func (r *run) watchIdle() (complaints []string) {
	r.Helper()
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	window := 5 * time.Second
	if r.long {
		window = 30 * time.Second
	}
	since, before := time.Now(), r.allNeeds()
	<-alarm(window)
	for i, after := range r.allNeeds() {
		used := (after.cpu - before[i].cpu) / time.Since(since).Seconds()
		r.Logf("MIC %d with nothing to do: %.2f %% of a CPU", i, 100*used)
		if used > mostIdle {
			complain("MIC %d uses %.1f %% of a CPU while nothing happens, at most %.0f %% are fine", i, 100*used, 100*mostIdle)
		}
	}
	written := r.written(since)
	maps.DeleteFunc(written, func(what string, n int) bool {
		return strings.HasSuffix(what, " events") && n <= lateEvents
	})
	if len(written) > 0 {
		complain("while nothing happened, MIC wrote to the API server: %v", written)
	}
	if n := r.writesToARM(since); n > 0 {
		complain("while nothing happened, MIC wrote to Azure %d times", n)
	}
	return complaints
}

func (r *run) allNeeds() (all []needs) {
	r.Helper()
	for i := range r.mics {
		n, err := r.needs(r.Context(), i)
		r.must(err)
		all = append(all, n)
	}
	return all
}

// serveAtOnce checks that after a long rest a new pod gets its identities without waiting for
// anything but Azure.
func (r *run) serveAtOnce() {
	r.Helper()
	first := steadyPrefix + "0"
	r.serve("late", first, steadyNodes()[0], atOnce)
	r.serve("late-elsewhere", first, lastNode, afterAll)
}

func (r *run) serve(pod, selector, node string, longest time.Duration) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), longest)
	defer cancel()
	for _, n := range nodes() { // it may have gone
		if n.Name == node {
			r.must(create(ctx, r.client, n))
		}
	}
	began := time.Now()
	r.must(r.client.Create(ctx, newPod(steady, pod, selector, node)))
	for {
		var list v1.AzureAssignedIdentityList
		r.must(r.client.List(ctx, &list, client.InNamespace(steady)))
		for i := range list.Items {
			if list.Items[i].Spec.Pod == pod && list.Items[i].Status.Status == v1.StateAssigned {
				took := time.Since(began)
				r.Logf("a new pod on %s has its identity after %.3f s", node, took.Seconds())
				if took > slow { // a slow machine, or MIC was not at once
					r.explainPod(pod)
				}
				return
			}
		}
		select {
		case <-alarm(20 * time.Millisecond):
		case <-ctx.Done():
			r.Fatalf("after a rest, a new pod on %s has no identity after %s", node, longest)
		}
	}
}

// explainPod logs the MICs' output about a pod.
func (r *run) explainPod(pod string) {
	for _, m := range r.mics {
		for line := range strings.Lines(m.said(200)) {
			if strings.Contains(line, pod) || strings.Contains(line, "level=error") {
				r.Logf("%s: %s", m.name, strings.TrimSpace(line))
			}
		}
	}
}

// judge checks what MIC did before, and what it needs now.
func (r *run) judge() {
	r.Helper()
	c := r.calls()
	began := r.began
	c.steady = isSteady
	r.Log(c.summary())
	for _, wrong := range c.since(began).wrong() {
		r.Error(wrong)
	}
	m := r.moments()
	for _, wrong := range m.wrong() {
		r.Error(wrong)
	}
	tokens := agents{m: m}
	for _, wrong := range tokens.wrongTokens() {
		r.Error(wrong)
	}
	r.Logf("%d writes, %d of them of assigned identities that say Assigned; %d requests for tokens, %d granted",
		len(m.writes), m.judged, tokens.asked, tokens.given)
	for i, m := range r.mics {
		if crash := m.crashed(); crash != "" {
			r.Errorf("MIC %d crashed: %s", i, crash)
		}
		if text := m.said(1 << 20); strings.Contains(text, secret) {
			r.Errorf("MIC %d logged its secret", i)
		}
	}
	r.judgeNeeds()
}

// judgeNeeds compares leader with leader and standby with standby, which may have changed places.
func (r *run) judgeNeeds() {
	r.Helper()
	byGoroutines := func(a, b needs) int { return cmp.Compare(a.goroutines, b.goroutines) }
	now, before := r.allNeeds(), r.before
	slices.SortFunc(now, byGoroutines)
	slices.SortFunc(before, byGoroutines)
	for i, after := range now {
		r.Logf("MIC: %s before, %s after", before[i], after)
		if after.goroutines > before[i].goroutines+moreGoroutines || after.memory > before[i].memory*moreMemory {
			r.Errorf("MIC has grown from %s to %s", before[i], after)
		}
	}
}

// isSteady reports whether a pod that stays needs the identity on that group.
func isSteady(group, id string) bool {
	for i, node := range steadyNodes() {
		there := func(n *corev1.Node) bool { return n.Name == node && groupOf(n.Spec.ProviderID) == group }
		if strings.EqualFold(steadyIDs()[i], id) && slices.ContainsFunc(nodes(), there) {
			return true
		}
	}
	return false
}

func writeLines(path string, lines []string) error {
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600)
}
