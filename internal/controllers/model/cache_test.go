// MIC's caches in the model: informers that lag behind the API server as long as a history asks
// for, and that deliver changes in chunks.

package model

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// caches implements cache.Cache.
type caches struct {
	server *apiServer
	lag    func(kind) time.Duration
	// seen is called when an informer has applied changes.
	seen func(kind)

	indexes   map[kind]map[string]client.IndexerFunc
	informers map[kind]*informer
	pumps     sync.WaitGroup
}

// informer caches the objects of one kind.
type informer struct {
	caches    *caches
	kind      kind
	label     labels.Selector
	transform toolscache.TransformFunc
	watch     *watch

	// delivery is held while handlers run. mu is held only briefly, because handlers read.
	delivery sync.Mutex
	mu       sync.Mutex
	held     bool
	release  chan struct{}
	objects  map[types.NamespacedName]client.Object
	handlers []toolscache.ResourceEventHandler
}

func newCaches(server *apiServer, options crcache.Options, kinds []client.Object, lag func(kind) time.Duration, seen func(kind)) *caches {
	c := &caches{
		server: server, lag: lag, seen: seen,
		indexes: map[kind]map[string]client.IndexerFunc{}, informers: map[kind]*informer{},
	}
	for _, o := range kinds {
		i := &informer{
			caches: c, kind: kindOf(o), label: labels.Everything(), transform: options.DefaultTransform,
			objects: map[types.NamespacedName]client.Object{}, release: make(chan struct{}, 1),
		}
		for of, by := range options.ByObject {
			if kindOf(of) == i.kind {
				if by.Label != nil {
					i.label = by.Label
				}
				if by.Transform != nil {
					i.transform = by.Transform
				}
			}
		}
		var all []client.Object
		all, i.watch = server.follow(i.kind)
		for _, o := range all {
			if kept := i.keep(o); kept != nil {
				i.objects[client.ObjectKeyFromObject(o)] = kept
			}
		}
		c.informers[i.kind] = i
	}
	return c
}

// keep returns what the informer keeps of an object, or nil.
func (i *informer) keep(o client.Object) client.Object {
	if !i.label.Matches(labels.Set(o.GetLabels())) {
		return nil
	}
	kept, err := i.transform(copied(o))
	if err != nil {
		panic(err)
	}
	out, _ := kept.(client.Object)
	return out
}

// Start delivers changes until the context ends.
func (c *caches) Start(ctx context.Context) error {
	for _, i := range c.informers {
		c.pumps.Go(func() { i.pump(ctx) })
	}
	<-ctx.Done()
	c.pumps.Wait()
	for _, i := range c.informers {
		c.server.unfollow(i.kind, i.watch)
	}
	return nil
}

// pump delivers new changes after the lag of the kind, unless the informer is held.
func (i *informer) pump(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.watch.news:
		case <-i.release:
		}
		if lag := i.caches.lag(i.kind); lag > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lag):
			}
		}
		if !i.holding() {
			i.deliver(-1, false)
		}
	}
}

func (i *informer) holding() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.held
}

// hold pauses or resumes the informer.
func (i *informer) hold(held bool) {
	i.mu.Lock()
	i.held = held
	i.mu.Unlock()
	if !held {
		select {
		case i.release <- struct{}{}:
		default:
		}
	}
}

// deliver applies up to n changes. With chunk, all of them are in the cache before the first
// handler runs. Otherwise they are delivered one by one.
func (i *informer) deliver(n int, chunk bool) {
	i.delivery.Lock()
	defer i.delivery.Unlock()
	var notifications []func(toolscache.ResourceEventHandler)
	for _, c := range i.caches.server.drain(i.watch, n) {
		if notification := i.apply(c); notification != nil {
			notifications = append(notifications, notification)
		}
		if !chunk {
			i.notify(notifications)
			notifications = nil
		}
	}
	i.notify(notifications)
}

// relist does what an informer does when its watch was interrupted: it sees the current objects,
// but not the changes in between.
func (i *informer) relist() {
	i.delivery.Lock()
	defer i.delivery.Unlock()
	var notifications []func(toolscache.ResourceEventHandler)
	left := map[types.NamespacedName]bool{}
	for _, o := range i.all() {
		left[client.ObjectKeyFromObject(o)] = true
	}
	for _, o := range i.caches.server.relist(i.kind, i.watch) {
		delete(left, client.ObjectKeyFromObject(o))
		if notification := i.apply(change{object: o}); notification != nil {
			notifications = append(notifications, notification)
		}
	}
	for name := range left {
		last := i.one(name)
		i.put(name, nil)
		notifications = append(notifications, func(h toolscache.ResourceEventHandler) {
			h.OnDelete(toolscache.DeletedFinalStateUnknown{Key: name.String(), Obj: last})
		})
	}
	i.notify(notifications)
}

func (i *informer) notify(notifications []func(toolscache.ResourceEventHandler)) {
	if len(notifications) == 0 {
		return
	}
	i.caches.seen(i.kind)
	i.mu.Lock()
	handlers := slices.Clone(i.handlers)
	i.mu.Unlock()
	for _, notification := range notifications {
		for _, h := range handlers {
			notification(h)
		}
	}
}

// apply applies a change, and returns a function that notifies a handler.
func (i *informer) apply(c change) func(toolscache.ResourceEventHandler) {
	name := client.ObjectKeyFromObject(c.object)
	before, after := i.one(name), client.Object(nil)
	if !c.deleted {
		after = i.keep(c.object)
	}
	switch {
	case after != nil && before != nil:
		i.put(name, after)
		return func(h toolscache.ResourceEventHandler) { h.OnUpdate(before, after) }
	case after != nil:
		i.put(name, after)
		return func(h toolscache.ResourceEventHandler) { h.OnAdd(after, false) }
	case before != nil:
		i.put(name, nil)
		last := before
		if kept := i.keep(c.object); kept != nil {
			last = kept
		}
		return func(h toolscache.ResourceEventHandler) { h.OnDelete(last) }
	}
	return nil
}

// put stores an object, or deletes it if o is nil.
func (i *informer) put(name types.NamespacedName, o client.Object) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if o == nil {
		delete(i.objects, name)
	} else {
		i.objects[name] = o
	}
}

func (i *informer) all() []client.Object {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.allLocked()
}

func (i *informer) allLocked() []client.Object {
	all := make([]client.Object, 0, len(i.objects))
	for _, o := range i.objects {
		all = append(all, o)
	}
	return all
}

func (i *informer) one(name types.NamespacedName) client.Object {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.objects[name]
}
