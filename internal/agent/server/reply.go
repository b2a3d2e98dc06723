// Writing a token.

package server

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/podid-io/podid/internal/agent/imds"
)

// buffers are reused: a reply has a few kilobytes, and there may be tens of thousands a second.
var buffers = sync.Pool{New: func() any { return new([]byte) }} //nolint:gochecknoglobals // a pool has no state

var contentType = []string{imds.ContentType} //nolint:gochecknoglobals // a constant: net/http copies it

func writeToken(w http.ResponseWriter, res *result) {
	buffer, ok := buffers.Get().(*[]byte)
	if !ok {
		buffer = new([]byte)
	}
	body := res.token.Body.Append((*buffer)[:0], res.began)
	h := w.Header()
	h["Content-Type"] = contentType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // an error means that the client disconnected
	res.status = http.StatusOK
	*buffer = body
	buffers.Put(buffer)
}
