// From options to a running controller.

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	crmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/podid-io/podid/internal/azure"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers"
	"github.com/podid-io/podid/internal/controllers/attachment"
	"github.com/podid-io/podid/internal/controllers/upgrade"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/program"
)

// run serves until the context ends. Errors are mistakes that waiting does not
// mend: a config that cannot be read, a port that is taken.
func run(ctx context.Context, o *options, getenv func(string) string) error {
	kube, err := kubeConfig(o)
	if err != nil {
		return err
	}
	metrics := observe.NewMetrics(crmetrics.Registry)
	program.CountErrors(kube, metrics.KubernetesError)
	health := &observe.Health{}
	cloud, reached, config, err := armClient(ctx, o, getenv, metrics, health)
	if err != nil {
		return err
	}
	for _, entry := range o.identities.unprotecting() {
		logr.FromContextOrDiscard(ctx).Error(identity.ErrNoIdentity, "an entry of --immutable-user-msis protects nothing", "entry", entry)
	}
	servers, err := o.Listen(ctx, health, crmetrics.Registry)
	if err != nil {
		return err
	}
	leader := &leadership{
		options: o, kube: kube, cloud: cloud, azure: reached, metrics: metrics, health: health,
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
				Key: o.kubernetes.upgradeKey, Version: observe.Version(),
			},
			DriftInterval: o.azure.driftInterval, SweepInterval: o.kubernetes.sweepInterval,
		},
	}
	group, ctx := errgroup.WithContext(ctx)
	servers.Serve(ctx, group)
	group.Go(func() error { return keepOn(ctx, leader.lead) })
	return group.Wait()
}

// kubeConfig says how to reach the API server.
func kubeConfig(o *options) (*rest.Config, error) {
	config, err := o.KubeConfig("mic")
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // no limit
	if qps := o.kubernetes.qps; qps > 0 {
		config.QPS, config.Burst = float32(qps), max(int(2*qps), 1)
	}
	// The API server warns at every write that v1.8.17's finalizer has a name
	// out of fashion; there is nothing that anybody could do about it.
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

// armClient makes the client for Azure, and returns the cloud config that it read.
func armClient(
	ctx context.Context, o *options, getenv func(string) string, metrics *observe.Metrics, health *observe.Health,
) (*compute.Client, *reach, azure.Config, error) {
	config, err := azure.Load(o.azure.cloudConfig, getenv)
	if err != nil {
		return nil, nil, azure.Config{}, err
	}
	credential, err := azure.NewCredential(config, azure.CredentialOptions{
		Path: o.azure.cloudConfig, Getenv: getenv, Log: logr.FromContextOrDiscard(ctx).WithName("azure"),
	})
	if err != nil {
		return nil, nil, azure.Config{}, err
	}
	reach := &reach{}
	health.AddCheck("azure", reach.err)
	client, err := compute.New(compute.Options{
		Credential: credential, Cloud: config.Endpoints(), ClientID: config.ClientID,
		Observe: func(operation string, took time.Duration, err error) {
			metrics.CloudOperation(operation, took, err)
			if _, throttled := compute.RetryAfter(err); throttled {
				metrics.Throttled(operation)
			}
			if !answered(err) {
				reach.note(fmt.Errorf("the last call to Azure failed: %w", err))
				return
			}
			reach.note(nil)
		},
	})
	if err != nil {
		return nil, nil, azure.Config{}, err
	}
	logr.FromContextOrDiscard(ctx).Info("cloud config read", "path", o.azure.cloudConfig, "cloud", config.Cloud.Name,
		"managedIdentity", config.ManagedIdentity, "clientID", observe.ShortID(config.ClientID))
	return client, reach, config, nil
}

// own is the managed identity that MIC signs in with, which is never to be removed from a machine.
func own(config azure.Config) []string {
	if config.UserAssignedIdentityID == "" {
		return nil
	}
	return []string{config.UserAssignedIdentityID}
}

// answered tells whether Azure answered at all, be it by a refusal.
func answered(err error) bool {
	_, throttled := compute.RetryAfter(err)
	return err == nil || throttled || compute.IsRefused(err) || compute.IsNotFound(err) ||
		compute.IsForbidden(err) || compute.IsConflict(err) || errors.Is(err, context.Canceled)
}

// The pauses between two attempts to run, when the API server cannot be reached
// or the lease was lost.
const (
	firstPause = time.Second
	mostPause  = 2 * time.Second
	// settled is how long an attempt must have run to count as a success.
	settled = time.Minute
)

// keepOn calls attempt again until the context ends.
func keepOn(ctx context.Context, attempt func(context.Context) error) error {
	pause, said := firstPause, ""
	for {
		began := time.Now()
		err := attempt(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the program stops; whatever the term says about that is no failure
		}
		if time.Since(began) > settled {
			pause, said = firstPause, ""
		}
		if fmt.Sprint(err) != said { // an outage is told once, and not every two seconds
			said = fmt.Sprint(err)
			logr.FromContextOrDiscard(ctx).Error(err, "not working, trying again", "in", pause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

// explain adds what to do to errors that a person has to mend.
func explain(err error) error {
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("%w: install podid's custom resource definitions (config/crd, or the chart)", err)
	}
	return err
}
