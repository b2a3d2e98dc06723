// The wiring: who feeds whom, and what runs.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/audit"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/agent/cluster"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/events"
	"github.com/podid-io/podid/internal/agent/fair"
	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/agent/server"
	"github.com/podid-io/podid/internal/agent/taint"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/program"
)

const (
	// attestLimit is how long a request waits for its pod to become known. The
	// API server tells of a new pod's address within a second or two; clients
	// that give up sooner come back.
	attestLimit = 4 * time.Second
	// bindingLimit is how long one waits for a binding that may never come: a
	// little less than the 10 s after which the most impatient client gives up.
	bindingLimit = 8 * time.Second
	// maxPending is how many requests may wait for an identity, maxPendingPerPod those of
	// one pod. Each costs a connection and a goroutine, some 25 kB.
	maxPending, maxPendingPerPod = 1024, 64
	// maxTokens is some 8 MB of tokens, and 32 MB of the largest (which count as
	// several): on a node of 250 pods, 16 for each.
	// maxPerIdentity is more than any program has Azure services.
	maxTokens, maxPerIdentity = 4096, 128
	// flightTime is one attempt to get a token: 6 calls and the 6.2 s between
	// them when the metadata service is quick to fail, a lost call of 5 s and one
	// of 10 s when it is slow.
	flightTime = 16 * time.Second
	// patience is how long a request waits for a new token while an old one can
	// still be used; several SDKs give up after 1 s.
	patience = 500 * time.Millisecond
	// nodeLimit is how long requests wait for the node's labels once the rest of the cluster is
	// known. The API server answers within milliseconds.
	nodeLimit = 2 * time.Second
	// retryInterval is how often a port that is taken is tried again.
	retryInterval = 2 * time.Second
)

// The metadata service allows a machine 20 token requests a second and 5 at
// once, and 5 other requests a second. One pod gets two of the five places, so
// that a pod whose requests hang does not take all.
func tokenLimits() fair.Config {
	return fair.Config{Rate: 15, Burst: 5, Concurrent: 5, PerCaller: 2, Waiting: 1024, WaitingPerCaller: 64, Background: token.Background}
}

func otherLimits() fair.Config {
	return fair.Config{Rate: 5, Burst: 10, Concurrent: 5, PerCaller: 2, Waiting: 512, WaitingPerCaller: 32}
}

// agent is everything that runs.
type agent struct {
	o        *options
	log      logr.Logger
	registry *prometheus.Registry
	metrics  *observe.Metrics
	health   *observe.Health
	redirect *redirect.Redirect
	cluster  *cluster.Cluster
	server   *server.Server
	tokens   *token.Cache
	tables   *tables
	own      *clusterIdentities
	known    chan struct{} // closes when pods can be served
	node     *cluster.Node
	audit    *audit.Log
	events   *events.Recorder // nil when they are switched off
	taint    *taint.Remover   // nil when it is left alone
	life     *life

	redirected atomic.Pointer[error] // nil until the first check
}

// run builds the agent, runs it until ctx ends, and lets requests finish.
func run(ctx context.Context, o *options, log logr.Logger) error {
	if err := o.node.checkKubenet(); err != nil {
		return err
	}
	config, err := o.KubeConfig("nmi")
	if err != nil {
		return err
	}
	// Fetches under way outlive the signal by as long as requests do.
	flights, land := context.WithCancel(context.WithoutCancel(ctx))
	defer land()
	stop, sendAway := context.WithCancel(context.WithoutCancel(ctx))
	defer sendAway()
	a, err := build(stop, flights, o, config, log)
	if err != nil {
		return err
	}
	a.life.sendAway = sendAway
	return a.run(ctx)
}

// tables are the two that the cluster feeds. A pod is told to authorize first:
// who is known as a caller has a verdict.
type tables struct {
	*authorize.Table
	attest *attest.Table
	log    logr.Logger
}

// SetPod records a pod of the node. Nothing is decided for one that has ended.
func (t *tables) SetPod(p *corev1.Pod) {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		t.RemovePod(types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
		return
	}
	pod := identity.Pod{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels, ServiceAccount: p.Spec.ServiceAccountName}
	if p.Spec.HostNetwork {
		t.SetHostNetworkPod(pod)
	} else {
		t.Table.SetPod(pod)
	}
	t.attest.Set(p)
}

// RemovePod takes that a pod is gone.
func (t *tables) RemovePod(key types.NamespacedName) {
	t.attest.Remove(key)
	t.Table.RemovePod(key)
}

// SetPolicy records the cluster's policy, nil when there is none.
func (t *tables) SetPolicy(object *v1.AzureIdentityPolicy) {
	policy, err := identity.CompilePolicy(object)
	if err != nil {
		t.log.Error(err, "part of the AzureIdentityPolicy is ignored")
	}
	t.log.Info("policy read", "mode", policy.Mode())
	t.Table.SetPolicy(policy)
}

func build(stop, flights context.Context, o *options, config *rest.Config, log logr.Logger) (*agent, error) {
	a := &agent{o: o, log: log, registry: prometheus.NewRegistry(), health: &observe.Health{}, life: newLife(log)}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.metrics = observe.NewMetrics(a.registry)
	program.CountErrors(config, a.metrics.KubernetesError)
	a.metrics.RedirectState(false)

	rc, err := o.redirect.config(o.ports.nmi)
	if err != nil {
		return nil, err
	}
	rc.Handover = a.life.line.Word()
	if a.redirect, err = redirect.New(rc); err != nil {
		return nil, err
	}
	a.redirect.CountTo(a.metrics)
	objects, err := cluster.NewObjects(config, o.node.name, o.entra.brokerNamespace)
	if err != nil {
		return nil, err
	}
	standard := o.identities.mode == modeStandard
	a.own, a.known = newClusterIdentities(o.cluster.set()), make(chan struct{})
	a.tables = &tables{
		log: log.WithName("cluster"),
		attest: attest.NewTable(attest.Config{
			MaxWaiting: 512, MaxPerAddress: 16, NewestLink: attest.NewestLink, AnyLink: o.answers.anyInterface, Ask: seldom(objects.Pod),
		}),
		Table: authorize.NewTable(authorize.Config{
			Rules: identity.Rules{
				ForceNamespaced: o.ForceNamespaced, Managed: !standard,
				AllowClusterIdentities: o.cluster.allow, ClusterIdentities: o.cluster.set(),
			},
			Standard: standard, Node: o.node.name, Types: served(),
			ArrivalLimit: o.identities.arrivalLimit(), BindingLimit: bindingLimit,
		}),
	}
	a.cluster, err = cluster.New(cluster.Config{REST: config, Node: o.node.name, Assigned: standard}, a.tables, attest.Strip, log)
	if err != nil {
		return nil, err
	}
	if err := a.keepRecords(config); err != nil {
		return nil, err
	}
	a.server = a.newServer(stop, flights, objects)
	a.health.AddCheck("redirect", a.checkRedirect)
	a.health.AddCheck("cluster", a.cluster.Ready)
	if a.node, err = cluster.NewNode(config, o.node.name, log); err != nil {
		return nil, err
	}
	if !o.node.startupTaint {
		return a, nil
	}
	a.taint = taint.New(learning{a.node, a.own}, func() bool { return len(a.health.Ready()) == 0 }, log)
	return a, nil
}

// seldom bounds how often pods are asked about, whose addresses moved to another
// interface: it is rare, and who waits any longer comes back.
func seldom(ask func(context.Context, types.NamespacedName) (*corev1.Pod, error)) func(context.Context, types.NamespacedName) (*corev1.Pod, error) {
	limit := fair.New(fair.Config{Rate: 5, Burst: 20, Concurrent: 8, PerCaller: 1, Waiting: 512, WaitingPerCaller: 16})
	return func(ctx context.Context, key types.NamespacedName) (*corev1.Pod, error) {
		release, err := limit.Acquire(ctx, key.String())
		if err != nil {
			return nil, fmt.Errorf("ask about pod %s: %w", key, err)
		}
		defer release()
		return ask(ctx, key)
	}
}

func (a *agent) newServer(stop, flights context.Context, objects *cluster.Objects) *server.Server {
	tokenLimiter := fair.New(tokenLimits())
	upstream := a.o.redirect.upstream()
	a.tokens = token.NewCache(flights, token.CacheConfig{
		Source: sources(a.o, upstream, tokenLimiter, objects, a.own, a.metrics),
		Render: render, Max: maxTokens, MaxPerIdentity: maxPerIdentity,
		FlightTime: flightTime, Patience: patience, Entries: a.metrics.TokenCacheEntries,
	})
	return server.New(server.Config{
		Attester: a.tables.attest, Authorizer: a.tables.Table, Tokens: a.tokens,
		Known: a.known, Stopping: stop.Done(),
		Upstream: upstream, TokenLimiter: tokenLimiter, OtherLimiter: fair.New(otherLimits()),
		Probes:         a.health.Handler(),
		HeaderRequired: a.o.answers.headerRequired, BlockInstance: a.o.answers.blockInstance, BlockAttested: a.o.answers.blockAttested, AllowUserData: !a.o.answers.blockUserData, RetryAfter: a.o.answers.retryAfter,
		AnyInterface: a.o.answers.anyInterface, HostTokenTCP: a.o.ports.hostTokenTCP,
		AttestLimit: attestLimit, MaxPending: maxPending, MaxPendingPerPod: maxPendingPerPod,
		Audit: a.audit, Events: a.refusals(),
		Metrics: a.metrics, Log: a.log.WithName("server"),
	})
}

// run serves until ctx ends or something breaks that cannot be mended, and leaves
// so that no request fails.
func (a *agent) run(ctx context.Context) error {
	diverted, err := a.redirect.Listen(ctx)
	if err != nil {
		return err
	}
	if err := a.life.line.Open(); err != nil {
		return errors.Join(err, diverted.Close())
	}
	servers, err := a.openPorts(ctx)
	if err != nil {
		return errors.Join(ignoreEnd(ctx, err), diverted.Close())
	}
	a.log.Info("serving pods", "address", diverted.Addr().String())
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, work := errgroup.WithContext(work)
	group.Go(func() error {
		select {
		case <-ctx.Done():
			a.life.leave(work)
			end()
		case <-work.Done():
			a.life.sendAway()
		}
		return nil
	})
	a.work(work, group, counted{diverted, &a.life.crowd})
	servers.Serve(work, group)
	return group.Wait()
}

// work starts everything that runs until ctx ends.
func (a *agent) work(ctx context.Context, group *errgroup.Group, diverted net.Listener) {
	for _, f := range []func(context.Context){a.cluster.Run, a.life.follow, a.watchNode, a.awaitCluster, a.prefetch, a.writeRecords} {
		group.Go(func() error { f(ctx); return nil })
	}
	group.Go(func() error { a.life.line.Run(ctx, a.takeBack); return nil })
	group.Go(func() error {
		return a.o.node.watchKubenet(ctx, time.Duration(a.o.redirect.interval)*time.Second)
	})
	group.Go(func() error {
		if err := a.awaitTurn(ctx); err != nil {
			return ignoreEnd(ctx, err)
		}
		a.redirect.Run(ctx, time.Duration(a.o.redirect.interval)*time.Second, a.noteRedirect)
		return nil
	})
	group.Go(func() error {
		return connections.Serve(ctx, diverted, a.life.answers(a.server.ServePod), connections.Limits{Total: 2048, PerAddress: 256}, a.log)
	})
	for _, e := range a.hostEndpoints() {
		group.Go(func() error { return a.serveHost(ctx, e) })
	}
}

// ignoreEnd is an error unless ctx has ended, which is what was wanted.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the error is how the end shows
	}
	return err
}

// watchNode watches the agent's node: its label with the kubelet's identity, and its start-up
// taint. Once the cluster is known, the redirect is all that readiness depends on, and
// noteRedirect has the taint looked at.
func (a *agent) watchNode(ctx context.Context) {
	if a.taint == nil {
		a.node.Watch(ctx, a.own.learn)
		return
	}
	go func() {
		select {
		case <-a.cluster.Synced():
			a.taint.Look()
		case <-ctx.Done():
		}
	}()
	a.taint.Run(ctx)
}

// awaitCluster closes known once the cluster is known, and the kubelet's identity with it. A node
// that cannot be read is not waited for longer than nodeLimit: until its label is known, only
// --cluster-identities and MIC keep the kubelet's identity from pods.
func (a *agent) awaitCluster(ctx context.Context) {
	select {
	case <-a.cluster.Synced():
	case <-ctx.Done():
		return
	}
	timer := time.NewTimer(nodeLimit)
	defer timer.Stop()
	select {
	case <-a.own.learned:
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	close(a.known)
}

// noteRedirect takes the outcome of a check of the redirect.
func (a *agent) noteRedirect(err error) {
	a.redirected.Store(&err)
	a.health.SetActive(err == nil)
	a.metrics.RedirectState(err == nil)
	if err == nil {
		a.life.serves()
	}
	if err == nil && a.taint != nil {
		a.taint.Look()
	}
	if err != nil {
		a.metrics.RedirectFailed()
	}
}

func (a *agent) checkRedirect() error {
	last := a.redirected.Load()
	if last == nil && a.life.older != nil {
		return errors.New("an older agent has it, until this one can serve pods")
	}
	if last == nil {
		return errors.New("not in place yet")
	}
	return *last
}

var _ cluster.Sink = (*tables)(nil)
