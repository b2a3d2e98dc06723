// Requests that wait, and what they get if a grant ends meanwhile.

package server

import (
	"context"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

func TestWaitsOnTheWatch(t *testing.T) {
	w := newWorld(t, func(s *settings) {
		s.server.AttestLimit, s.authorize.ArrivalLimit, s.authorize.BindingLimit = time.Minute, time.Minute, time.Minute
	})
	address := w.listen("10.9.0.2")
	answered := w.asking(address, tokenQuery(arm))
	// Each step is what the request waits for next. None of them completes it.
	w.imds.has("one")
	for _, step := range []func(){
		func() { w.pod("web", "10.9.0.2") },
		func() { w.bind("web", "one") },
		func() { w.state("web", "one", v1.StateCreated, "", "") },
	} {
		step()
		w.held(answered, 20*time.Millisecond)
	}
	w.state("web", "one", v1.StateAssigned, "", "")
	(<-answered).want(t, 200)
}

func TestManyChangesWhileHeld(t *testing.T) {
	w := newWorld(t, func(s *settings) { s.authorize.ArrivalLimit = time.Minute })
	w.pod("web", "10.9.0.2")
	w.bind("web", "one")
	w.imds.has("one")
	address := w.listen("10.9.0.2")
	answered := w.asking(address, tokenQuery(arm))
	for range 5 * maxSteps {
		w.bind("web", "one") // written again
		w.held(answered, 2*time.Millisecond)
	}
	w.state("web", "one", v1.StateAssigned, "", "")
	(<-answered).want(t, 200)
}

func TestRevokedWhileFetching(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	w.imds.fall(func(http.ResponseWriter, *http.Request) bool {
		w.authorize.RemoveBinding(nameOf("web-one")) // then answer as usual
		return false
	})
	w.get(w.listen("10.9.0.2"), tokenQuery(arm)).want(t, 404) // the binding was gone when the token came
}

func TestRevokedInCache(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	address := w.listen("10.9.0.2")
	if got := w.get(address, tokenQuery(arm)); got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	w.authorize.RemoveBinding(nameOf("web-one"))
	w.get(address, tokenQuery(arm)).want(t, 404)
	w.bind("web", "one")
	w.pod("web", "10.9.0.2", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	w.get(address, tokenQuery(arm)).want(t, 500)
	if n := len(w.imds.seen()); n != 1 {
		t.Errorf("%d calls to the metadata service, want 1", n)
	}
}

func TestPendingIsBounded(t *testing.T) {
	w := newWorld(t, func(s *settings) { s.authorize.BindingLimit = 500 * time.Millisecond })
	w.pod("web", "10.9.0.2")
	w.assign("api", "10.9.0.3", "one")
	address := w.listen("10.9.0.2")
	statuses := make(chan int, 12)
	for range cap(statuses) {
		go func() { statuses <- w.get(address, tokenQuery(arm)).status }()
	}
	count := map[int]int{}
	for range cap(statuses) {
		count[<-statuses]++
	}
	if count[404] != 4 || count[429] != 8 {
		t.Errorf("got %v, want 4 held to the end and 8 sent away", count)
	}
	w.get(w.listen("10.9.0.3"), tokenQuery(arm)).want(t, 200) // the neighbor
}

func TestStoppingEndsPending(t *testing.T) {
	w := newWorld(t, func(s *settings) { s.authorize.BindingLimit = time.Minute })
	w.pod("web", "10.9.0.2")
	address := w.listen("10.9.0.2")
	answered := w.asking(address, tokenQuery(arm))
	w.held(answered, 50*time.Millisecond)
	close(w.stopping)
	(<-answered).want(t, 500, "restarted")
}

func TestClientLeaves(t *testing.T) {
	w := newWorld(t, func(s *settings) { s.authorize.BindingLimit = time.Hour })
	w.pod("web", "10.9.0.2")
	address := w.listen("10.9.0.2")
	for range 3 * 4 { // three times the limit
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+tokenQuery(arm), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Metadata", "true")
		if resp, err := client(t).Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusTooManyRequests {
				t.Fatal("those who left still wait")
			}
		}
		cancel()
	}
}

func TestObjectIDOfIllSource(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	w.imds.fall(func(rw http.ResponseWriter, _ *http.Request) bool { fail(rw, 500, "unknown", ""); return true })
	address := w.listen("10.9.0.2")
	// 400 would be final, and the id may be right
	w.get(address, tokenQuery(arm, "object_id="+objectID("one"))).want(t, 500)
	w.imds.fall(nil)
	got := w.get(address, tokenQuery(arm, "object_id="+objectID("one")))
	for got.status == 500 { // cached for a moment
		<-time.After(20 * time.Millisecond)
		got = w.get(address, tokenQuery(arm, "object_id="+objectID("one")))
	}
	if got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

// TestUnknownIsNoObjectID: no object ID in a request matches an identity whose object ID could not
// be learned.
func TestUnknownIsNoObjectID(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	w.imds.fall(func(out http.ResponseWriter, _ *http.Request) bool {
		_, _ = out.Write([]byte(`{"access_token":"opaque","expires_in":"3600"}`))
		return true
	})
	w.get(w.listen("10.9.0.2"), tokenQuery(arm, "object_id=unknown")).want(t, 400)
}
