// The command `podid identity federate`.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/cloud"
	"github.com/podid-io/podid/internal/federation"
	"github.com/podid-io/podid/internal/identity"
)

func newIdentityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Identities: federate one with Azure",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newFederateCommand())
	return cmd
}

// federateOptions are the flags of `podid identity federate`.
type federateOptions struct {
	cluster         clusterOptions
	namespace       string
	clusterName     string
	issuer          string
	brokerNamespace string
	cloud           string
	output          string
	dryRun          bool
}

const federateLong = `Make the ServiceAccount (broker) that stands for a federated identity (AzureIdentity of
type 3) where MIC has not, and print the line for the Azure CLI that makes Azure trust it.

The line is all that goes to standard output, so that it can be piped to sh; what there is to
say about it goes to standard error. It is the same every time. Azure takes it again for a managed identity,
and says that the credential exists for an application.

An identity with spec.resourceID is a managed identity, one without is an application.`

const federateExample = `  # what is to be run?
  podid identity federate shop -n web

  # run it
  podid identity federate shop -n web | sh

  # for Terraform, Bicep and others
  podid identity federate shop -n web --dry-run -o json`

func newFederateCommand() *cobra.Command {
	o := &federateOptions{}
	cmd := &cobra.Command{
		Use:     "federate NAME",
		Short:   "Print the az line that makes Azure trust this cluster for an identity of type 3",
		Long:    federateLong,
		Example: federateExample,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return o.completeNames(cmd), cobra.ShellCompDirectiveNoFileComp
		},
	}
	flags := cmd.Flags()
	o.cluster.bindFlags(cmd)
	flags.StringVarP(&o.namespace, "namespace", "n", "", "the identity's namespace (default: the kubeconfig's)")
	flags.StringVar(&o.clusterName, "cluster-name", "", "`name` of the cluster in the credential's name (default: the kubeconfig's)")
	flags.StringVar(&o.issuer, "issuer", "", "`URL` of the cluster's issuer (default: what the API server says)")
	flags.StringVar(&o.brokerNamespace, "broker-namespace", identity.DefaultBrokerNamespace, "`namespace` of the brokers, as mic and nmi have it")
	flags.StringVar(&o.cloud, "cloud", cloud.Public, "Azure's cloud, which the audience depends on")
	flags.BoolVar(&o.dryRun, "dry-run", false, "make nothing in the cluster")
	flags.StringVarP(&o.output, "output", "o", "", "print the credential as json or yaml instead of the line")
	complete(cmd, "namespace", o.cluster.completeNamespaces)
	complete(cmd, "broker-namespace", o.cluster.completeNamespaces)
	complete(cmd, "output", func(*cobra.Command) []string { return []string{"json", "yaml"} })
	complete(cmd, "cloud", func(*cobra.Command) []string { return cloud.Names() })
	return cmd
}

func (o *federateOptions) run(cmd *cobra.Command, name string) error {
	if err := o.complete(); err != nil {
		return err
	}
	ctrllog.SetLogger(logr.Discard())
	ctx, notes := cmd.Context(), cmd.ErrOrStderr()
	kube, err := o.cluster.client()
	if err != nil {
		return err
	}
	var id v1.AzureIdentity
	if err := kube.Get(ctx, client.ObjectKey{Namespace: o.namespace, Name: name}, &id); err != nil {
		return fmt.Errorf("read AzureIdentity %s/%s: %w", o.namespace, name, err)
	}
	// Validate the identity first: nothing is created for one that cannot be federated.
	cluster := federation.Cluster{Name: o.clusterName, Issuer: o.issuer, BrokerNamespace: o.brokerNamespace, Cloud: o.cloud}
	if _, err := federation.For(&id, cluster); err != nil {
		return err
	}
	if cluster.Issuer, err = o.findIssuer(ctx, notes); err != nil {
		return err
	}
	credential, err := federation.For(&id, cluster)
	if err != nil {
		return err
	}
	o.warnForbidden(ctx, notes, kube, &id)
	if err := o.makeBroker(ctx, notes, kube, &id); err != nil {
		return err
	}
	return o.print(cmd.OutOrStdout(), notes, credential)
}

func (o *federateOptions) complete() error {
	switch o.output {
	case "", "json", "yaml":
	default:
		return fmt.Errorf("--output %q: use json or yaml", o.output)
	}
	config := o.cluster.config()
	if o.namespace == "" {
		namespace, _, err := config.Namespace()
		if err != nil {
			return fmt.Errorf("read kubeconfig: %w", err)
		}
		o.namespace = namespace
	}
	if raw, err := config.RawConfig(); err == nil && o.clusterName == "" {
		current := raw.CurrentContext
		if o.cluster.context != "" {
			current = o.cluster.context
		}
		if context := raw.Contexts[current]; context != nil {
			o.clusterName = context.Cluster
		}
	}
	return nil
}

// findIssuer returns the issuer of the cluster's ServiceAccount tokens. An issuer that the user
// named wins; findIssuer warns if the cluster contradicts it.
func (o *federateOptions) findIssuer(ctx context.Context, notes io.Writer) (string, error) {
	said, err := o.discover(ctx)
	if o.issuer != "" {
		switch {
		case err != nil:
			_, _ = fmt.Fprintln(notes, "note:", err)
		case said.Issuer != o.issuer:
			_, _ = fmt.Fprintf(notes, "warning: the cluster issues tokens as %s, not as %s: Azure compares the whole string\n", said.Issuer, o.issuer)
		}
		if err := federation.CheckIssuer(o.issuer); err != nil {
			_, _ = fmt.Fprintln(notes, "warning:", err)
		}
		return o.issuer, nil
	}
	if err != nil {
		return "", fmt.Errorf("%w; or name the issuer with --issuer", err)
	}
	if err := errors.Join(federation.CheckIssuer(said.Issuer), federation.CheckKeys(said)); err != nil {
		return "", err
	}
	return said.Issuer, nil
}

// discover asks the API server for its issuer.
func (o *federateOptions) discover(ctx context.Context) (federation.Discovery, error) {
	var said federation.Discovery
	config, err := o.cluster.config().ClientConfig()
	if err != nil {
		return said, fmt.Errorf("read kubeconfig: %w", err)
	}
	api, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return said, fmt.Errorf("connect to the API server: %w", err)
	}
	body, err := api.RESTClient().Get().AbsPath(federation.DiscoveryPath).DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(body, &said)
	}
	if err != nil {
		return said, fmt.Errorf("ask the API server for its issuer (%s): %w", federation.DiscoveryPath, err)
	}
	return said, nil
}

// warnForbidden warns if the cluster's policy does not allow the identity. Without a policy, or
// without permission to read it, there is no warning.
func (o *federateOptions) warnForbidden(ctx context.Context, notes io.Writer, kube client.Client, id *v1.AzureIdentity) {
	var object v1.AzureIdentityPolicy
	if err := kube.Get(ctx, client.ObjectKey{Name: v1.PolicyName}, &object); err != nil {
		return
	}
	policy, err := identity.CompilePolicy(&object)
	if err != nil {
		_, _ = fmt.Fprintln(notes, "warning:", err)
	}
	var namespace corev1.Namespace
	if err := kube.Get(ctx, client.ObjectKey{Name: id.Namespace}, &namespace); err != nil && policy.NeedsNamespaceLabels() {
		return
	}
	if !policy.AllowsInNamespace(id, namespace.Labels) {
		_, _ = fmt.Fprintf(notes, "warning: no rule of AzureIdentityPolicy %s (mode %s) allows this identity in namespace %s: ask the owner of the cluster for one\n",
			v1.PolicyName, policy.Mode(), id.Namespace)
	}
}

// makeBroker creates the missing parts of the broker.
func (o *federateOptions) makeBroker(ctx context.Context, notes io.Writer, kube client.Client, id *v1.AzureIdentity) error {
	name, err := identity.Broker(id)
	if err != nil {
		return err
	}
	var account corev1.ServiceAccount
	err = kube.Get(ctx, client.ObjectKey{Namespace: o.brokerNamespace, Name: name}, &account)
	switch {
	case err == nil && account.Labels[federation.ManagedByLabel] != federation.ManagedBy:
		_, _ = fmt.Fprintf(notes, "warning: ServiceAccount %s/%s was not created by podid: check who uses it, because its tokens act as this identity\n", o.brokerNamespace, name)
		return nil
	case err == nil:
		return nil
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("read ServiceAccount %s/%s: %w", o.brokerNamespace, name, err)
	case o.dryRun:
		_, _ = fmt.Fprintf(notes, "note: ServiceAccount %s/%s does not exist; MIC creates it, and so does this command without --dry-run\n", o.brokerNamespace, name)
		return nil
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: o.brokerNamespace, Labels: map[string]string{federation.ManagedByLabel: federation.ManagedBy},
	}}
	err = kube.Get(ctx, client.ObjectKeyFromObject(namespace), &corev1.Namespace{})
	if apierrors.IsNotFound(err) {
		if err := client.IgnoreAlreadyExists(kube.Create(ctx, namespace)); err != nil {
			return fmt.Errorf("create namespace %s: %w", o.brokerNamespace, err)
		}
		_, _ = fmt.Fprintf(notes, "namespace/%s created\n", o.brokerNamespace)
	}
	if err := client.IgnoreAlreadyExists(kube.Create(ctx, federation.Account(id, o.brokerNamespace, name))); err != nil {
		return fmt.Errorf("create ServiceAccount %s/%s: %w", o.brokerNamespace, name, err)
	}
	_, _ = fmt.Fprintf(notes, "serviceaccount/%s created in namespace %s\n", name, o.brokerNamespace)
	return nil
}

// print writes the command line or the credential to out, and the remaining steps to notes.
func (o *federateOptions) print(out, notes io.Writer, credential federation.Credential) error {
	if o.output != "" {
		text, err := json.MarshalIndent(credential, "", "  ")
		if err == nil && o.output == "yaml" {
			text, err = yaml.JSONToYAML(text)
		}
		if err != nil {
			return fmt.Errorf("print credential: %w", err)
		}
		_, err = fmt.Fprintln(out, strings.TrimSuffix(string(text), "\n"))
		return err
	}
	if credential.ManagedIdentity == nil {
		_, _ = fmt.Fprintln(notes, "note: this is for an application; where the client ID is a managed identity's, set spec.resourceID (az identity show --query id)")
	}
	_, _ = fmt.Fprintln(notes, "Azure may take a minute or two until it knows a new credential.")
	_, err := fmt.Fprintln(out, credential.Command())
	return err
}

// completeNames returns the federated identities of the namespace.
func (o *federateOptions) completeNames(cmd *cobra.Command) []string {
	kube, err := o.cluster.client()
	if err != nil || o.complete() != nil {
		return nil
	}
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionTimeout)
	defer cancel()
	var list v1.AzureIdentityList
	if err := kube.List(ctx, &list, client.InNamespace(o.namespace)); err != nil {
		return nil
	}
	var names []string
	for i := range list.Items {
		if list.Items[i].Spec.Type == v1.Federated {
			names = append(names, list.Items[i].Name)
		}
	}
	return names
}
