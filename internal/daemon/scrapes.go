// Answers to scrapes of the metrics.

package daemon

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
)

// scrapeInterval is the minimum time between two renderings of the metrics of one kind. A rendering
// takes several milliseconds of CPU time, regardless of the client.
const scrapeInterval = 250 * time.Millisecond

// scrapes answers requests for the metrics, with a rendering for each kind. Requests that wait at
// the same time share a rendering, which is always one that began after they arrived. No request is
// refused, and a client that is slow to read keeps no other one waiting. It may be used
// concurrently.
type scrapes map[kind]*rendering

// kind is what clients may choose. What else their headers distinguish makes no difference.
type kind struct{ protobuf, gzip bool }

// kindOf returns what a client prefers.
func kindOf(h http.Header) kind {
	return kind{
		protobuf: expfmt.NegotiateAccept(h, expfmt.DefaultAcceptedFormats()...).FormatType() == expfmt.TypeProtoDelim,
		gzip:     strings.Contains(h.Get("Accept-Encoding"), "gzip"),
	}
}

// header is that of a request for the kind.
func (k kind) header() http.Header {
	h := http.Header{}
	if k.protobuf {
		h.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	}
	if k.gzip {
		h.Set("Accept-Encoding", "gzip")
	}
	return h
}

func newScrapes(metrics prometheus.Gatherer) scrapes {
	s := scrapes{}
	handler := promhttp.HandlerFor(metrics, promhttp.HandlerOpts{})
	turn := make(chan struct{}, 1)
	for _, k := range []kind{{}, {protobuf: true}, {gzip: true}, {protobuf: true, gzip: true}} {
		s[k] = &rendering{handler: handler, header: k.header(), lock: make(chan struct{}, 1), turn: turn}
	}
	return s
}

// ServeHTTP answers a request.
func (s scrapes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := s[kindOf(r.Header)].after(r.Context(), time.Now())
	if err != nil {
		return // the client has left
	}
	maps.Copy(w.Header(), answer.header)
	w.Header().Set("Content-Length", strconv.Itoa(answer.body.Len()))
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body.Bytes()) // a client that has left needs no answer
}

// rendering is the metrics in one kind.
type rendering struct {
	handler http.Handler
	header  http.Header // of the request that is rendered

	lock chan struct{} // holds one while latest and began are in use
	turn chan struct{} // holds one while a rendering of any kind is made

	latest *response
	began  time.Time
}

// after returns a rendering that began at the time or later. Its error is that of ctx.
func (r *rendering) after(ctx context.Context, arrived time.Time) (*response, error) {
	if err := acquire(ctx, r.lock); err != nil {
		return nil, err
	}
	defer release(r.lock)
	if r.latest != nil && !r.began.Before(arrived) {
		return r.latest, nil
	}
	pause := time.NewTimer(time.Until(r.began.Add(scrapeInterval)))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := acquire(ctx, r.turn); err != nil {
		return nil, err
	}
	defer release(r.turn)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header = r.header
	r.latest, r.began = &response{header: http.Header{}, status: http.StatusOK}, time.Now()
	r.handler.ServeHTTP(r.latest, request)
	return r.latest, nil
}

func acquire(ctx context.Context, lock chan struct{}) error {
	select {
	case lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func release(lock chan struct{}) { <-lock }

// response is an http.ResponseWriter that keeps what is written.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header is http.ResponseWriter's.
func (r *response) Header() http.Header { return r.header }

// WriteHeader is http.ResponseWriter's.
func (r *response) WriteHeader(status int) { r.status = status }

// Write is http.ResponseWriter's.
func (r *response) Write(p []byte) (int, error) { return r.body.Write(p) }
