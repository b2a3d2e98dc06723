// Faults that the emulator was asked to inject.

package world

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Surfaces in faults and in the request log.
const (
	SurfaceARM   = "arm"
	SurfaceEntra = "entra"
	SurfaceIMDS  = "imds"
)

// Fault is a disturbance of the requests it matches. If several match, the first one applies.
type Fault struct {
	// Name identifies the fault, for replacing and removing it.
	Name string `json:"name"`
	// Surface is arm, entra or imds; empty matches all.
	Surface string `json:"surface,omitempty"`
	// Method is an HTTP method; empty matches all.
	Method string `json:"method,omitempty"`
	// Path is a case-insensitive pattern for the request's path; * matches any characters. Empty
	// matches all.
	Path string `json:"path,omitempty"`
	// Query is such a pattern for the request's query as sent: *client_id=GUID* matches one identity
	// at IMDS. Empty matches all.
	Query string `json:"query,omitempty"`

	// Status is the HTTP status of the response, with a body in the surface's error format.
	Status int `json:"status,omitempty"`
	// RetryAfter, in seconds, is sent with Status.
	RetryAfter int `json:"retryAfter,omitempty"`
	// Code replaces the error code of the body.
	Code string `json:"code,omitempty"`
	// Body replaces the body.
	Body string `json:"body,omitempty"`
	// Latency delays the response, alone or combined with other fields.
	Latency Duration `json:"latency,omitzero"`
	// Hang holds the request until the client disconnects or the fault is removed.
	Hang bool `json:"hang,omitempty"`
	// Drop closes the connection without a response.
	Drop bool `json:"drop,omitempty"`
	// Operation accepts a write to a machine and makes its operation fail with this error code, such
	// as OperationPreempted (which Azure calls canceled). The machine does not change.
	Operation string `json:"operation,omitempty"`
	// After lets the request take effect first and disturbs only the response.
	After bool `json:"after,omitempty"`

	// Skip is how many matching requests pass first.
	Skip int `json:"skip,omitempty"`
	// Count ends the fault after that many hits; 0 means that it lasts until it is removed. A spent
	// fault stays in the list.
	Count int `json:"count,omitempty"`
	// Probability of a hit, between 0 and 1; 0 means always.
	Probability float64 `json:"probability,omitempty"`
	// Hits is the number of requests that it was applied to. Read only.
	Hits int `json:"hits,omitempty"`
}

func (f Fault) validate() error {
	switch {
	case f.Name == "":
		return errors.New("fault: give it a name")
	case !slices.Contains([]string{"", SurfaceARM, SurfaceEntra, SurfaceIMDS}, f.Surface):
		return fmt.Errorf("fault %s: surface %q: expected arm, entra or imds", f.Name, f.Surface)
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("fault %s: status %d: expected 200 to 599", f.Name, f.Status)
	case min(f.RetryAfter, f.Skip, f.Count) < 0:
		return fmt.Errorf("fault %s: retryAfter, skip and count cannot be negative", f.Name)
	case f.Probability < 0 || f.Probability > 1:
		return fmt.Errorf("fault %s: probability %v: expected 0 to 1", f.Name, f.Probability)
	case f.inert():
		return fmt.Errorf("fault %s: does nothing: give it a status, latency, hang, drop or operation", f.Name)
	}
	return nil
}

// inert reports whether a hit would change nothing.
func (f Fault) inert() bool {
	return f.Status == 0 && f.Latency == 0 && !f.Hang && !f.Drop && f.Operation == ""
}

func (f Fault) matches(surface, method, path, query string) bool {
	return (f.Surface == "" || f.Surface == surface) &&
		(f.Method == "" || EqualFold(f.Method, method)) &&
		(f.Path == "" || glob(Fold(f.Path), Fold(path))) &&
		(f.Query == "" || glob(Fold(f.Query), Fold(query)))
}

// glob reports whether s matches pattern, in which * matches any characters. It takes at most
// len(pattern)*len(s) steps for any input.
func glob(pattern, s string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		part, next, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], next
	}
}

// faultState is a fault with its counters.
type faultState struct {
	Fault
	seen int
	gone chan struct{} // closed when the fault is removed, for requests that hang
}

// TakeFault returns the fault that applies to the request, if any, and counts it. The channel is
// closed when the fault is removed.
func (w *World) TakeFault(surface, method, path, query string) (Fault, <-chan struct{}, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.faults {
		if (f.Count > 0 && f.Hits >= f.Count) || !f.matches(surface, method, path, query) {
			continue
		}
		f.seen++
		if f.seen <= f.Skip || (f.Probability > 0 && w.random() >= f.Probability) {
			continue
		}
		f.Hits++
		return f.Fault, f.gone, true
	}
	return Fault{}, nil, false
}

// Faults returns the faults, including spent ones.
func (w *World) Faults() []Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	faults := make([]Fault, 0, len(w.faults))
	for _, f := range w.faults {
		faults = append(faults, f.Fault)
	}
	return faults
}

// SetFault adds a fault, or replaces the one of the same name and resets its counts.
func (w *World) SetFault(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	f.Hits = 0
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := &faultState{Fault: f, gone: make(chan struct{})}
	for i, old := range w.faults {
		if old.Name == f.Name {
			close(old.gone)
			w.faults[i] = fresh
			return nil
		}
	}
	if len(w.faults) >= maxFaults {
		return fmt.Errorf("fault %s: there are %d already; remove some", f.Name, maxFaults)
	}
	w.faults = append(w.faults, fresh)
	return nil
}

// RemoveFault removes the fault of that name, or all of them if name is empty. It reports whether
// there was one.
func (w *World) RemoveFault(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.removeFault(name)
}

func (w *World) removeFault(name string) bool {
	kept := w.faults[:0:0]
	for _, f := range w.faults {
		if name == "" || f.Name == name {
			close(f.gone)
			continue
		}
		kept = append(kept, f)
	}
	removed := len(kept) < len(w.faults)
	w.faults = kept
	return removed
}

// maxFaults bounds the list that every request is compared with.
const maxFaults = 1000
