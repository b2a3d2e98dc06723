// The wiring: what the agent consists of, and its limits.

package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/audit"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/agent/cluster"
	"github.com/podid-io/podid/internal/agent/dataplane"
	"github.com/podid-io/podid/internal/agent/events"
	"github.com/podid-io/podid/internal/agent/fair"
	"github.com/podid-io/podid/internal/agent/hostpods"
	"github.com/podid-io/podid/internal/agent/lifecycle"
	"github.com/podid-io/podid/internal/agent/nodestate"
	"github.com/podid-io/podid/internal/agent/server"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/daemon"
	"github.com/podid-io/podid/internal/hook/wireprobe"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/privileged"
)

const (
	// attestLimit is how long a request waits for its pod to become known. The API server reports a
	// new pod's address within two seconds. Clients that give up sooner retry.
	attestLimit = 4 * time.Second
	// bindingLimit is how long a request waits for a binding that may never come. It is a little
	// less than the 10 s after which the most impatient client gives up.
	bindingLimit = 8 * time.Second
	// maxPending is how many requests may wait for an identity, maxPendingPerPod those of one pod.
	// Each costs a connection and a goroutine, some 25 kB.
	maxPending, maxPendingPerPod = 1024, 64
	// maxTokens is some 8 MB of tokens, and 32 MB of the largest, which count as several: 16 for
	// each pod on a node of 250 pods. maxPerIdentity is more than any program uses Azure services.
	maxTokens, maxPerIdentity = 4096, 128
	// fetchTime bounds fetching a token: 6 calls and the 6.2 s between them if the metadata service
	// fails at once, or a lost call of 5 s and one of 10 s if it is slow.
	fetchTime = 16 * time.Second
	// staleAfter is how long a request waits for a new token while an old one is still valid.
	// Several SDKs give up after 1 s.
	staleAfter = 500 * time.Millisecond
	// nodeLimit is how long requests wait for the node's labels once the rest of the cluster is
	// known. The API server answers within milliseconds.
	nodeLimit = 2 * time.Second
)

// The metadata service allows a machine 20 token requests a second, 5 at once, and 5 other requests
// a second. One pod gets two of the five at once, so that its hanging requests do not take all.
func tokenLimits() fair.Config {
	return fair.Config{Rate: 15, Burst: 5, Concurrent: 5, PerCaller: 2, Waiting: 1024, WaitingPerCaller: 64, Background: token.Background}
}

func otherLimits() fair.Config {
	return fair.Config{Rate: 5, Burst: 10, Concurrent: 5, PerCaller: 2, Waiting: 512, WaitingPerCaller: 32}
}

// agent is everything that runs.
type agent struct {
	o          *options
	log        logr.Logger
	registry   *prometheus.Registry
	metrics    *observe.Metrics
	health     *observe.Health
	privileged privileges
	cluster    *cluster.Cluster
	server     *server.Server
	tokens     *token.Cache
	tables     *tables
	own        *cluster.OwnIdentities
	known      chan struct{} // closed when pods can be served
	wired      chan struct{} // closed after that, if the node's network does not pass by the redirect
	node       *cluster.Node
	dataplane  dataplane.Check
	capture    capture
	wire       *wire
	cilium     dataplane.Cilium
	audit      *audit.Log
	events     *events.Recorder  // nil if disabled
	nodestate  *nodestate.Writer // nil if disabled
	lifecycle  *lifecycle.Lifecycle

	redirected atomic.Pointer[error] // of the last check of the redirect, nil before the first
}

// tables are what the cluster's objects are stored in. A pod is stored for authorize first, so that
// it has a decision once it is known as a caller.
type tables struct {
	*authorize.Table
	attest   *attest.Table
	hostPods *hostpods.Set
	captured func(*corev1.Pod) bool // whether a pod on the node's network is one of hostPods
	log      logr.Logger
}

var _ cluster.Sink = (*tables)(nil)

// SetPod stores a pod of the node, unless it has ended.
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
	key := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
	if t.captured(p) {
		t.hostPods.Set(key, attest.GroupUID(p))
	} else {
		t.hostPods.Remove(key)
	}
}

// RemovePod removes a pod that has left the node.
func (t *tables) RemovePod(key types.NamespacedName) {
	t.hostPods.Remove(key)
	t.attest.Remove(key)
	t.Table.RemovePod(key)
}

// SetPolicy stores the cluster's policy, nil if there is none.
func (t *tables) SetPolicy(object *v1.AzureIdentityPolicy) {
	policy, err := identity.CompilePolicy(object)
	if err != nil {
		t.log.Error(err, "ignored a part of the AzureIdentityPolicy")
	}
	t.log.Info("read the policy", "mode", policy.Mode())
	t.Table.SetPolicy(policy)
}

// newAgent makes the agent and starts nothing. Pending requests are canceled when stop is done,
// token fetches when fetches is.
func newAgent(stop, fetches context.Context, o *options, config *rest.Config, log logr.Logger) (*agent, error) {
	a := &agent{
		o: o, log: log, registry: prometheus.NewRegistry(), health: &observe.Health{}, lifecycle: lifecycle.New(log),
		own: cluster.NewOwnIdentities(o.cluster.set()), known: make(chan struct{}), wired: make(chan struct{}), wire: newWire(), capture: capture{settled: make(chan struct{})},
	}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.metrics = observe.NewMetrics(a.registry)
	daemon.CountErrors(config, a.metrics.KubernetesError)
	a.metrics.RedirectState(false)
	a.metrics.CaptureState(false)
	a.cilium.Ignore = wireprobe.Interface

	var err error
	if a.privileged, err = newPrivileges(o, a.lifecycle.Session.Secret(), log); err != nil {
		return nil, err
	}
	a.privileged.CountTo(a.metrics)
	objects, err := cluster.NewObjects(config, o.node.name, o.entra.brokerNamespace)
	if err != nil {
		return nil, err
	}
	a.tables = newTables(o, objects, log)
	a.cluster, err = cluster.New(cluster.Config{
		REST: config, Node: o.node.name, Assigned: o.identities.mode == modeStandard,
	}, a.tables, attest.Strip, log)
	if err != nil {
		return nil, err
	}
	if err := a.openRecords(config); err != nil {
		return nil, err
	}
	a.server = a.newServer(stop, fetches, objects)
	a.health.AddCheck("redirect", a.checkServing)
	a.health.AddCheck("cluster", a.cluster.Ready)
	a.health.AddCheck("dataplane", a.checkDataplane)
	if o.privileged.Way == privileged.CaptureRequire {
		a.health.AddCheck("capture", a.checkCapture)
	}
	if o.wireProbe {
		a.health.AddCheck("wire", a.checkWire)
	}
	if a.node, err = cluster.NewNode(config, o.node.name, log, &a.dataplane, a.own); err != nil {
		return nil, err
	}
	if o.node.startupTaint {
		a.nodestate = nodestate.New(a.node, nodestate.Agent{
			Ready: func() bool { return len(a.health.Ready()) == 0 }, Capture: a.captureState,
		}, log)
	}
	return a, nil
}

func newTables(o *options, objects *cluster.Objects, log logr.Logger) *tables {
	standard, captured := o.identities.mode == modeStandard, hostpods.Choice(o.privileged.HostPods).Of
	return &tables{
		log: log.WithName("cluster"), hostPods: hostpods.NewSet(), captured: captured,
		attest: attest.NewTable(attest.Config{
			MaxWaiting: 512, MaxPerSource: 16, NewestLink: attest.NewestLink, AnyLink: o.answers.anyInterface, Ask: limitReads(objects.Pod),
			Captured: captured,
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
}

// readPod reads a pod from the API server.
type readPod = func(context.Context, types.NamespacedName) (*corev1.Pod, error)

// limitReads bounds the reads of pods whose addresses moved to another interface. They are rare.
func limitReads(read readPod) readPod {
	limiter := fair.New(fair.Config{Rate: 5, Burst: 20, Concurrent: 8, PerCaller: 1, Waiting: 512, WaitingPerCaller: 16})
	return func(ctx context.Context, key types.NamespacedName) (*corev1.Pod, error) {
		release, err := limiter.Acquire(ctx, key.String())
		if err != nil {
			return nil, fmt.Errorf("read pod %s: %w", key, err)
		}
		defer release()
		return read(ctx, key)
	}
}

func (a *agent) newServer(stop, fetches context.Context, objects *cluster.Objects) *server.Server {
	tokenLimiter := fair.New(tokenLimits())
	upstream, answers := a.o.privileged.Upstream(), a.o.answers
	a.tokens = token.NewCache(fetches, token.CacheConfig{
		Source: sources(a.o, upstream, tokenLimiter, objects, a.own, a.metrics),
		Render: render, Max: maxTokens, MaxPerIdentity: maxPerIdentity,
		FetchTimeout: fetchTime, StaleAfter: staleAfter, Entries: a.metrics.TokenCacheEntries,
	})
	return server.New(server.Config{
		Attester: a.tables.attest, Authorizer: a.tables.Table, Tokens: a.tokens,
		Known: a.known, Stopping: stop.Done(),
		Upstream: upstream, TokenLimiter: tokenLimiter, OtherLimiter: fair.New(otherLimits()),
		Probes:      a.health.Handler(),
		WireRefusal: a.wireRefusal, HeaderRequired: answers.headerRequired, BlockInstance: answers.blockInstance, BlockAttested: answers.blockAttested,
		AllowUserData: !answers.blockUserData, RetryAfter: answers.retryAfter, AnyInterface: answers.anyInterface,
		HostTokenTCP: a.o.ports.hostTokenTCP,
		AttestLimit:  attestLimit, MaxPending: maxPending, MaxPendingPerPod: maxPendingPerPod,
		Audit: a.audit, Events: a.refusalEvents(),
		Metrics: a.metrics, Log: a.log.WithName("server"),
	})
}
