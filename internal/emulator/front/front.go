// Package front is the middleware of every surface of the emulated Azure: it bounds the body,
// applies faults and keeps the request log.
package front

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

// maxBody bounds request bodies. Azure's own limit for ARM is 4 MB, which no request here
// approaches.
const maxBody = 1 << 20

// maxText bounds how much of a path, query or user agent is logged.
const maxText = 2048

// Surface is one of the emulated services.
type Surface struct {
	// Name is one of the world.Surface constants.
	Name  string
	World *world.World
	Log   *slog.Logger
	// WriteError responds with a status in the surface's error format. code is empty or replaces the
	// default code.
	WriteError func(w http.ResponseWriter, status int, code, message string)
	// Latency returns the latency that the settings add to every request.
	Latency func(world.Settings) time.Duration
}

// Handler wraps next, the surface's own handler.
func (s Surface) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entry := &world.Request{
			Time: s.World.Now(), Surface: s.Name, Method: bound(r.Method), Path: bound(r.URL.EscapedPath()),
			Query: bound(maskQuery(r.URL.RawQuery)), Remote: r.RemoteAddr, Agent: bound(r.UserAgent()),
		}
		answer := &recorder{ResponseWriter: w}
		defer func() { // also on http.ErrAbortHandler
			if answer.status >= http.StatusBadRequest {
				note(entry, "retryAfter", answer.Header().Get("Retry-After"))
			}
			s.finish(entry, answer.status)
		}()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		ctx := context.WithValue(r.Context(), entryKey{}, entry)
		r = r.WithContext(ctx)
		fault, gone, faulty := s.World.TakeFault(s.Name, r.Method, r.URL.Path, r.URL.RawQuery)
		entry.Fault = fault.Name
		delay := s.Latency(s.World.Settings()) + time.Duration(fault.Latency)
		if !wait(ctx, delay) {
			return
		}
		if faulty {
			s.disturb(answer, r, fault, gone, next)
			return
		}
		next.ServeHTTP(answer, r)
	})
}

// finish logs a finished request.
func (s Surface) finish(entry *world.Request, status int) {
	entry.Status, entry.Duration = status, world.Duration(s.World.Now().Sub(entry.Time))
	s.World.Log().Add(*entry)
	s.Log.Debug("answered", "surface", s.Name, "method", entry.Method, "path", entry.Path, "caller", short(entry.Caller),
		"status", entry.Status, "duration", time.Duration(entry.Duration), "fault", entry.Fault)
}

// disturb applies the fault.
func (s Surface) disturb(w http.ResponseWriter, r *http.Request, f world.Fault, gone <-chan struct{}, next http.Handler) {
	if f.After { // the request takes effect, but its response is lost
		next.ServeHTTP(&discard{header: http.Header{}}, r)
	}
	if f.Hang {
		select {
		case <-r.Context().Done():
			return
		case <-gone:
		}
	}
	switch {
	case f.Drop:
		panic(http.ErrAbortHandler) // how net/http closes a connection without a response
	case f.Status != 0:
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
		}
		if f.Body != "" {
			w.Header().Set("Content-Type", contentType(f.Body))
			w.WriteHeader(f.Status)
			_, _ = w.Write([]byte(f.Body))
			return
		}
		s.WriteError(w, f.Status, f.Code, "The fault "+strconv.Quote(f.Name)+" was asked for.")
	case f.After:
		panic(http.ErrAbortHandler)
	default:
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), operationKey{}, f.Operation)))
	}
}

type operationKey struct{}

// FailedOperation returns the error code with which a fault makes the operation of this request
// fail, or "".
func FailedOperation(ctx context.Context) string {
	code, _ := ctx.Value(operationKey{}).(string)
	return code
}

func contentType(body string) string {
	if strings.HasPrefix(body, "{") {
		return "application/json; charset=utf-8"
	}
	return "text/plain; charset=utf-8"
}

type entryKey struct{}

// Caller records the caller in the request log.
func Caller(ctx context.Context, name string) {
	if entry, ok := ctx.Value(entryKey{}).(*world.Request); ok {
		entry.Caller = bound(name)
	}
}

// Detail records a fact about the outcome in the request log. It ignores empty values.
func Detail(ctx context.Context, key, value string) {
	if entry, ok := ctx.Value(entryKey{}).(*world.Request); ok {
		note(entry, key, value)
	}
}

// note implements Detail.
func note(entry *world.Request, key, value string) {
	if value == "" {
		return
	}
	if entry.Details == nil {
		entry.Details = map[string]string{}
	}
	entry.Details[key] = bound(value)
}

// wait waits for d and reports whether ctx is still alive then.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// harmless reports whether the log may contain the value of a query parameter.
func harmless(name string) bool {
	return slices.Contains([]string{
		"api-version", "resource", "client_id", "object_id", "principal_id", "msi_res_id", "mi_res_id", "format",
		"cred-api-version", "scope", "extended", "$expand", "$filter", "authorization_endpoint",
	}, world.Fold(name))
}

// maskQuery masks values that could be secret and keeps the order and spelling of the query.
func maskQuery(raw string) string {
	if raw == "" {
		return ""
	}
	pairs := strings.Split(bound(raw), "&")
	for i, pair := range pairs {
		key, _, has := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(key)
		if has && (err != nil || !harmless(name)) {
			pairs[i] = key + "=…"
		}
	}
	return strings.Join(pairs, "&")
}

func bound(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// short shortens an identifier for logs.
func short(id string) string {
	if len(id) > 8 {
		return id[:8] + "…"
	}
	return id
}

// recorder is a ResponseWriter that records the status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(data []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(data)
}

// Unwrap returns the underlying writer for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// discard is a ResponseWriter for a response that is not sent.
type discard struct {
	header http.Header
	bytes.Buffer
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(int)     {}
