package server

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/build"
)

// TestExceptedKeepAway: to the metadata service, excepted pods and all others are one node. When it
// throttles one, no request is sent for any.
func TestExceptedKeepAway(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	w.pod("plain", "10.9.0.3")
	w.except("plain")
	plain, web := w.listen("10.9.0.3"), w.listen("10.9.0.2")
	w.imds.fall(func(out http.ResponseWriter, _ *http.Request) bool {
		out.Header().Set("Retry-After", "30")
		fail(out, 429, "too_many_requests", "")
		return true
	})
	if got := w.get(plain, tokenQuery(arm)); got.status != 429 || got.header.Get("Retry-After") != "30" {
		t.Errorf("the excepted pod got %d, Retry-After %q", got.status, got.header.Get("Retry-After"))
	}
	for _, address := range []string{web, plain} {
		got := w.get(address, tokenQuery(arm))
		wait, err := strconv.Atoi(got.header.Get("Retry-After"))
		if got.status != 429 || err != nil || wait < 1 || wait > 30 {
			t.Errorf("then: %d, Retry-After %q", got.status, got.header.Get("Retry-After"))
		}
	}
	if n := len(w.imds.seen()); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// TestExceptedAreCounted: however many pods of either kind send requests, the service gets at most
// four of one namespace at once.
func TestExceptedAreCounted(t *testing.T) {
	w := newWorld(t, nil)
	entered, leave := make(chan string, 64), make(chan struct{})
	w.imds.fall(func(_ http.ResponseWriter, r *http.Request) bool {
		entered <- r.URL.RawQuery
		<-leave
		return false
	})
	answered := make(chan int, 64)
	asked := 0
	for i := range 4 {
		excepted, own := fmt.Sprint("plain-", i), fmt.Sprint("web-", i)
		w.pod(excepted, fmt.Sprint("10.9.1.", i))
		w.except(excepted)
		w.assign(own, fmt.Sprint("10.9.2.", i), own)
		for _, ip := range []string{fmt.Sprint("10.9.1.", i), fmt.Sprint("10.9.2.", i)} {
			address := w.listen(ip)
			for j := range 3 {
				asked++
				go func() { answered <- w.get(address, tokenQuery(fmt.Sprint(j))).status }()
			}
		}
	}
	for range 4 { // of the five places, one is for other namespaces
		<-entered
	}
	select {
	case <-entered:
		t.Error("a fifth request of one namespace")
	case <-time.After(200 * time.Millisecond):
	}
	close(leave)
	for range asked {
		<-answered // any status: on a slow machine some have waited too long
	}
}

// TestForeignIDsCostNothing: requests for identities of others do not reach the metadata service.
func TestForeignIDsCostNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	address := w.listen("10.9.0.2")
	for i := range 50 {
		if got := w.get(address, tokenQuery(arm, fmt.Sprint("client_id=", i))); got.status != 400 {
			t.Fatalf("got %d %s", got.status, got.body)
		}
	}
	if n := len(w.imds.seen()); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// TestNameToTheService: the agent's own requests have its User-Agent, passed-on requests the
// client's.
func TestNameToTheService(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	address := w.listen("10.9.0.2")
	w.get(address, tokenQuery(arm))
	w.get(address, "/metadata/instance?api-version=2021-02-01", "User-Agent: curl/8")
	if _, err := w.server.upstream.get(t.Context(), "/metadata/instance", "", http.Header{}); err != nil { // a client without a User-Agent
		t.Fatal(err)
	}
	want := []string{"podid-test", "curl/8", build.UserAgent("nmi")}
	for i, r := range w.imds.seen() {
		if got := r.Header.Get("User-Agent"); got != want[i] {
			t.Errorf("request %d: %q, want %q", i, got, want[i])
		}
	}
}
