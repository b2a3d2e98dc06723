// One session with the API server: caches that are filled whether this MIC leads or not, and the
// controllers while it leads.

package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers"
	"github.com/podid-io/podid/internal/election"
	"github.com/podid-io/podid/internal/listwatch"
	"github.com/podid-io/podid/internal/observe"
)

// session is what MIC needs to join a cluster.
type session struct {
	election    electionOptions
	kube        *rest.Config
	cloud       *compute.Client
	metrics     *observe.Metrics
	health      *observe.Health
	controllers controllers.Config

	// What readiness reports. Set by addChecks.
	filled, api *lastResult

	// Set by connect.
	manager manager.Manager
	cache   cache.Cache
	policy  manager.Runnable
}

// addChecks makes readiness depend on the caches and on the API server. It must be called before
// the probes are served: without checks, a MIC that has not begun would be ready.
func (s *session) addChecks() {
	s.filled, s.api = &lastResult{}, &lastResult{}
	s.filled.set(errors.New("not filled yet"))
	s.health.AddCheck("caches", s.filled.err)
	s.health.AddCheck("kubernetes", s.api.err)
	s.controllers.Health = s.health.AddCheck
}

// run works until ctx ends. Until the caches are filled, readiness reports why they are not.
func (s *session) run(ctx context.Context) error {
	s.metrics.Leading(false)
	retryLoop(ctx, func() error {
		err := explain(s.connect(ctx))
		if err != nil {
			s.filled.set(err)
		}
		return err
	})
	if ctx.Err() != nil {
		return nil
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The caches run until the controllers have stopped.
	caching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, 2)
	var caches sync.WaitGroup
	start := func(r manager.Runnable) {
		caches.Go(func() {
			if err := r.Start(caching); err != nil {
				failed <- err
				cancel()
			}
		})
	}
	start(s.cache)
	var err error
	if s.cache.WaitForCacheSync(ctx) {
		s.filled.set(nil)
		caches.Go(func() { reportOldCRDs(ctx, s.kube) })
		start(s.policy)
		err = s.elect(ctx)
	}
	if err == nil { // otherwise the Lease is lost, and the process must exit at once
		stop()
		waitFor(&caches, stopTimeout)
	}
	select {
	case failure := <-failed:
		return fmt.Errorf("fill the caches: %w", failure)
	default:
		return err
	}
}

// stopTimeout bounds the wait for the caches to stop. They only read, so MIC can exit without them.
const stopTimeout = 3 * time.Second

// waitFor waits for a group, but no longer than the timeout.
func waitFor(group *sync.WaitGroup, timeout time.Duration) {
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(timeout):
	}
}

// elect competes for the Lease, and leads while it has it.
func (s *session) elect(ctx context.Context) error {
	c, err := s.electionConfig()
	if err != nil {
		return err
	}
	defer s.health.SetActive(false)
	return election.Run(ctx, c, s.lead)
}

// lead runs the controllers until ctx ends.
func (s *session) lead(ctx context.Context) error {
	logr.FromContextOrDiscard(ctx).Info("leading")
	s.metrics.Leading(true)
	s.health.SetActive(true)
	defer func() {
		s.health.SetActive(false)
		s.metrics.Leading(false)
	}()
	return s.manager.Start(ctx)
}

// connect sets up the caches and the controllers. It starts nothing.
func (s *session) connect(ctx context.Context) error {
	if err := s.newManager(ctx); err != nil {
		return err
	}
	var err error
	if s.policy, err = controllers.Add(ctx, s.manager, s.cloud, s.metrics, s.controllers); err != nil {
		return err
	}
	// Includes what only a leader reads: a standby takes over with filled caches.
	for _, kind := range controllers.Cached() {
		if _, err := s.cache.GetInformer(ctx, kind, cache.BlockUntilSynced(false)); err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
	}
	return nil
}

// newManager creates the manager and its cache.
func (s *session) newManager(ctx context.Context) error {
	scheme, err := controllers.Scheme()
	if err != nil {
		return err
	}
	options, err := controllers.CacheOptions()
	if err != nil {
		return err
	}
	streams, err := controllers.NewStreams(s.kube, options)
	if err != nil {
		return err
	}
	options.NewInformer = s.informers(streams)
	log := logr.FromContextOrDiscard(ctx)
	s.manager, err = manager.New(s.kube, manager.Options{
		Scheme: scheme, Cache: options, Logger: log,
		NewCache: func(kube *rest.Config, o cache.Options) (cache.Cache, error) {
			s.cache, err = cache.New(kube, o)
			return startedCache{s.cache}, err
		},
		BaseContext:            func() context.Context { return logr.NewContext(context.Background(), log) },
		Metrics:                server.Options{BindAddress: "0"}, // package daemon serves them
		HealthProbeBindAddress: "0",
		Controller:             config.Controller{SkipNameValidation: new(true)}, // another attempt uses the names again
	})
	if err != nil {
		return fmt.Errorf("create manager: %w", err)
	}
	return nil
}

// informers returns the constructor of the cache's informers. They list by stream and retry soon
// after a failure, and readiness reports those that cannot read their kind.
func (s *session) informers(streams *controllers.Streams) func(
	toolscache.ListerWatcher, runtime.Object, time.Duration, toolscache.Indexers,
) toolscache.SharedIndexInformer {
	return func(
		lw toolscache.ListerWatcher, kind runtime.Object, resync time.Duration, indexers toolscache.Indexers,
	) toolscache.SharedIndexInformer {
		watched := &lastResult{}
		s.health.AddCheck("watch "+reflect.TypeOf(kind).Elem().Name(), watched.err)
		return toolscache.NewSharedIndexInformer(listwatch.New(streams.Of(kind, lw), watched.set), kind, resync, indexers)
	}
}

// electionConfig describes the Lease. A standby reads it about twice a second, and the leader
// writes it every one to two seconds, so readiness reports there whether the API server can be
// reached.
func (s *session) electionConfig() (election.Config, error) {
	// A client without a rate limit, so that the controllers' requests cannot delay a renewal, and
	// with HTTP/1.1, where a hanging connection delays one request only.
	kube := rest.CopyConfig(s.kube)
	kube.QPS = -1
	kube.NextProtos = []string{"http/1.1"}
	client, err := coordinationv1.NewForConfig(kube)
	if err != nil {
		return election.Config{}, fmt.Errorf("create client for Leases: %w", err)
	}
	return election.Config{
		Client: client, Namespace: s.election.namespace, Name: s.election.name,
		Identity: s.election.instance, Duration: s.election.duration,
		Report: func(err error) {
			if err != nil {
				err = fmt.Errorf("the last request to the API server failed: %w", err)
			}
			s.api.set(err)
		},
	}, nil
}

// explain adds the remedy to errors that an operator has to fix.
func explain(err error) error {
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("%w: install podid's custom resource definitions (config/crd, or the chart)", err)
	}
	return err
}

// startedCache is a cache that runs longer than the manager that reads it.
type startedCache struct{ cache.Cache }

// Start waits for the end of ctx.
func (startedCache) Start(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// lastResult holds the outcome of the last request. It is safe for concurrent use.
type lastResult struct {
	mu   sync.Mutex
	last error
}

func (r *lastResult) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = err
}

func (r *lastResult) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}
