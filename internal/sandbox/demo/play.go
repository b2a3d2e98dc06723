// Observing the demonstration: the pods, their assigned identities, and the requests to Azure.

package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/controlplane"
)

// play applies the objects and watches until both pods have ended.
func (d *Demo) play(ctx context.Context) (*story, error) {
	step := d.report.Start("two pods ask for a token")
	ctx, cancel := context.WithTimeoutCause(ctx, storyDeadline, errors.New("it took longer than "+storyDeadline.String()))
	defer cancel()
	story, err := d.watch(ctx)
	if err != nil {
		step.Fail()
		return nil, err
	}
	step.Done("")
	return story, nil
}

func (d *Demo) watch(ctx context.Context) (*story, error) {
	cfg, err := d.sandbox.Client()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	text, err := d.manifest()
	if err != nil {
		return nil, err
	}
	s := &story{}
	group, inner := errgroup.WithContext(ctx)
	// The watches are open before anything is applied, so that each time is that of the event.
	podsOpen, assignedOpen := make(chan struct{}), make(chan struct{})
	group.Go(func() error { return watchPods(inner, client, s, podsOpen) })
	group.Go(func() error { return watchAssigned(inner, objects, s, assignedOpen) })
	group.Go(func() error { return d.watchAzure(inner, s) })
	group.Go(func() error {
		for _, open := range []chan struct{}{podsOpen, assignedOpen} {
			select {
			case <-open:
			case <-inner.Done():
				return context.Cause(inner)
			}
		}
		return Apply(inner, d.sandbox, text)
	})
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("watch the two pods: %w", err)
	}
	return s, s.readLogs(ctx, client)
}

// readLogs reads the output of the two pods.
func (s *story) readLogs(ctx context.Context, client kubernetes.Interface) error {
	for name, output := range map[string]*[]event{boundPod: &s.bound, unboundPod: &s.unbound} {
		raw, err := client.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err == nil {
			*output, err = parseEvents(raw)
		}
		if err != nil {
			return fmt.Errorf("read the output of pod %s: %w", name, err)
		}
	}
	return nil
}

func (d *Demo) manifest() (string, error) {
	ca, err := os.ReadFile(filepath.Join(d.sandbox.Layout().Azure(), "ca.crt"))
	if err != nil {
		return "", fmt.Errorf("read the emulated Azure's certificate: %w", err)
	}
	endpoint, err := d.sandbox.ARM()
	if err != nil {
		return "", err
	}
	return manifest(facts{
		Identity: sandbox.Identities()[0], CA: string(ca), ARM: endpoint, ScaleSetID: sandbox.ScaleSetID(), Image: ref("demo"),
		Pods: []pod{{Name: boundPod, Label: "demo"}, {Name: unboundPod, Label: "nobody"}},
	})
}

// watchPods records when the pod with a binding is scheduled, and returns when both pods have
// ended.
func watchPods(ctx context.Context, client kubernetes.Interface, s *story, open chan struct{}) error {
	ended := map[string]bool{}
	opened := false
	return controlplane.Follow(ctx, func(o metav1.ListOptions) (watch.Interface, error) {
		w, err := client.CoreV1().Pods(namespace).Watch(ctx, o)
		if err == nil && !opened {
			opened = true
			close(open)
		}
		return w, err
	}, func(e watch.Event) bool {
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			return false
		}
		if p.Name == boundPod && p.Spec.NodeName != "" {
			s.note(scheduled, time.Now(), p.Spec.NodeName)
		}
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			ended[p.Name] = true
		}
		return len(ended) == 2
	})
}

// watchAssigned records when MIC writes the assigned identity, and returns when it is on the scale
// set.
func watchAssigned(ctx context.Context, client dynamic.Interface, s *story, open chan struct{}) error {
	kind := schema.GroupVersionResource{Group: "aadpodidentity.k8s.io", Version: "v1", Resource: "azureassignedidentities"}
	opened := false
	return controlplane.Follow(ctx, func(o metav1.ListOptions) (watch.Interface, error) {
		w, err := client.Resource(kind).Watch(ctx, o)
		if err == nil && !opened {
			opened = true
			close(open)
		}
		return w, err
	}, func(e watch.Event) bool {
		object, ok := e.Object.(*unstructured.Unstructured)
		if !ok || e.Type == watch.Deleted {
			return false
		}
		pod, _, err := unstructured.NestedString(object.Object, "spec", "pod")
		if err != nil || pod != boundPod {
			return false
		}
		s.note(created, time.Now(), "")
		state, _, err := unstructured.NestedString(object.Object, "status", "status")
		if err != nil || state != "Assigned" {
			return false
		}
		s.note(assigned, time.Now(), "")
		return true
	})
}

// watchAzure records when Azure was asked to change the scale set.
func (d *Demo) watchAzure(ctx context.Context, s *story) error {
	query := url.Values{"surface": {"arm"}, "method": {"PATCH"}, "wait": {"30s"}}
	for {
		var requests []struct {
			Time   time.Time `json:"time"`
			Status int       `json:"status"`
		}
		if err := d.sandbox.AskAzure(ctx, "/v1/requests?"+query.Encode(), &requests); err != nil {
			return err
		}
		for _, r := range requests {
			if r.Status/100 == 2 {
				s.note(patched, r.Time, "")
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// event is one line of the output of test/demo.
type event struct {
	Event  string         `json:"event"`
	Time   time.Time      `json:"time"`
	TookMS int64          `json:"tookMS"`
	Claims map[string]any `json:"claims"`
	Text   string         `json:"text"`
}

func parseEvents(raw []byte) ([]event, error) {
	var events []event
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("line %.80q: %w", lines.Text(), err)
		}
		events = append(events, e)
	}
	return events, lines.Err()
}
