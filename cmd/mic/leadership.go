// One term: a manager with its caches and controllers, from its start until it
// ends or loses the Lease. Nothing of it outlives the term, so that the next one
// starts from what the API server and Azure say.

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers"
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
	l.metrics.Leading(false)
	l.azure.note(nil) // a standby asks Azure nothing: nothing would take back the last term's trouble
	l.failed = explain(l.term(ctx, api, synced))
	synced.note(l.failed)
	return l.failed
}

// term makes a manager and runs it to its end.
func (l *leadership) term(ctx context.Context, api, synced *reach) error {
	mgr, err := l.manager(ctx, api)
	if err != nil {
		return err
	}
	if err := controllers.Add(ctx, mgr, l.cloud, l.metrics, l.controllers); err != nil {
		return err
	}
	if err := errors.Join(mgr.Add(&standby{synced: synced}), mgr.Add(&active{health: l.health, metrics: l.metrics})); err != nil {
		return fmt.Errorf("add to manager: %w", err)
	}
	return l.start(ctx, mgr, synced)
}

// start runs the manager to its end. One whose caches never filled (podid may not
// read something) does not end when it is told to, and has begun nothing that would
// have to be finished.
func (l *leadership) start(ctx context.Context, mgr manager.Manager, synced *reach) error {
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	select {
	case err := <-ended:
		if err == nil {
			err = errors.New("the term ended")
		}
		return err
	case <-ctx.Done():
	}
	if synced.err() != nil {
		return ctx.Err()
	}
	return <-ended
}

// manager makes the manager of a term.
func (l *leadership) manager(ctx context.Context, api *reach) (manager.Manager, error) {
	scheme, err := controllers.Scheme()
	if err != nil {
		return nil, err
	}
	cache, err := controllers.CacheOptions()
	if err != nil {
		return nil, err
	}
	// As v1.8.17: renewed every quarter of the duration, given up after half.
	duration := l.options.election.duration
	renew, retry := duration/2, duration/4
	lock, err := l.lock(api, renew)
	if err != nil {
		return nil, err
	}
	mgr, err := manager.New(l.kube, manager.Options{
		Scheme: scheme, Cache: cache, Logger: logr.FromContextOrDiscard(ctx),
		// The runnables' contexts descend from this one, for its logger.
		BaseContext:    func() context.Context { return context.WithoutCancel(ctx) },
		LeaderElection: true, LeaderElectionResourceLockInterface: lock,
		LeaderElectionID: l.options.election.name, LeaderElectionNamespace: l.options.election.namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &duration, RenewDeadline: &renew, RetryPeriod: &retry,
		Metrics:                server.Options{BindAddress: "0"}, // served for all terms, see servers.go
		HealthProbeBindAddress: "0",
		Controller:             config.Controller{SkipNameValidation: new(true)}, // a term's names are the last one's too
	})
	if err != nil {
		return nil, fmt.Errorf("make manager: %w", err)
	}
	return mgr, nil
}

// lock is the Lease. Every MIC, leading or not, asks about it every few seconds:
// that is how it knows that the API server is there.
func (l *leadership) lock(api *reach, renew time.Duration) (resourcelock.Interface, error) {
	election := l.options.election
	// Of its own, so that the controllers' requests cannot hold up a renewal.
	kube := rest.CopyConfig(l.kube)
	kube.QPS, kube.Burst = 5, 10
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, election.namespace, election.name,
		resourcelock.ResourceLockConfig{Identity: election.instance}, kube, renew)
	if err != nil {
		return nil, fmt.Errorf("make leader election lock %s/%s: %w", election.namespace, election.name, err)
	}
	return &watchedLock{Interface: lock, api: api}, nil
}

// watchedLock notes whether the API server answered.
type watchedLock struct {
	resourcelock.Interface
	api *reach
}

// Get is resourcelock.Interface.
func (l *watchedLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	l.noted(err)
	return record, raw, err
}

// Create is resourcelock.Interface.
func (l *watchedLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Create(ctx, record)
	l.noted(err)
	return err
}

// Update is resourcelock.Interface.
func (l *watchedLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Update(ctx, record)
	l.noted(err)
	return err
}

func (l *watchedLock) noted(err error) {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		l.api.note(nil)
		return
	}
	l.api.note(fmt.Errorf("the last request to the API server failed: %w", err))
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
