package events

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/reason"
	"github.com/podid-io/podid/internal/testenv"
)

// TestEventsAPI: a real API server accepts the Events of a user who may only create and patch them,
// and shows them with the pod.
func TestEventsAPI(t *testing.T) {
	config := testenv.Start(t).Config
	admin := testenv.Client(t, config)
	testenv.Grant(t, admin, "nmi", "nmi", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}})
	nmi := rest.CopyConfig(config)
	nmi.Impersonate = rest.ImpersonationConfig{UserName: "nmi"}
	answers := make(chan int, 16)
	nmi.Wrap(func(next http.RoundTripper) http.RoundTripper { return recordStatus{next, answers} })
	api, err := NewClient(nmi)
	if err != nil {
		t.Fatal(err)
	}
	r := New(Config{API: api, Node: "node-1", Program: "nmi", Dropped: func() { t.Error("dropped") }, Log: logr.Discard()})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	defer running.Wait()
	defer cancel()
	pod := types.NamespacedName{Namespace: "default", Name: "web"}
	expect := func(status int, count int32, message string) {
		t.Helper()
		select {
		case got := <-answers:
			if got != status {
				t.Fatalf("the API server answered %d, want %d", got, status)
			}
		case <-time.After(time.Minute):
			t.Fatal("no request to the API server")
		}
		list := &corev1.EventList{}
		if err := admin.List(t.Context(), list, client.InNamespace("default"), client.MatchingFields{"involvedObject.uid": "u1"}); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != 1 || list.Items[0].Count != count || list.Items[0].Message != message {
			t.Fatalf("Events: %+v\nwant one with count %d and %q", list.Items, count, message)
		}
	}
	long := "bind it" + strings.Repeat(" again", 500)
	r.Refused(pod, "u1", "NoBinding", long)
	expect(http.StatusCreated, 1, "NoBinding: "+reason.Cut(long, maxMessage))
	r.mu.Lock()
	r.known[key{"u1", "NoBinding"}].lastQueued = time.Time{} // ten minutes later
	r.mu.Unlock()
	r.Refused(pod, "u1", "NoBinding", "bind it still")
	expect(http.StatusOK, 2, "NoBinding: bind it still")
}

// recordStatus sends the status of each response.
type recordStatus struct {
	next    http.RoundTripper
	answers chan<- int
}

func (h recordStatus) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.next.RoundTrip(r)
	if err == nil {
		h.answers <- resp.StatusCode
	}
	return resp, err
}
