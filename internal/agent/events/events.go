// Package events tells of refusals where people look first: in Events of the pod
// that was refused. It never makes a request of a pod wait, and bounds what it
// sends, remembers and keeps waiting, because pods can cause refusals at will.
package events

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/turns"
)

// API is what of the API server is needed.
type API interface {
	// Create makes a new Event.
	Create(context.Context, *corev1.Event) error
	// Update sets count, time and message of one that was made before. Its error
	// is NotFound when that is gone: the API server forgets Events after an hour.
	Update(context.Context, *corev1.Event) error
}

// Config are a Recorder's settings.
type Config struct {
	API  API
	Node string
	// Program is whose Events they are, and begins their names after the pod's.
	Program string
	// Dropped counts an Event that was not written.
	Dropped func()
	Log     logr.Logger
}

const (
	// sayAgain is when an Event whose refusal still occurs is brought up to date.
	sayAgain = 10 * time.Minute
	// sayChanged is the same for one whose message has changed: who has put the
	// first mistake right looks for the second. Not sooner, since some pods
	// are refused for different things in turn.
	sayChanged = 2 * time.Minute
	// forget is when one that no longer occurs is forgotten: the API server's own
	// time for Events.
	forget = time.Hour
	// purgeAfter is how often that is looked for, at most.
	purgeAfter = time.Minute
	// maxKnown bounds the pairs of pod and reason that are remembered, maxPerPod
	// those of one pod.
	maxKnown, maxPerPod = 2048, 8
	// maxQueue is how many Events wait. Pods of a node seldom are refused for
	// several reasons at once. The newest of the pod that has most gives way.
	maxQueue = 64
	// perMinute and burst are the budget of the whole node, as generous as that of
	// Kubernetes' own components and no more.
	perMinute, burst = 20, 25
	// writeTime bounds one write.
	writeTime = 5 * time.Second
	// maxMessage is what the API server allows for a note of an Event.
	maxMessage = 1000
)

// Recorder turns refusals into Events: one for each pod and reason, whose count
// grows as long as they occur.
type Recorder struct {
	cfg    Config
	budget *rate.Limiter
	ready  chan struct{} // has a value while queue may have entries

	mu         sync.Mutex
	queue      *turns.Queue[*entry]
	known      map[key]*entry
	pods       map[types.UID]int // how many of known
	namespaces map[string]int    // the same
	purged     time.Time         // when known was last searched for what can go
}

type key struct {
	pod    types.UID
	reason string
}

// entry is what is known of one pod and reason.
type entry struct {
	key
	name    types.NamespacedName
	event   string // its name
	message string

	// Guarded by Recorder.mu.
	count       int32
	first, last time.Time
	said        time.Time // when it was last queued
	saidMessage string    // the message then
	queued      bool
	created     bool
}

// New returns a recorder. It writes nothing before Run.
func New(c Config) *Recorder {
	return &Recorder{
		cfg: c, budget: rate.NewLimiter(rate.Every(time.Minute/perMinute), burst),
		ready: make(chan struct{}, 1), queue: turns.NewQueue[*entry](maxQueue, maxPerPod),
		known: map[key]*entry{}, pods: map[types.UID]int{}, namespaces: map[string]int{},
	}
}

// Refused takes that a pod was refused. reason is one word, message says why and
// what to do. It never waits.
func (r *Recorder) Refused(pod types.NamespacedName, uid types.UID, reason, message string) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.known[key{uid, reason}]
	if e == nil {
		if e = r.remember(pod, uid, reason, now); e == nil {
			return
		}
	}
	e.count++
	e.last, e.message = now, cut(message)
	pause := sayAgain
	if e.message != e.saidMessage {
		pause = sayChanged
	}
	if e.queued || now.Sub(e.said) < pause {
		return
	}
	e.said = now // if it has no place, not again at once
	place, gaveWay := r.queue.Push(pod.Namespace, pod.Name, e)
	if gaveWay != nil {
		gaveWay.Item.queued = false
	}
	if gaveWay != nil || place == nil {
		r.cfg.Dropped()
	}
	if place != nil {
		e.saidMessage, e.queued = e.message, true
		r.signal()
	}
}

func (r *Recorder) signal() {
	select {
	case r.ready <- struct{}{}:
	default: // it is known already
	}
}

// remember makes an entry, or returns nil when the pod or the node has enough.
func (r *Recorder) remember(pod types.NamespacedName, uid types.UID, reason string, now time.Time) *entry {
	if r.pods[uid] >= maxPerPod || len(r.known) >= maxKnown && !r.makeRoom(pod.Namespace, now) {
		return nil
	}
	k := key{uid, reason}
	e := &entry{key: k, name: pod, event: r.eventName(pod.Name, k, now), first: now}
	r.known[k] = e
	r.pods[uid]++
	r.namespaces[pod.Namespace]++
	return e
}

// makeRoom forgets what occurred least recently in the namespace that has most entries, if that has
// more than the given one would have. Once a minute it first forgets what no longer occurs.
func (r *Recorder) makeRoom(namespace string, now time.Time) bool {
	if now.Sub(r.purged) >= purgeAfter {
		r.purged = now
		for k, e := range r.known {
			if !e.queued && now.Sub(e.last) > forget {
				r.drop(k)
			}
		}
	}
	if len(r.known) < maxKnown {
		return true
	}
	most := namespace
	for other, n := range r.namespaces {
		if n > r.namespaces[most] {
			most = other
		}
	}
	if r.namespaces[most] <= r.namespaces[namespace]+1 {
		return false
	}
	var oldest *entry
	for _, e := range r.known {
		if e.name.Namespace == most && !e.queued && (oldest == nil || e.last.Before(oldest.last)) {
			oldest = e
		}
	}
	if oldest == nil {
		return false
	}
	r.drop(oldest.key)
	return true
}

func (r *Recorder) drop(k key) {
	namespace := r.known[k].name.Namespace
	delete(r.known, k)
	if r.pods[k.pod]--; r.pods[k.pod] <= 0 {
		delete(r.pods, k.pod)
	}
	if r.namespaces[namespace]--; r.namespaces[namespace] <= 0 {
		delete(r.namespaces, namespace)
	}
}

// eventName is unique for a pod, a reason and an hour of this agent's life.
func (r *Recorder) eventName(pod string, k key, now time.Time) string {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s/%s/%s/%s/%d", r.cfg.Program, r.cfg.Node, k.pod, k.reason, now.UnixNano())
	const longest = 253 - 17 // of a name, less what follows
	return pod[:min(len(pod), longest)] + "." + hex.EncodeToString(h.Sum(nil))
}

// Run writes Events until ctx ends. Namespaces take turns, and so do the pods of each.
func (r *Recorder) Run(ctx context.Context) {
	for {
		select {
		case <-r.ready:
			for r.waiting() {
				if r.budget.Wait(ctx) != nil {
					return
				}
				r.write(ctx, r.next())
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *Recorder) waiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queue.Len() > 0
}

// next removes the entry whose turn it is.
func (r *Recorder) next() *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	place := r.queue.Next(func(*turns.Entry[*entry]) bool { return true })
	r.queue.Take(place)
	place.Item.queued = false
	return place.Item
}

// write tries once. When the API server is away, the next refusal of the kind
// that comes ten minutes later tries again, and the metric tells.
func (r *Recorder) write(ctx context.Context, e *entry) {
	r.mu.Lock()
	event, created := r.event(e), e.created
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	err := errNotCreated
	if created {
		err = r.cfg.API.Update(ctx, event)
	}
	if !created || apierrors.IsNotFound(err) {
		err = r.cfg.API.Create(ctx, event)
	}
	switch {
	case err == nil, apierrors.IsAlreadyExists(err):
		r.mu.Lock()
		e.created = true
		r.mu.Unlock()
	default:
		r.cfg.Dropped()
		// A namespace that is being deleted takes no Events; that is no news.
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			r.cfg.Log.V(1).Info("cannot write an event", "pod", e.name.String(), "reason", e.reason, "error", err.Error())
		}
	}
}

var errNotCreated = errors.New("not created yet")

// Reason is that of all Events: one word for people to filter by. Which refusal
// it was stands in the message's first word.
const Reason = "IdentityRefused"

func (r *Recorder) event(e *entry) *corev1.Event {
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.name.Namespace, Name: e.event},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: e.name.Namespace, Name: e.name.Name, UID: e.pod,
		},
		Type: corev1.EventTypeWarning, Reason: Reason, Message: e.reason + ": " + e.message,
		Source: corev1.EventSource{Component: r.cfg.Program, Host: r.cfg.Node}, ReportingController: r.cfg.Program, ReportingInstance: r.cfg.Node,
		FirstTimestamp: metav1.NewTime(e.first), LastTimestamp: metav1.NewTime(e.last), Count: e.count,
	}
}

// cut shortens a message at a character.
func cut(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	end := 0
	for i := range s { // the last beginning of a character that leaves room
		if i > maxMessage-len("…") {
			break
		}
		end = i
	}
	return s[:end] + "…"
}
