// Rate limits of Events, in total and per namespace.

package events

import (
	"sync"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	// shares is how many namespaces can use their full limit at the same time. A tenant whose
	// objects are constantly refused does not silence the others.
	shares = 2
	// maxNamespaces bounds the number of per-namespace limiters. Beyond it, all of them are reset.
	maxNamespaces = 1024
)

// limiter limits Events in total and per namespace.
type limiter struct {
	all   *rate.Limiter
	limit rate.Limit
	burst int

	mu         sync.Mutex
	namespaces map[string]*rate.Limiter
}

// newLimiter returns a limiter with these limits for one namespace, and shares times as much in
// total.
func newLimiter(limit rate.Limit, burst int) *limiter {
	return &limiter{all: rate.NewLimiter(shares*limit, shares*burst), limit: limit, burst: burst, namespaces: map[string]*rate.Limiter{}}
}

// allow reports whether an Event about an object of the namespace may be written now.
func (l *limiter) allow(namespace string) bool {
	l.mu.Lock()
	own := l.namespaces[namespace]
	if own == nil {
		if len(l.namespaces) >= maxNamespaces {
			clear(l.namespaces)
		}
		own = rate.NewLimiter(l.limit, l.burst)
		l.namespaces[namespace] = own
	}
	l.mu.Unlock()
	return own.Allow() && l.all.Allow()
}

// namespaceOf returns the namespace of the object that an Event is about.
func namespaceOf(about runtime.Object) string {
	if reference, ok := about.(*corev1.ObjectReference); ok {
		return reference.Namespace
	}
	return ""
}
