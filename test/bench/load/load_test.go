package load

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	tests := []struct {
		name  string
		times []time.Duration
		part  float64
		want  time.Duration
	}{
		{"none", nil, 0.5, 0},
		{"one", []time.Duration{time.Second}, 0.5, time.Second},
		{"small are exact", []time.Duration{3, 5, 9}, 0.5, 5},
		{"p99 of a hundred", append(repeat(time.Millisecond, 99), time.Second), 0.99, time.Millisecond},
		{"worst", append(repeat(time.Millisecond, 99), time.Second), 1, time.Second},
		{"long", []time.Duration{3 * time.Hour}, 1, 3 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h histogram
			for _, d := range tt.times {
				h.add(d)
			}
			got := time.Duration(h.quantile(tt.part) * 1e9)
			if got < tt.want || float64(got) > 1.016*float64(tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestSteps: for every duration, its step contains the longest duration of that step, and the next
// nanosecond is in the next step.
func TestSteps(t *testing.T) {
	for i := range perOctave * 30 {
		d := longest(i)
		if step(d) != i || step(d+1) != i+1 {
			t.Fatalf("step %d ends at %d ns, which is in step %d, and the next one in %d", i, d, step(d), step(d+1))
		}
	}
}

func repeat(d time.Duration, n int) (all []time.Duration) {
	for range n {
		all = append(all, d)
	}
	return all
}

// serve serves on loopback and returns a Spec for that server.
func serve(t *testing.T, handler http.HandlerFunc) Spec {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return Spec{
		Target: netip.MustParseAddrPort(l.Addr().String()), Request: "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		Connections: 3, Sources: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}, Length: time.Minute,
	}
}

func send(t *testing.T, s Spec) Result {
	t.Helper()
	r, err := Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestClosedLoop(t *testing.T) {
	long := strings.Repeat("x", 5000)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(long)))
		_, _ = io.WriteString(w, long)
	})
	s.Requests = 100
	for _, s.Fresh = range []bool{false, true} {
		if r := send(t, s); r.Requests != 100 || r.Failed != 0 || r.Body != long || r.P50 == 0 || r.Max < r.P50 {
			t.Errorf("fresh %v: %+v", s.Fresh, r)
		}
	}
}

func TestSources(t *testing.T) {
	var mu sync.Mutex
	from := map[string]int{}
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		mu.Lock()
		defer mu.Unlock()
		from[host]++
	})
	s.Requests = 30
	send(t, s)
	mu.Lock()
	defer mu.Unlock()
	if len(from) != 2 || from["127.0.0.1"] == 0 {
		t.Errorf("requests came from %v", from)
	}
}

// TestOpenLoop: the server is slower than the request rate, and the time of a request counts from
// when it was due.
func TestOpenLoop(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) { <-time.After(20 * time.Millisecond) })
	s.Connections, s.Rate, s.Requests = 1, 1000, 20
	if r := send(t, s); r.Requests != 20 || r.Failed != 0 || r.Max < 0.2 {
		t.Errorf("%+v", r)
	}
}

func TestFailures(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no token", http.StatusNotFound) })
	s.Requests = 10
	if r := send(t, s); r.Failed != 10 || !strings.Contains(r.Text, "no token") {
		t.Errorf("%+v", r)
	}
	s.Target = netip.MustParseAddrPort("127.0.0.1:1")
	if r := send(t, s); r.Failed != 10 || !strings.Contains(r.Text, "refused") {
		t.Errorf("%+v", r)
	}
}

// TestAgain: the server closes every connection after a response without announcing it.
func TestAgain(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			_ = conn.Close()
		}
	})
	s.Requests, s.Connections = 50, 1
	if r := send(t, s); r.Failed != 0 || r.Requests != 50 {
		t.Errorf("%+v", r)
	}
}
