// Responses to scrapes of the metrics.

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

// scrapes serves the metrics, with a rendering for each kind. Requests that wait at the same time
// share a rendering that began after they arrived. No request is refused, and a slow client does
// not delay the others. It is safe for concurrent use.
type scrapes map[kind]*rendering

// kind is the representation that a client selects. Other differences between request headers are
// ignored.
type kind struct{ protobuf, gzip bool }

// kindOf returns the kind that a client prefers.
func kindOf(h http.Header) kind {
	return kind{
		protobuf: expfmt.NegotiateAccept(h, expfmt.DefaultAcceptedFormats()...).FormatType() == expfmt.TypeProtoDelim,
		gzip:     strings.Contains(h.Get("Accept-Encoding"), "gzip"),
	}
}

// header returns the request header for the kind.
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
		return // the client has disconnected
	}
	maps.Copy(w.Header(), answer.header)
	w.Header().Set("Content-Length", strconv.Itoa(answer.body.Len()))
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body.Bytes()) // an error means that the client has disconnected
}

// rendering holds the metrics in one kind.
type rendering struct {
	handler http.Handler
	header  http.Header // of the request that is rendered

	lock chan struct{} // holds one while latest and began are in use
	turn chan struct{} // holds one while a rendering of any kind is made

	latest *response
	began  time.Time
}

// after returns a rendering that began no earlier than arrived. Its error is that of ctx.
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

// response is an http.ResponseWriter that buffers the response.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *response) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *response) WriteHeader(status int) { r.status = status }

// Write implements http.ResponseWriter.
func (r *response) Write(p []byte) (int, error) { return r.body.Write(p) }
