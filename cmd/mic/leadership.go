// One term: a manager with its caches and controllers, from its start until it
// ends or loses the Lease. Nothing of it outlives the term, so that the next one
// starts from what the API server and Azure say.

package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers"
	"github.com/podid-io/podid/internal/lease"
	"github.com/podid-io/podid/internal/listwatch"
	"github.com/podid-io/podid/internal/observe"
)

// leadership is what every term needs.
type leadership struct {
	options     *options
	kube        *rest.Config
	cloud       *compute.Client
	azure       *reach // how the last call to Azure went
	metrics     *observe.Metrics
	health      *observe.Health
	controllers controllers.Config

	failed error // how the last term ended

	mu     sync.Mutex
	checks []string // the names of this term's
}

// lead runs one term. Until the caches are filled, readiness tells why not.
func (l *leadership) lead(ctx context.Context) error {
	api, synced := &reach{}, &reach{}
	synced.note(errors.New("not filled yet"))
	if l.failed != nil {
		synced.note(l.failed)
	}
	l.health.AddCheck("kubernetes", api.err)
	l.health.AddCheck("caches", synced.err)
	l.controllers.Health = l.check
	l.metrics.Leading(false)
	l.azure.note(nil) // a standby asks Azure nothing: nothing would take back the last term's trouble
	l.failed = explain(l.term(ctx, api, synced))
	synced.note(l.failed)
	// What a term found does not count for the next one, and its caches are free to go.
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range l.checks {
		l.health.AddCheck(name, func() error { return nil })
	}
	l.checks = nil
	return l.failed
}

// check adds one to readiness for this term.
func (l *leadership) check(name string, f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checks = append(l.checks, name)
	l.health.AddCheck(name, f)
}

// term makes a manager and runs it to its end. Losing the Lease ends it as the end
// of the program does: every controller is stopped and waited for.
func (l *leadership) term(ctx context.Context, api, synced *reach) error {
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	lock, err := l.lock(api, lose)
	if err != nil {
		return err
	}
	mgr, err := l.manager(ctx, lock)
	if err != nil {
		return err
	}
	if err := controllers.Add(ctx, mgr, l.cloud, l.metrics, l.controllers); err != nil {
		return err
	}
	// Also what only leaders look at: a standby takes over with all caches filled.
	for _, kind := range controllers.Cached() {
		if _, err := mgr.GetCache().GetInformer(ctx, kind, crcache.BlockUntilSynced(false)); err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
	}
	if err := errors.Join(mgr.Add(&standby{synced: synced}), mgr.Add(&active{health: l.health, metrics: l.metrics})); err != nil {
		return fmt.Errorf("add to manager: %w", err)
	}
	// The elector releases the Lease when all else has ended, and needs it till then.
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		lock.Run(following)
	}()
	err = l.start(ctx, mgr, synced)
	stop()
	<-followed
	return err
}

// start runs the manager to its end. One whose caches never filled (podid may not
// read something) does not end when it is told to, and has begun nothing that would
// have to be finished.
func (l *leadership) start(ctx context.Context, mgr manager.Manager, synced *reach) error {
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		if synced.err() == nil {
			err = <-ended
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		err = errors.New("the term ended")
	}
	return err
}

// manager makes the manager of a term.
func (l *leadership) manager(ctx context.Context, lock resourcelock.Interface) (manager.Manager, error) {
	scheme, err := controllers.Scheme()
	if err != nil {
		return nil, err
	}
	cache, err := controllers.CacheOptions()
	if err != nil {
		return nil, err
	}
	streams, err := controllers.NewStreams(l.kube, cache)
	if err != nil {
		return nil, err
	}
	cache.NewInformer = l.informers(streams)
	log := logr.FromContextOrDiscard(ctx)
	if sink := log.GetSink(); sink != nil {
		log = log.WithSink(quiet{sink})
	}
	times := l.times()
	mgr, err := manager.New(l.kube, manager.Options{
		Scheme: scheme, Cache: cache, Logger: log,
		BaseContext:    func() context.Context { return logr.NewContext(context.Background(), log) },
		LeaderElection: true, LeaderElectionResourceLockInterface: lock,
		LeaderElectionID: l.options.election.name, LeaderElectionNamespace: l.options.election.namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &times.Duration, RenewDeadline: &times.GiveUp, RetryPeriod: &times.Tick,
		Metrics:                server.Options{BindAddress: "0"}, // served for all terms, see servers.go
		HealthProbeBindAddress: "0",
		Controller:             config.Controller{SkipNameValidation: new(true)}, // a term's names are the last one's too
	})
	if err != nil {
		return nil, fmt.Errorf("make manager: %w", err)
	}
	return mgr, nil
}

// informers returns what makes the informers of the cache: they list by stream, ask again soon
// after a failure, and readiness reports those that may not read their kind.
func (l *leadership) informers(streams *controllers.Streams) func(
	toolscache.ListerWatcher, runtime.Object, time.Duration, toolscache.Indexers,
) toolscache.SharedIndexInformer {
	return func(
		lw toolscache.ListerWatcher, kind runtime.Object, resync time.Duration, indexers toolscache.Indexers,
	) toolscache.SharedIndexInformer {
		watched := &reach{}
		l.check("watch "+reflect.TypeOf(kind).Elem().Name(), watched.err)
		return toolscache.NewSharedIndexInformer(listwatch.New(streams.Of(kind, lw), watched.note), kind, resync, indexers)
	}
}

func (l *leadership) times() lease.Times { return lease.TimesOf(l.options.election.duration) }

// lock is the Lease. Every MIC, leading or not, hears of it every few seconds: that
// is how it knows that the API server is there.
func (l *leadership) lock(api *reach, lose func(error)) (*lease.Lock, error) {
	election := l.options.election
	// A client of its own, so that the controllers' requests cannot hold up a renewal;
	// and HTTP/1.1, so that a connection that hangs holds up one request and no more.
	kube := rest.CopyConfig(l.kube)
	kube.QPS = -1
	kube.NextProtos = []string{"http/1.1"}
	client, err := coordination.NewForConfig(kube)
	if err != nil {
		return nil, fmt.Errorf("make client for Lease %s/%s: %w", election.namespace, election.name, err)
	}
	return lease.New(lease.Config{
		Leases: client.Leases(election.namespace), Namespace: election.namespace, Name: election.name,
		Identity: election.instance, Times: l.times(),
		Lost: func(err error) {
			l.health.SetActive(false)
			lose(err)
		},
		Asked: func(err error) {
			if err != nil {
				err = fmt.Errorf("the last request to the API server failed: %w", err)
			}
			api.note(err)
		},
	}), nil
}

// standby starts, leader or not, when the caches are filled.
type standby struct{ synced *reach }

// NeedLeaderElection is manager.LeaderElectionRunnable.
func (*standby) NeedLeaderElection() bool { return false }

// Start is manager.Runnable.
func (s *standby) Start(ctx context.Context) error {
	s.synced.note(nil)
	<-ctx.Done()
	return nil
}

// active starts when this MIC leads.
type active struct {
	health  *observe.Health
	metrics *observe.Metrics
}

// NeedLeaderElection is manager.LeaderElectionRunnable.
func (*active) NeedLeaderElection() bool { return true }

// Start is manager.Runnable.
func (a *active) Start(ctx context.Context) error {
	logr.FromContextOrDiscard(ctx).Info("leading")
	a.metrics.Leading(true)
	a.health.SetActive(true)
	<-ctx.Done()
	a.health.SetActive(false)
	a.metrics.Leading(false)
	return nil
}

// reach remembers how the last call to somebody went.
type reach struct {
	mu   sync.Mutex
	last error
}

func (r *reach) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = err
}

func (r *reach) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}
