// The assigned identities that a watch reports, with the time of each event.

package mic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/test/bench/measure"
)

// seen is updated by a watch, and rows wait for its conditions. It decodes only the necessary parts
// of objects, because the benchmark shares the CPUs with the measured program.
type seen struct {
	stop context.CancelFunc

	mu       sync.Mutex
	objects  map[string]string    // state of each assigned identity, by namespace/name
	assigned map[string]time.Time // when a pod's was Assigned first, by namespace/name of the pod
	now      int                  // how many are Assigned
	reasons  map[string]string    // of the object, by namespace/name of the pod
	failed   error
	changed  chan struct{} // closed and replaced with every relevant change
}

type watchEvent struct {
	Type   string `json:"type"`
	Object struct {
		Metadata struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
			Version   string `json:"resourceVersion"`
		} `json:"metadata"`
		Spec struct {
			Pod          string `json:"pod"`
			PodNamespace string `json:"podNamespace"`
		} `json:"spec"`
		Status struct {
			Status string `json:"status"`
			Reason string `json:"reason"`
		} `json:"status"`
	} `json:"object"`
}

// follow watches until stop is called.
func follow(ctx context.Context, kube *rest.Config) (*seen, error) {
	ctx, stop := context.WithCancel(ctx)
	s := &seen{stop: stop}
	s.clear()
	body, err := watchRaw(ctx, kube, assignedPath, fromNow)
	if err != nil {
		stop()
		return nil, fmt.Errorf("watch the assigned identities: %w", err)
	}
	go s.read(ctx, kube, body)
	return s, nil
}

const (
	// readyTime is how long the API server may take to serve a new kind.
	readyTime = 30 * time.Second
	askEvery  = 20 * time.Millisecond

	assignedPath = "/apis/aadpodidentity.k8s.io/v1/azureassignedidentities"
	fromNow      = "0" // including the existing objects
)

// watchRaw opens a watch that starts after that resource version.
func watchRaw(ctx context.Context, kube *rest.Config, path, version string) (io.ReadCloser, error) {
	c, err := rest.HTTPClientFor(kube)
	if err != nil {
		return nil, err
	}
	address := strings.TrimSuffix(kube.Host, "/") + path + "?watch=1&timeoutSeconds=7200&resourceVersion=" + version
	for began := time.Now(); ; measure.Pause(ctx, askEvery) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, err
		}
		answer, err := c.Do(req)
		if err != nil {
			return nil, err
		}
		if answer.StatusCode == http.StatusOK {
			return answer.Body, nil
		}
		err = errors.Join(errors.New(answer.Status), answer.Body.Close())
		// 429: the API server has just installed the kind, and its cache is not filled yet.
		if answer.StatusCode != http.StatusTooManyRequests || time.Since(began) > readyTime {
			return nil, err
		}
	}
}

// read records the events of the watch. The API server closes the watch of a slow reader, which
// this one may be on a busy machine. read then opens another one from the last version.
func (s *seen) read(ctx context.Context, kube *rest.Config, body io.ReadCloser) {
	version := fromNow
	for {
		err := s.drain(body, &version)
		if err == nil {
			body, err = watchRaw(ctx, kube, assignedPath, version)
		}
		if err != nil {
			s.mu.Lock()
			s.failed = fmt.Errorf("watch the assigned identities: %w", err)
			s.notify()
			s.mu.Unlock()
			return
		}
	}
}

// drain reads a watch to its end.
func (s *seen) drain(body io.ReadCloser, version *string) error {
	defer func() { _ = body.Close() }()
	events := json.NewDecoder(body)
	for {
		var e watchEvent
		if err := events.Decode(&e); err != nil {
			return nil // however it ends, another watch continues
		}
		if e.Type == "ERROR" {
			return errors.New("the API server has forgotten where it was")
		}
		*version = e.Object.Metadata.Version
		s.note(e, time.Now())
	}
}

func (s *seen) note(e watchEvent, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, pod := e.Object.Metadata, e.Object.Spec.PodNamespace+"/"+e.Object.Spec.Pod
	key := m.Namespace + "/" + m.Name
	before, state := s.objects[key], e.Object.Status.Status
	if s.objects[key] = state; e.Type == "DELETED" {
		delete(s.objects, key)
		state = ""
	}
	s.reasons[pod] = e.Object.Status.Reason
	if before == assignedState {
		s.now--
	}
	if state == assignedState {
		s.now++
		if _, ok := s.assigned[pod]; !ok {
			s.assigned[pod] = now
		}
	}
	s.notify()
}

const assignedState = "Assigned"

// The caller must hold the lock.
func (s *seen) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// clear resets the records. The objects themselves must be deleted already or are deleted next.
func (s *seen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		s.objects, s.changed = map[string]string{}, make(chan struct{})
	}
	s.assigned, s.reasons = map[string]time.Time{}, map[string]string{}
}

// wait returns when the condition is true. It evaluates the condition after every change, with the
// lock held.
func (s *seen) wait(ctx context.Context, condition func() bool) error {
	for {
		s.mu.Lock()
		ok, failed, changed := condition(), s.failed, s.changed
		s.mu.Unlock()
		switch {
		case ok:
			return nil
		case failed != nil:
			return failed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// all waits until n identities are Assigned. It calls far with the number so far.
func (s *seen) all(ctx context.Context, n int, far func(int)) error {
	if err := s.wait(ctx, func() bool { far(s.now); return s.now >= n }); err != nil {
		return fmt.Errorf("wait until %d identities are assigned: %w", n, err)
	}
	return nil
}

// gone waits until no assigned identity exists.
func (s *seen) gone(ctx context.Context) error {
	if err := s.wait(ctx, func() bool { return len(s.objects) == 0 }); err != nil {
		return fmt.Errorf("wait until the assigned identities are gone: %w", err)
	}
	return nil
}

// pod waits until a pod's identity is Assigned, and returns when it was.
func (s *seen) pod(ctx context.Context, key string) (time.Time, error) {
	var at time.Time
	err := s.wait(ctx, func() bool { at = s.assigned[key]; return !at.IsZero() })
	if err != nil {
		return at, fmt.Errorf("wait until pod %s has its identity: %w", key, err)
	}
	return at, nil
}

// last returns when the last of the pods had its identity.
func (s *seen) last() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last time.Time
	for _, at := range s.assigned {
		if at.After(last) {
			last = at
		}
	}
	return last
}
