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

	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/podid-io/podid/internal/controllers/agenttaint"
	"github.com/podid-io/podid/internal/controllers/assignedidentity"
	"github.com/podid-io/podid/internal/controllers/attachment"
	"github.com/podid-io/podid/internal/controllers/bindingcheck"
	"github.com/podid-io/podid/internal/controllers/broker"
	"github.com/podid-io/podid/internal/controllers/drift"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/controllers/garbagecollection"
	"github.com/podid-io/podid/internal/controllers/identitystatus"
	"github.com/podid-io/podid/internal/controllers/policy"
	"github.com/podid-io/podid/internal/controllers/readiness"
	"github.com/podid-io/podid/internal/controllers/upgrade"
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

// Add adds all controllers to the manager, whose cache must use CacheOptions. The manager must run
// only while MIC leads. Add returns the watch of the policy, which also runs on a standby.
func Add(ctx context.Context, mgr manager.Manager, cloud attachment.Cloud, metrics Metrics, config Config) (manager.Runnable, error) {
	if err := addIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return nil, err
	}
	broadcaster, err := events.NewBroadcaster(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, err
	}
	rules := policy.New(config.Rules, mgr.GetLogger().WithName("policy"))
	events := events.New(broadcaster.Recorder(mgr.GetScheme(), Reporter))
	pods := assignedidentity.New(assignedidentity.Parts{
		Client: mgr.GetClient(), Events: events, Metrics: metrics, Now: time.Now,
	}, rules, config.Writes)
	groups := attachment.NewGroups(time.Now, pods.Enqueue)
	pods.PlaceWith(groups)
	identities := &identitystatus.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: events, Groups: groups}
	attach := attachment.New(attachment.Parts{
		Client: mgr.GetClient(), Cloud: cloud, Groups: groups, Metrics: metrics, Events: events, Identities: identities,
		Ledger: ledger.Store{
			Reader: mgr.GetAPIReader(), Writer: mgr.GetClient(),
			Namespace: config.LedgerNamespace, Name: config.LedgerName,
		},
	}, config.Attachment)
	config.addHealth("ledger", attach.Healthy)
	bindings := &bindingcheck.Reconciler{Client: mgr.GetClient(), Events: events, Rules: rules, Now: time.Now}
	conditions := &readiness.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Rules: rules, Now: time.Now}
	rules.OnChange(pods.PolicyChanged)
	rules.OnChange(bindings.PolicyChanged)
	policyWatch, err := rules.Watch(mgr, config.watched())
	if err != nil {
		return nil, fmt.Errorf("watch the policy: %w", err)
	}

	type controller struct {
		name     string
		register func(manager.Manager) error
	}
	all := []controller{
		{"assignedidentity", pods.Register},
		{"attachment", attach.Register},
		{"bindingcheck", bindings.Register},
		{"identitystatus", identities.Register},
		{"readiness", conditions.Register},
	}
	if config.AgentTaint.After > 0 {
		agents := agenttaint.New(mgr.GetAPIReader(), mgr.GetClient(), events, time.Now, config.AgentTaint)
		all = append(all, controller{"agenttaint", agents.Register})
	}
	if config.BrokerNamespace != "" {
		brokers := &broker.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: events, Namespace: config.BrokerNamespace, Now: time.Now}
		all = append(all, controller{"broker", brokers.Register})
		if config.BrokersByNode {
			nodes := &broker.Nodes{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Namespace: config.BrokerNamespace}
			all = append(all, controller{"brokernodes", nodes.Register})
		}
	}
	for _, c := range all {
		if err := c.register(mgr); err != nil {
			return nil, fmt.Errorf("add controller %s: %w", c.name, err)
		}
	}
	for _, r := range []manager.Runnable{
		&upgrade.Upgrade{Reader: mgr.GetAPIReader(), Writer: mgr.GetClient(), Settings: config.Upgrade},
		broadcaster,
		assignedidentity.CatchUp{Pods: pods},
		&drift.Drift{Reader: mgr.GetClient(), Attachment: attach, Interval: config.DriftInterval},
		&garbagecollection.Sweep{Reader: mgr.GetClient(), Pods: pods, Metrics: metrics, Interval: config.SweepInterval},
	} {
		if err := mgr.Add(r); err != nil {
			return nil, fmt.Errorf("add to manager: %w", err)
		}
	}
	return policyWatch, nil
}
