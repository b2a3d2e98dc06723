// nmi --cleanup removes the redirect from the node, nmi --cleanup-nodes from all nodes.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/hook/program"
	nodecleanup "github.com/podid-io/podid/internal/uninstall/node"
)

// cleanupOptions select and configure the removal of the redirect.
type cleanupOptions struct {
	on    bool
	force bool
	wait  time.Duration

	nodes     bool
	image     string
	namespace string
	secrets   string
}

func (o *cleanupOptions) bindFlags(flags *flag.FlagSet) {
	flags.BoolVar(&o.on, "cleanup", false, "remove the redirect from this node and exit: pods reach the real metadata service then; refused while an agent answers")
	flags.BoolVar(&o.force, "force", false, "with --cleanup: even while an agent answers")
	flags.DurationVar(&o.wait, "cleanup-wait", 0, "with --cleanup: how long to wait for a stopping agent")
	flags.BoolVar(&o.nodes, "cleanup-nodes", false, "run nmi --cleanup in a pod on each node of the cluster, and exit; the chart can do this after an uninstall")
	flags.StringVar(&o.image, "cleanup-image", "", "with --cleanup-nodes: nmi's `image`")
	flags.StringVar(&o.namespace, "cleanup-namespace", "", "with --cleanup-nodes: `namespace` of the pods")
	flags.StringVar(&o.secrets, "cleanup-pull-secrets", "", "with --cleanup-nodes: comma-separated `names` of the image pull Secrets")
}

//nolint:gocyclo // a flat list of rules about flags
func (o *cleanupOptions) validate() error {
	switch {
	case o.on && o.nodes:
		return errors.New("--cleanup and --cleanup-nodes: use one of them")
	case o.nodes && (o.image == "" || o.namespace == ""):
		return errors.New("--cleanup-nodes needs --cleanup-image and --cleanup-namespace")
	case !o.nodes && o.image+o.namespace+o.secrets != "":
		return errors.New("--cleanup-image, --cleanup-namespace and --cleanup-pull-secrets go with --cleanup-nodes")
	case !o.on && !o.nodes && (o.force || o.wait != 0):
		return errors.New("--force and --cleanup-wait go with --cleanup")
	case o.wait < 0:
		return fmt.Errorf("--cleanup-wait=%v: must not be negative", o.wait)
	}
	return nil
}

// cleanUp removes the redirect from this node, and the programs that capture inside pods.
func cleanUp(ctx context.Context, o *options, log logr.Logger) error {
	config, err := o.privileged.Redirect(o.ports.nmi)
	if err != nil {
		return err
	}
	log = log.WithValues("table", config.Table, "address", config.AgentIP.String())
	found, err := redirect.Clean(ctx, config, o.cleanup.wait, o.cleanup.force)
	var busy *redirect.BusyError
	switch {
	case errors.As(err, &busy):
		return fmt.Errorf("nothing was removed: %w; --force removes it anyway", err)
	case err != nil:
		return err
	}
	if err := program.Remove(o.privileged.Pins()); err != nil {
		return fmt.Errorf("remove what captures inside pods: %w", err)
	}
	switch {
	case found:
		log.Info("removed the redirect: pods of this node reach the real metadata service, and the node's identities")
	default:
		log.Info("found no redirect on this node")
	}
	return nil
}

// nodeTime bounds the cleanup of one node, which has the image already.
const nodeTime = 5 * time.Minute

// cleanUpNodes runs nmi --cleanup in a pod on each node.
func cleanUpNodes(ctx context.Context, o *options, log logr.Logger) error {
	config, err := o.KubeConfig("nmi-cleanup")
	if err != nil {
		return err
	}
	spec := nodecleanup.Spec{
		Namespace: o.cleanup.namespace, Image: o.cleanup.image, Wait: o.cleanup.wait,
		Args: o.privileged.CleanupArgs(),
	}
	if o.cleanup.secrets != "" {
		spec.PullSecrets = strings.Split(o.cleanup.secrets, ",")
	}
	if o.cleanup.force {
		spec.Args = append(spec.Args, "--force")
	}
	cleaner, err := nodecleanup.New(config, spec, nodeTime)
	if err != nil {
		return err
	}
	nodes, err := cleaner.Nodes(ctx)
	if err != nil {
		return err
	}
	return cleaner.Run(ctx, nodes, func(r nodecleanup.Result) {
		if r.Err != nil {
			log.Error(r.Err, "cannot clean node", "node", r.Node)
			return
		}
		log.Info("cleaned node", "node", r.Node)
	})
}
