// Package events reports refusals as Events of the refused pod, where its owner looks first. It
// never delays a request. It bounds what it writes, remembers and queues, because pods can cause
// refusals at will.
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

	"github.com/podid-io/podid/internal/reason"
	"github.com/podid-io/podid/internal/turns"
)

// API writes Events.
type API interface {
	// Create creates an Event.
	Create(context.Context, *corev1.Event) error
	// Update writes the count, time and message of an Event. Its error is NotFound if the Event
	// does not exist any more: the API server deletes Events after an hour.
	Update(context.Context, *corev1.Event) error
}

// Config is the configuration of a Recorder.
type Config struct {
	API  API
	Node string
	// Program is the component that the Events name.
	Program string
	// Dropped is called for each Event that was not written.
	Dropped func()
	Log     logr.Logger
}

const (
	// updateInterval is how often an Event is updated while its refusal recurs.
	updateInterval = 10 * time.Minute
	// changeInterval is the same if the message has changed: the owner who fixed the first mistake
	// looks for the next one. It is not shorter because some pods are refused for several reasons
	// in turn.
	changeInterval = 2 * time.Minute
	// retention is how long a refusal that does not recur is remembered, as long as the API server
	// keeps Events.
	retention = time.Hour
	// purgeInterval is how often expired refusals are deleted, at most.
	purgeInterval = time.Minute
	// maxKnown bounds the pairs of pod and reason that are remembered, maxPerPod those of one pod.
	maxKnown, maxPerPod = 2048, 8
	// maxQueue bounds the queued Events. Pods of a node are seldom refused for several reasons at
	// once. When the queue is full, the newest Event of the pod with the most is dropped.
	maxQueue = 64
	// perMinute and burst are the rate limit of the node. Kubernetes' own components have the same.
	perMinute, burst = 20, 25
	// writeTime bounds one write.
	writeTime = 5 * time.Second
	// maxMessage is the API server's limit for the note of an Event.
	maxMessage = 1000
)

// Recorder writes an Event for each pod and reason, and counts how often the refusal recurs. It is
// safe for concurrent use.
type Recorder struct {
	cfg     Config
	limiter *rate.Limiter
	ready   chan struct{} // receives after an entry was queued

	mu         sync.Mutex
	queue      *turns.Queue[*entry]
	known      map[key]*entry
	pods       map[types.UID]int // entries in known
	namespaces map[string]int    // entries in known
	purged     time.Time         // when expired entries were last deleted
}

type key struct {
	pod    types.UID
	reason string
}

// entry is a pod refused for a reason.
type entry struct {
	key
	name    types.NamespacedName
	event   string // its name
	message string

	// Guarded by Recorder.mu.
	count       int32
	first, last time.Time
	lastQueued  time.Time
	lastMessage string // when it was last queued
	queued      bool
	created     bool
}

// New returns a recorder. Run writes its Events.
func New(c Config) *Recorder {
	return &Recorder{
		cfg: c, limiter: rate.NewLimiter(rate.Every(time.Minute/perMinute), burst),
		ready: make(chan struct{}, 1), queue: turns.NewQueue[*entry](maxQueue, maxPerPod),
		known: map[key]*entry{}, pods: map[types.UID]int{}, namespaces: map[string]int{},
	}
}

// Refused records that a pod was refused. The name is that of the reason, the message has the cause
// and the remedy. It never blocks.
func (r *Recorder) Refused(pod types.NamespacedName, uid types.UID, name, message string) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.known[key{uid, name}]
	if e == nil {
		if e = r.remember(pod, uid, name, now); e == nil {
			return
		}
	}
	e.count++
	e.last, e.message = now, reason.Cut(message, maxMessage)
	pause := updateInterval
	if e.message != e.lastMessage {
		pause = changeInterval
	}
	if e.queued || now.Sub(e.lastQueued) < pause {
		return
	}
	e.lastQueued = now // even if it is not: it must not be tried again at once
	queued, evicted := r.queue.Push(pod.Namespace, pod.Name, e)
	if evicted != nil {
		evicted.Item.queued = false
	}
	if evicted != nil || queued == nil {
		r.cfg.Dropped()
	}
	if queued != nil {
		e.lastMessage, e.queued = e.message, true
		r.signal()
	}
}

func (r *Recorder) signal() {
	select {
	case r.ready <- struct{}{}:
	default: // Run is awake already
	}
}

// remember adds an entry. It returns nil if the pod or the node has too many.
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

// makeRoom drops the least recent entry of the namespace with the most, if that has more than the
// given one would have. At most once in purgeInterval it first drops expired entries.
func (r *Recorder) makeRoom(namespace string, now time.Time) bool {
	if r.purge(now); len(r.known) < maxKnown {
		return true
	}
	largest := namespace
	for other, n := range r.namespaces {
		if n > r.namespaces[largest] {
			largest = other
		}
	}
	if r.namespaces[largest] <= r.namespaces[namespace]+1 {
		return false
	}
	oldest := r.oldest(largest)
	if oldest == nil {
		return false
	}
	r.drop(oldest.key)
	return true
}

// purge drops expired entries, at most once in purgeInterval.
func (r *Recorder) purge(now time.Time) {
	if now.Sub(r.purged) < purgeInterval {
		return
	}
	r.purged = now
	for k, e := range r.known {
		if !e.queued && now.Sub(e.last) > retention {
			r.drop(k)
		}
	}
}

// oldest returns the least recent entry of a namespace that is not queued, nil if there is none.
func (r *Recorder) oldest(namespace string) *entry {
	var oldest *entry
	for _, e := range r.known {
		if e.name.Namespace == namespace && !e.queued && (oldest == nil || e.last.Before(oldest.last)) {
			oldest = e
		}
	}
	return oldest
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

// eventName returns a name that is unique for the pod, the reason and the time.
func (r *Recorder) eventName(pod string, k key, now time.Time) string {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s/%s/%s/%s/%d", r.cfg.Program, r.cfg.Node, k.pod, k.reason, now.UnixNano())
	const maxPod = 253 - 17 // the limit for a name, less the rest
	return pod[:min(len(pod), maxPod)] + "." + hex.EncodeToString(h.Sum(nil))
}

// Run writes Events until ctx ends. Namespaces take turns, and so do the pods of each namespace.
func (r *Recorder) Run(ctx context.Context) {
	for {
		select {
		case <-r.ready:
			for r.pending() {
				if r.limiter.Wait(ctx) != nil {
					return
				}
				r.write(ctx, r.next())
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *Recorder) pending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queue.Len() > 0
}

// next removes the entry whose turn it is.
func (r *Recorder) next() *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	entry := r.queue.Next(func(*turns.Entry[*entry]) bool { return true })
	r.queue.Take(entry)
	entry.Item.queued = false
	return entry.Item
}

// write writes an Event once. If that fails, it is counted as dropped, and the next equal refusal
// after updateInterval is written.
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
		// A namespace that is being deleted accepts no Events.
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			r.cfg.Log.V(1).Info("cannot write an Event", "pod", e.name.String(), "reason", e.reason, "error", err.Error())
		}
	}
}

var errNotCreated = errors.New("not created yet")

// Reason is the reason of all Events, to filter by. The first word of the message is the reason of
// the refusal.
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
