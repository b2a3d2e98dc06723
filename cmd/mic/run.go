// Running MIC: its servers, and sessions with the API server, one after the other.

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	crmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/podid-io/podid/internal/azure"
	"github.com/podid-io/podid/internal/build"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers"
	"github.com/podid-io/podid/internal/controllers/attachment"
	"github.com/podid-io/podid/internal/controllers/upgrade"
	"github.com/podid-io/podid/internal/daemon"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/observe"
)

// run serves until the context ends. It fails on errors that retries do not fix, such as an
// unreadable config or a port in use.
func run(ctx context.Context, o *options, getenv func(string) string) error {
	if o.ask.want != "" {
		return ask(ctx, o.ask)
	}
	if o.crds.given() {
		return runCRDs(ctx, o)
	}
	kube, err := kubeConfig(o)
	if err != nil {
		return err
	}
	metrics := observe.NewMetrics(crmetrics.Registry)
	daemon.CountErrors(kube, metrics.KubernetesError)
	health := &observe.Health{}
	cloud, config, err := armClient(ctx, o, getenv, metrics, health)
	if err != nil {
		return err
	}
	for _, entry := range o.identities.unprotecting() {
		logr.FromContextOrDiscard(ctx).Error(identity.ErrNoIdentity, "an entry of --immutable-user-msis protects nothing", "entry", entry)
	}
	session := &session{
		election: o.election, kube: kube, cloud: cloud, metrics: metrics, health: health,
		controllers: controllers.Config{
			Rules: identity.Rules{
				ForceNamespaced: o.ForceNamespaced, AllowClusterIdentities: o.cluster.allow, ClusterIdentities: o.cluster.set(config),
			},
			Attachment: attachment.Settings{
				Grace: o.identities.grace, RetryInterval: o.azure.retryInterval,
				Immutable:              append(o.identities.immutables(), own(config)...),
				AllowClusterIdentities: o.cluster.allow, ClusterIdentities: o.cluster.set(config),
				MayPreassign: o.preassign.may(),
			},
			Writes:          int(o.kubernetes.batch),
			AgentTaint:      o.agents.settings(),
			BrokerNamespace: o.identities.brokers, BrokersByNode: o.identities.byNode,
			LedgerNamespace: o.kubernetes.podNamespace, LedgerName: o.kubernetes.configMap,
			Upgrade: upgrade.Settings{
				Enabled: o.kubernetes.typeUpgrade, Namespace: o.kubernetes.podNamespace, ConfigMap: o.kubernetes.configMap,
				Key: o.kubernetes.upgradeKey, Version: build.Version(),
			},
			DriftInterval: o.azure.driftInterval, SweepInterval: o.kubernetes.sweepInterval,
		},
	}
	session.addChecks()
	servers, err := o.Listen(ctx, health, crmetrics.Registry)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	servers.Serve(ctx, group)
	group.Go(func() error { return session.run(ctx) })
	return group.Wait()
}

// kubeConfig returns the configuration for reaching the API server.
func kubeConfig(o *options) (*rest.Config, error) {
	config, err := o.KubeConfig("mic")
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // no limit
	if qps := o.kubernetes.qps; qps > 0 {
		config.QPS, config.Burst = float32(qps), max(int(2*qps), 1)
	}
	// The API server warns at every write that the name of v1.8.17's finalizer is outdated. An
	// operator cannot change it.
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

// armClient returns the client for Azure and the cloud config that it read.
func armClient(
	ctx context.Context, o *options, getenv func(string) string, metrics *observe.Metrics, health *observe.Health,
) (*compute.Client, azure.Config, error) {
	config, err := azure.Load(o.azure.cloudConfig, getenv)
	if err != nil {
		return nil, azure.Config{}, err
	}
	credential, err := azure.NewCredential(config, azure.CredentialOptions{
		Path: o.azure.cloudConfig, Getenv: getenv, Log: logr.FromContextOrDiscard(ctx).WithName("azure"),
		UserAgent: o.CustomUserAgent,
	})
	if err != nil {
		return nil, azure.Config{}, err
	}
	reached := &lastResult{}
	health.AddCheck("azure", reached.err)
	client, err := compute.New(compute.Options{
		Credential: credential, Cloud: config.Endpoints(), ClientID: config.ClientID,
		PerCall: []policy.Policy{azure.UserAgent(o.CustomUserAgent)},
		Observe: func(operation string, took time.Duration, err error) {
			metrics.CloudOperation(operation, took, err)
			if _, throttled := compute.RetryAfter(err); throttled {
				metrics.Throttled(operation)
			}
			if !answered(err) {
				reached.set(fmt.Errorf("the last call to Azure failed: %w", err))
				return
			}
			reached.set(nil)
		},
	})
	if err != nil {
		return nil, azure.Config{}, err
	}
	logr.FromContextOrDiscard(ctx).Info("cloud config read", "path", o.azure.cloudConfig, "cloud", config.Cloud.Name,
		"managedIdentity", config.ManagedIdentity, "clientID", observe.ShortID(config.ClientID))
	return client, config, nil
}

// own returns the managed identity that MIC signs in with, which must never be removed from a
// machine.
func own(config azure.Config) []string {
	if config.UserAssignedIdentityID == "" {
		return nil
	}
	return []string{config.UserAssignedIdentityID}
}

// answered reports whether Azure answered at all, even with a refusal.
func answered(err error) bool {
	_, throttled := compute.RetryAfter(err)
	return err == nil || throttled || compute.IsRefused(err) || compute.IsNotFound(err) ||
		compute.IsForbidden(err) || compute.IsConflict(err) || errors.Is(err, context.Canceled)
}
