// What the API server reports, with the time of each event.

package pods

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/podid-io/podid/internal/sandbox/controlplane"
)

// podSeen is what was observed of a pod; the time of an event that was not observed is zero.
type podSeen struct {
	// scheduled, addressed and running are when the pod got a node, when its status got its address,
	// and when its status was Running. Until addressed, only the kubelet can map requests to the pod.
	scheduled, addressed, running time.Time
	ended                         bool
	phase                         corev1.PodPhase
	outcome                       outcome
}

// outcome is the output of the program in the pod; see test/bench/pod.
type outcome struct {
	Began     time.Time `json:"began"`
	Connected time.Time `json:"connected"`
	Answered  time.Time `json:"answered"`
	Status    int       `json:"status"`
	Bytes     int       `json:"bytes"`
	Text      string    `json:"text"`
}

// seen is updated by watches, and the parts query it and wait for its conditions.
type seen struct {
	mu       sync.Mutex
	pods     map[string]podSeen // namespace/name
	assigned map[string]string  // state of the assigned identity, by its namespace/name
	accounts map[string]bool    // namespaces with a default service account
	changed  chan struct{}      // closed and replaced with every change
}

func newSeen() *seen {
	return &seen{pods: map[string]podSeen{}, assigned: map[string]string{}, accounts: map[string]bool{}, changed: make(chan struct{})}
}

func (s *seen) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait returns when the condition is true. It evaluates the condition after every change, with the
// lock held.
func (s *seen) wait(ctx context.Context, condition func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := condition(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pod waits until a pod has ended and returns what was seen of it.
func (s *seen) pod(ctx context.Context, key string) (podSeen, error) {
	var p podSeen
	err := s.wait(ctx, func() bool { p = s.pods[key]; return p.ended })
	if err != nil {
		return p, fmt.Errorf("wait for the end of pod %s: %w", key, err)
	}
	return p, nil
}

func (s *seen) notePod(e watch.Event) bool {
	pod, ok := e.Object.(*corev1.Pod)
	if !ok || e.Type == watch.Deleted {
		return false
	}
	now, key := time.Now(), pod.Namespace+"/"+pod.Name
	s.change(func() {
		p := s.pods[key]
		first(&p.scheduled, now, pod.Spec.NodeName != "")
		first(&p.addressed, now, pod.Status.PodIP != "")
		first(&p.running, now, pod.Status.Phase != corev1.PodPending && pod.Status.Phase != "")
		p.phase = pod.Status.Phase
		if p.phase == corev1.PodSucceeded || p.phase == corev1.PodFailed {
			p.ended = true
			p.outcome = said(pod)
		}
		s.pods[key] = p
	})
	return false
}

// first records when a condition was first true.
func first(t *time.Time, now time.Time, is bool) {
	if is && t.IsZero() {
		*t = now
	}
}

func said(pod *corev1.Pod) outcome {
	var o outcome
	for _, c := range pod.Status.ContainerStatuses {
		t := c.State.Terminated
		if t == nil {
			continue
		}
		if err := json.Unmarshal([]byte(t.Message), &o); err != nil {
			o.Text = fmt.Sprintf("exit code %d, %s: %.200q", t.ExitCode, t.Reason, t.Message)
		}
	}
	return o
}

func (s *seen) noteAssigned(e watch.Event) bool {
	object, ok := e.Object.(*unstructured.Unstructured)
	if !ok {
		return false
	}
	key := object.GetNamespace() + "/" + object.GetName()
	state, _, err := unstructured.NestedString(object.Object, "status", "status")
	s.change(func() {
		if s.assigned[key] = state; err != nil || e.Type == watch.Deleted {
			delete(s.assigned, key)
		}
	})
	return false
}

func (s *seen) noteAccount(e watch.Event) bool {
	if a, ok := e.Object.(*corev1.ServiceAccount); ok {
		s.change(func() { s.accounts[a.Namespace] = true })
	}
	return false
}

// follow watches until the context ends.
func (b *bench) follow(ctx context.Context) {
	watches := []struct {
		open func(metav1.ListOptions) (watch.Interface, error)
		note func(watch.Event) bool
	}{
		{func(o metav1.ListOptions) (watch.Interface, error) {
			return b.client.CoreV1().Pods(namespace).Watch(ctx, o)
		}, b.seen.notePod},
		{func(o metav1.ListOptions) (watch.Interface, error) {
			return b.objects.Resource(kind("azureassignedidentities")).Watch(ctx, o)
		}, b.seen.noteAssigned},
		{func(o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = "metadata.name=default"
			return b.client.CoreV1().ServiceAccounts("").Watch(ctx, o)
		}, b.seen.noteAccount},
	}
	for _, w := range watches {
		go func() { _ = controlplane.Follow(ctx, w.open, w.note) }() // ends with the context, which is its only error
	}
}
