// The custom resource definitions: two commands for the chart's hooks, and a message when those of
// the cluster are older than this program.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/crds"
)

// crdOptions select a command in place of the controller. Both are folders of definitions.
type crdOptions struct{ apply, remove string }

func (o *crdOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.apply, "apply-crds", "", "create or update the custom resource definitions in this `folder`, and exit")
	flags.StringVar(&o.remove, "delete-crds", "", "delete the custom resource definitions in this `folder`, and with them all identities, and exit")
}

func (o *crdOptions) given() bool { return o.apply != "" || o.remove != "" }

func (o *crdOptions) validate() error {
	if o.apply != "" && o.remove != "" {
		return errors.New("--apply-crds and --delete-crds exclude each other")
	}
	return nil
}

// runCRDs carries out the selected command.
func runCRDs(ctx context.Context, o *options) error {
	config, err := kubeConfig(o)
	if err != nil {
		return err
	}
	api, err := client.New(config, client.Options{})
	if err != nil {
		return fmt.Errorf("reach the API server: %w", err)
	}
	do, dir, done := crds.Apply, o.crds.apply, "applied custom resource definitions"
	if dir == "" {
		do, dir, done = crds.Delete, o.crds.remove, "deleted custom resource definitions"
	}
	definitions, err := crds.Read(dir)
	if err != nil {
		return err
	}
	if err := do(ctx, api, definitions); err != nil {
		return err
	}
	logr.FromContextOrDiscard(ctx).Info(done, "count", len(definitions))
	return nil
}

// errOldCRDs is logged, and ends nothing: what the cluster does know works.
var errOldCRDs = errors.New("the custom resource definitions are older than this MIC: the API server drops fields that it does not know. " +
	"Apply those of the chart: helm show crds CHART | kubectl apply --server-side --force-conflicts --field-manager=helm -f -")

// reportOldCRDs logs which fields and kinds the cluster does not know.
func reportOldCRDs(ctx context.Context, config *rest.Config) {
	log := logr.FromContextOrDiscard(ctx)
	api, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		log.V(1).Info("custom resource definitions not compared", "reason", err.Error())
		return
	}
	missing, err := crds.Missing(api.OpenAPIV3())
	if err != nil {
		log.V(1).Info("custom resource definitions not compared", "reason", err.Error())
		return
	}
	if len(missing) > 0 {
		log.Error(errOldCRDs, "old custom resource definitions", "missing", strings.Join(missing, ", "))
	}
}
