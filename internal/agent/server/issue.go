// How a token goes out.

package server

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/observe"
)

func observeOutcome(o token.Outcome) observe.CacheOutcome {
	switch o {
	case token.Miss:
		return observe.CacheMiss
	case token.Shared:
		return observe.CacheShared
	case token.Stale:
		return observe.CacheStale
	case token.Refused:
		return observe.CacheRefused
	default:
		return observe.CacheHit
	}
}

// buffers are reused, since a reply is a few kilobytes and there may be tens of
// thousands a second.
var buffers = sync.Pool{New: func() any { return new([]byte) }} //nolint:gochecknoglobals // a pool is no state

func writeToken(w http.ResponseWriter, res *result) {
	buffer, ok := buffers.Get().(*[]byte)
	if !ok {
		buffer = new([]byte)
	}
	body := res.token.Body.Append((*buffer)[:0], res.began)
	h := w.Header()
	h["Content-Type"] = jsonType()
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(http.StatusOK)
	// A client that went away needs no answer.
	_, _ = w.Write(body)
	res.status = http.StatusOK
	*buffer = body
	buffers.Put(buffer)
}
