// Clients: for the cluster, found as kubectl does, and for Azure, found as MIC does.

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/azure"
	"github.com/podid-io/podid/internal/build"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/uninstall"
)

// clusterOptions are kubectl's flags that select the cluster.
type clusterOptions struct{ kubeconfig, context string }

func (o *clusterOptions) bindFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` (default $KUBECONFIG, ~/.kube/config, or the pod's service account)")
	cmd.Flags().StringVar(&o.context, "context", "", "context of the kubeconfig (default: its current one)")
	complete(cmd, "context", o.completeContexts)
}

func (o *clusterOptions) config() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context})
}

// queries is the rate of requests per second to the API server, which also protects itself.
const queries = 100

func (o *clusterOptions) client() (client.Client, error) {
	config, err := o.config().ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.UserAgent = build.UserAgent("podid")
	config.QPS, config.Burst = queries, 2*queries
	config.WarningHandler = rest.NoWarnings{} // about a finalizer's name that v1.8.17 chose
	scheme, err := uninstall.Scheme()
	if err != nil {
		return nil, err
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return c, nil
}

func (o *clusterOptions) completeContexts(*cobra.Command) []string {
	raw, err := o.config().RawConfig()
	if err != nil {
		return nil
	}
	var names []string
	for name := range raw.Contexts {
		names = append(names, name)
	}
	return names
}

// completionTimeout bounds the wait after the Tab key.
const completionTimeout = 3 * time.Second

func (o *clusterOptions) completeNamespaces(cmd *cobra.Command) []string {
	c, err := o.client()
	if err != nil {
		return nil
	}
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionTimeout)
	defer cancel()
	var list corev1.NamespaceList
	if err := c.List(ctx, &list); err != nil {
		return nil
	}
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Name
	}
	return names
}

// complete registers completions for a flag's value.
func complete(cmd *cobra.Command, flag string, words func(*cobra.Command) []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return words(cmd), cobra.ShellCompDirectiveNoFileComp
	})
	_ = err // only for a flag that does not exist
}

// cloudOf returns a client for Azure from a cloud config, or from the environment as MIC reads it.
// It returns nil if neither is set.
func cloudOf(path string, getenv func(string) string) (uninstall.Cloud, error) {
	inEnvironment := getenv("USE_MSI") != "" || getenv("TENANT_ID") != "" && getenv("CLIENT_ID") != ""
	if path == "" && !inEnvironment {
		return nil, nil //nolint:nilnil // no cloud is no error: the plan says what is left for it
	}
	config, err := azure.Load(path, getenv)
	if err != nil {
		return nil, err
	}
	credential, err := azure.NewCredential(config, azure.CredentialOptions{Path: path, Getenv: getenv, Log: logr.Discard()})
	if err != nil {
		return nil, err
	}
	arm, err := compute.New(compute.Options{Credential: credential, Cloud: config.Endpoints()})
	if err != nil {
		return nil, err
	}
	return arm, nil
}
