package daemon

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// counter is a registry with a counter, and counts how often it is gathered.
type counter struct {
	*prometheus.Registry
	prometheus.Counter
	gathered int
}

func newCounter() *counter {
	c := &counter{Registry: prometheus.NewRegistry(), Counter: prometheus.NewCounter(prometheus.CounterOpts{Name: "things_total", Help: "Things."})}
	c.MustRegister(c.Counter)
	return c
}

func (c *counter) Gather() ([]*dto.MetricFamily, error) {
	c.gathered++
	time.Sleep(5 * time.Millisecond) //nolint:forbidigo // fake time
	return c.Registry.Gather()
}

func scrape(t *testing.T, s scrapes, accept, encoding string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", encoding)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result()
}

func text(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestScrapeKinds: clients get the kind that they request.
func TestScrapeKinds(t *testing.T) {
	const prometheus3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,*/*;q=0.1"
	const histograms = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;q=0.4"
	synctest.Test(t, func(t *testing.T) {
		s := newScrapes(newCounter())
		for _, tt := range []struct{ accept, encoding, contentType, contentEncoding, says string }{
			{"", "", "text/plain", "", "things_total 0"},
			{prometheus3, "gzip", "text/plain", "gzip", "things_total 0"},
			{histograms, "", "application/vnd.google.protobuf", "", "things_total"},
			{histograms, "gzip, deflate", "application/vnd.google.protobuf", "gzip", "things_total"},
			{"application/json", "br", "text/plain", "", "things_total 0"},
		} {
			resp := scrape(t, s, tt.accept, tt.encoding)
			body := io.Reader(resp.Body)
			if resp.Header.Get("Content-Encoding") == "gzip" {
				unzipped, err := gzip.NewReader(body)
				if err != nil {
					t.Fatal(err)
				}
				body = unzipped
			}
			got := text(t, body)
			if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), tt.contentType) ||
				resp.Header.Get("Content-Encoding") != tt.contentEncoding || !strings.Contains(got, tt.says) {
				t.Errorf("%q, %q: %d %v %q", tt.accept, tt.encoding, resp.StatusCode, resp.Header, got)
			}
			_ = resp.Body.Close()
		}
	})
}

// TestScrapesAreFresh: a response includes everything counted before its request, regardless of
// other requests.
func TestScrapesAreFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter()
		s := newScrapes(c)
		stop := make(chan struct{})
		var flood sync.WaitGroup
		for i := range 40 {
			flood.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Duration(i) * time.Millisecond):
					}
					encoding := ""
					if i%2 == 0 {
						encoding = "gzip"
					}
					_ = scrape(t, s, "", encoding).Body.Close()
				}
			})
		}
		began := time.Now()
		for i := range 10 {
			c.Inc()
			asked := time.Now()
			resp := scrape(t, s, "", "")
			if got := text(t, resp.Body); !strings.Contains(got, fmt.Sprintf("things_total %d\n", i+1)) {
				t.Errorf("scrape %d: %s", i+1, got)
			}
			_ = resp.Body.Close()
			if took := time.Since(asked); took > scrapeInterval+20*time.Millisecond {
				t.Errorf("scrape %d took %v", i+1, took)
			}
		}
		close(stop)
		flood.Wait()
		took := time.Since(began) // the last requests of the flood included
		if most := 2 * (int(took/scrapeInterval) + 3); c.gathered > most {
			t.Errorf("gathered %d times in %v, want %d at most", c.gathered, took, most)
		}
	})
}

// stuck is a client that does not read.
type stuck struct {
	http.ResponseWriter
	ctx context.Context
}

func (s stuck) Write([]byte) (int, error) { <-s.ctx.Done(); return 0, s.ctx.Err() }

// TestSlowScrapers: clients that do not read, or disconnect, do not block other scrapers.
func TestSlowScrapers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScrapes(newCounter())
		ctx, cancel := context.WithCancel(t.Context())
		var others sync.WaitGroup
		for range 100 {
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", http.NoBody)
			others.Go(func() { s.ServeHTTP(stuck{httptest.NewRecorder(), ctx}, r) })
			gone, leave := context.WithCancel(t.Context())
			leave()
			others.Go(func() { s.ServeHTTP(httptest.NewRecorder(), r.WithContext(gone)) })
		}
		synctest.Wait()
		began := time.Now()
		resp := scrape(t, s, "", "")
		if resp.StatusCode != http.StatusOK || time.Since(began) > time.Second {
			t.Errorf("status %d after %v", resp.StatusCode, time.Since(began))
		}
		_ = resp.Body.Close()
		cancel()
		others.Wait()
	})
}
