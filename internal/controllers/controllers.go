// Package controllers assembles MIC's controllers: which exist, what they share, and what the
// caches hold for them.
//
//	assignedidentity   one pod -> its AzureAssignedIdentity objects
//	attachment         one VM or scale set -> the identities it has on Azure
//	broker             one federated identity -> the ServiceAccount that represents it
//	brokernodes        one node -> a Role that names the brokers its pods need; opt-in
//	bindingcheck       one binding -> an Event when it cannot take effect
//	drift              compares Azure with the cluster every few minutes
//	garbagecollection  assigned identities whose pod or node is gone
//	upgrade            once, objects with field names from before v1.6
//	identitystatus     one identity -> a condition while Azure refuses it
//	readiness          one pod -> a condition about its identities
//	agenttaint         one node -> a taint while its agent is missing or not ready; opt-in
package controllers

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"k8s.io/client-go/metadata"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/podid-io/podid/internal/controllers/agenttaint"
	"github.com/podid-io/podid/internal/controllers/assignedidentity"
	"github.com/podid-io/podid/internal/controllers/attachment"
	"github.com/podid-io/podid/internal/controllers/bindingcheck"
	"github.com/podid-io/podid/internal/controllers/broker"
	"github.com/podid-io/podid/internal/controllers/brokernodes"
	"github.com/podid-io/podid/internal/controllers/drift"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/controllers/garbagecollection"
	"github.com/podid-io/podid/internal/controllers/identitystatus"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/policy"
	"github.com/podid-io/podid/internal/controllers/readiness"
	"github.com/podid-io/podid/internal/controllers/upgrade"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/policywatch"
)

// Reporter is the reporting controller of MIC's Events, as in v1.8.17.
const Reporter = "aadpodidentity.k8s.io"

// Config is the configuration of the controllers.
type Config struct {
	Rules      identity.Rules
	Attachment attachment.Settings
	// Writes is how many assigned identities of one node group are written at the same time.
	Writes int
	// LedgerNamespace and LedgerName are where the ledger of attached identities is kept: in
	// ConfigMaps <name>-<hash>.
	LedgerNamespace, LedgerName string
	// DriftInterval is the time between two comparisons with Azure.
	DriftInterval time.Duration
	// Upgrade configures the upgrade of objects with field names from before v1.6.
	Upgrade upgrade.Settings
	// SweepInterval is the time between two garbage collections.
	SweepInterval time.Duration
	// AgentTaint configures the taint of nodes without a working agent.
	AgentTaint agenttaint.Settings
	// BrokerNamespace is the namespace of the ServiceAccounts of federated identities. If it is
	// empty, none are maintained.
	BrokerNamespace string
	// BrokersByNode enables the Roles there that name the brokers each node needs.
	BrokersByNode bool
	// Health, if set, registers a check that fails while podid cannot do its job.
	Health func(name string, check func() error)
}

func (c Config) addHealth(name string, check func() error) {
	if c.Health != nil {
		c.Health(name, check)
	}
}

// watched returns a function that records the outcome of requests about the policy. Health reports
// the last one of each resource.
func (c Config) watched() func(resource string, err error) {
	last := map[string]*atomic.Pointer[error]{policywatch.Policies: {}, policywatch.Namespaces: {}}
	for resource, p := range last {
		c.addHealth("watch "+resource, func() error {
			if err := p.Load(); err != nil {
				return *err
			}
			return nil
		})
	}
	return func(resource string, err error) { last[resource].Store(&err) }
}

// Metrics is what the controllers measure. It is implemented by observe.Metrics.
type Metrics interface {
	assignedidentity.Metrics
	attachment.Metrics
	garbagecollection.Metrics
}

// controller is one loop of MIC.
type controller interface {
	// Register adds the controller to a manager.
	Register(ctx context.Context, mgr manager.Manager) error
}

// Add adds all controllers to the manager, whose cache must use CacheOptions. The manager must run
// only while MIC leads. Add returns the watch of the policy, which also runs on a standby.
//
// The queues between the controllers are made first. A controller that has something for another
// one gets its queue, and does not know the controller.
func Add(ctx context.Context, mgr manager.Manager, cloud attachment.Cloud, metrics Metrics, config Config) (manager.Runnable, error) {
	if err := addIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return nil, err
	}
	broadcaster, err := events.NewBroadcaster(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, err
	}
	if err := mgr.Add(broadcaster); err != nil {
		return nil, fmt.Errorf("add the Events to the manager: %w", err)
	}
	events := events.New(broadcaster.Recorder(mgr.GetScheme(), Reporter))
	cache, live := mgr.GetClient(), mgr.GetAPIReader()

	pods, bindings, identities := &wakeup.Objects{}, &wakeup.Objects{}, &wakeup.Objects{}
	groups := attachment.NewGroups(time.Now, pods.Add, identities.Add)
	rules := policy.New(config.Rules, mgr.GetLogger().WithName("policy"), func(namespace string) {
		pods.Queue.Add(lookup.Pods(ctx, cache, client.InNamespace(namespace))...)
		bindings.Queue.Add(lookup.BindingsIn(ctx, cache, namespace)...)
	})
	policyWatch, err := rules.Watch(mgr, config.watched())
	if err != nil {
		return nil, fmt.Errorf("watch the policy: %w", err)
	}

	attach := attachment.NewController(attachment.Parts{
		Client: cache, Cloud: cloud, Groups: groups, Events: events, Metrics: metrics,
		Ledger: ledger.Store{Reader: live, Writer: cache, Namespace: config.LedgerNamespace, Name: config.LedgerName},
	}, config.Attachment)
	config.addHealth("ledger", attach.Healthy)
	all := []controller{
		assignedidentity.NewController(assignedidentity.Parts{
			Client: cache, Rules: rules, Placement: groups, Events: events, Metrics: metrics, Queue: pods,
		}, config.Writes),
		attach,
		bindingcheck.NewController(cache, rules, events, bindings),
		identitystatus.NewController(cache, live, events, groups, identities),
		readiness.NewController(cache, live, rules),
		upgrade.NewController(live, cache, config.Upgrade),
		drift.NewController(cache, attach, config.DriftInterval),
		garbagecollection.NewController(cache, pods, metrics, config.SweepInterval),
	}
	if config.AgentTaint.After > 0 {
		all = append(all, agenttaint.NewController(live, cache, events, config.AgentTaint))
	}
	if config.BrokerNamespace != "" {
		meta, err := metadata.NewForConfigAndClient(metadata.ConfigFor(mgr.GetConfig()), mgr.GetHTTPClient())
		if err != nil {
			return nil, fmt.Errorf("make a client for ServiceAccounts: %w", err)
		}
		all = append(all, broker.NewController(cache, live, meta, events, config.BrokerNamespace))
		if config.BrokersByNode {
			all = append(all, brokernodes.NewController(cache, live, config.BrokerNamespace))
		}
	}
	for _, c := range all {
		if err := c.Register(ctx, mgr); err != nil {
			return nil, fmt.Errorf("add %T: %w", c, err)
		}
	}
	return policyWatch, nil
}
