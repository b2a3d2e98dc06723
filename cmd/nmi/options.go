// The command line and the environment: a struct for each concern, with bindFlags, complete for
// environment variables, and validate.

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/kubenet"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/daemon"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/privileged"
)

// options are all options of the program.
type options struct {
	daemon.Options

	node       nodeOptions
	privileged privileged.Options
	holder     string // folder; empty: this process is the holder
	identities identityOptions
	entra      entraOptions
	prefetch   prefetchOptions
	answers    answerOptions
	record     recordOptions
	ports      portOptions
	cleanup    cleanupOptions
	cluster    clusterOptions

	wireProbe bool // prove on the node's network that pods' requests arrive
	bootGuard bool // put the rules in place and exit
}

// parse reads flags and environment. Its error has all mistakes, one a line. It is flag.ErrHelp if
// the usage was requested and written to w.
func (o *options) parse(args []string, getenv func(string) string, w io.Writer) error {
	err := o.Parse(daemon.Usage{
		Name: "nmi",
		Intro: "nmi answers the requests of its node's pods to the Azure instance metadata service.\n\n" +
			"Usage: nmi --node=NAME [flags]",
		Environment: "KUBECONFIG, NODE_NAME (default of --node), FORCENAMESPACED, CLOUD, AZURE_AUTHORITY_HOST, AZURE_ENVIRONMENT_FILEPATH, HTTPS_PROXY and SSL_CERT_FILE (towards Entra ID)",
		Verbosity:   "0 logs decisions, 2 every token request, 5 and 6 are for debugging",
		MetricsPort: "9090",
		OldSwitches: []string{"enable-conntrack-deletion", "debug"},
		OldFlags:    []string{"MICNamespace", "host-ip"},
	}, args, w, o.bindFlags)
	if errors.Is(err, flag.ErrHelp) || o.Version {
		return err
	}
	return errors.Join(err, o.complete(getenv), o.validate())
}

func (o *options) bindFlags(flags *flag.FlagSet) {
	o.node.bindFlags(flags)
	o.privileged.BindFlags(flags)
	o.identities.bindFlags(flags)
	o.entra.bindFlags(flags)
	o.prefetch.bindFlags(flags)
	o.answers.bindFlags(flags)
	o.record.bindFlags(flags)
	o.ports.bindFlags(flags)
	o.cleanup.bindFlags(flags)
	o.cluster.bindFlags(flags)
	flags.StringVar(&o.holder, "holder", "", "`folder` in which nmi-holder listens, which does what needs privileges; nmi needs none then; empty: nmi does it")
	flags.BoolVar(&o.bootGuard, "boot-guard", false, "add the rules of the redirect, with --capture=prefer or require also the programs, and exit: pods are refused until an agent serves; for a unit that runs before the kubelet")
	flags.BoolVar(&o.wireProbe, "wire-probe", true, "with each check of the redirect, prove by a connection from a network namespace made for it that what pods send arrives here: not ready if it arrives elsewhere")
}

// complete applies the environment. Managed mode is always namespaced.
func (o *options) complete(getenv func(string) string) error {
	if o.bootGuard && o.privileged.Way == "" {
		o.privileged.Way = privileged.CaptureWire // the chart's agent on the wire would not remove programs
	}
	o.privileged.Complete()
	o.node.complete(getenv)
	o.entra.complete(getenv)
	o.node.kubenet.SkipUnreadable = o.holder != "" // this process may have no privileges
	o.identities.mode = ascii.ToLower(o.identities.mode)
	if err := o.Complete(getenv); err != nil {
		return err
	}
	if o.identities.mode == modeManaged {
		o.ForceNamespaced = true
	}
	return nil
}

func (o *options) validate() error {
	if o.bootGuard && (o.cleanup.on || o.cleanup.nodes) {
		return errors.New("--boot-guard does not go with --cleanup and --cleanup-nodes: it does the opposite")
	}
	if o.bootGuard { // without the name of the node
		return errors.Join(o.Validate(), o.privileged.Validate(o.ports.nmi), o.cleanup.validate())
	}
	if o.cleanup.on || o.cleanup.nodes {
		return errors.Join(o.Validate(), o.privileged.ValidateRedirect(o.ports.nmi), o.cleanup.validate())
	}
	return errors.Join(o.Validate(), o.node.validate(), o.privileged.Validate(o.ports.nmi), o.validateHolder(), o.identities.validate(), o.entra.validate(),
		o.prefetch.validate(o.entra.cloud), o.ports.validate(), o.record.validate(), o.cleanup.validate(), o.cluster.validate())
}

func (o *options) validateHolder() error {
	if o.holder != "" && !filepath.IsAbs(o.holder) {
		return fmt.Errorf("--holder=%q: use an absolute path, such as %s", o.holder, privileged.DefaultFolder)
	}
	return nil
}

// refusesKubenet reports whether nmi refuses to run on a node with kubenet, whose pods can fake
// their address. Where addresses decide nothing, it does not.
func (o *options) refusesKubenet() bool {
	return !o.node.allowKubenet && o.privileged.Way != privileged.CaptureRequire
}

// nodeOptions describe the node.
type nodeOptions struct {
	name         string
	kubenet      kubenet.Detector
	allowKubenet bool
	startupTaint bool
}

func (o *nodeOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.name, "node", "", "`name` of this node in the API server; default $NODE_NAME")
	flags.StringVar(&o.kubenet.KubeletConfig, "kubelet-config", "/etc/default/kubelet", "`file` with the kubelet's flags, searched for kubenet")
	flags.StringVar(&o.kubenet.CNIConfigDir, "cni-config-dir", "/etc/cni/net.d", "`folder` with the configuration of the node's network plugin, searched for kubenet; empty to skip")
	flags.BoolVar(&o.startupTaint, "startup-taint", true, "remove the taint "+v1.AgentNotReadyTaint+" from this node once the agent is ready")
	flags.BoolVar(&o.allowKubenet, "allow-network-plugin-kubenet", false, "run even if the node uses the network plugin kubenet, whose pods can fake their address")
}

func (o *nodeOptions) complete(getenv func(string) string) {
	for _, variable := range []string{"NODE_NAME", "NODENAME"} {
		if o.name == "" {
			o.name = getenv(variable)
		}
	}
}

func (o *nodeOptions) validate() error {
	if o.name == "" {
		return errors.New("--node is missing: name this node as kubectl get nodes shows it, or set NODE_NAME")
	}
	if problems := validation.IsDNS1123Subdomain(o.name); len(problems) > 0 {
		return fmt.Errorf("--node=%q cannot be the name of a node: %s", o.name, problems[0])
	}
	return nil
}

// The operation modes.
const (
	modeStandard = "standard"
	modeManaged  = "managed"
)

// identityOptions configure how identities are assigned, and how long a request waits for one.
type identityOptions struct {
	mode string

	attemptsCreated  int
	attemptsAssigned int
	attemptInterval  int
}

func (o *identityOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.mode, "operation-mode", modeStandard, "standard (MIC assigns identities to nodes) or managed (MIC does not run; always namespaced)")
	flags.IntVar(&o.attemptsCreated, "retry-attempts-for-created", 16, "with the next two flags: how long a request waits for an identity that is being assigned")
	flags.IntVar(&o.attemptsAssigned, "retry-attempts-for-assigned", 4, "added to the attempts for created; the sum counts")
	flags.IntVar(&o.attemptInterval, "find-identity-retry-interval", 5, "`seconds` that each of the attempts counts; waiting itself is by watch")
}

func (o *identityOptions) validate() error {
	var err error
	if o.mode != modeStandard && o.mode != modeManaged {
		err = fmt.Errorf("--operation-mode=%q: use %s or %s", o.mode, modeStandard, modeManaged)
	}
	return errors.Join(err,
		daemon.NotNegative("retry-attempts-for-created", o.attemptsCreated),
		daemon.NotNegative("retry-attempts-for-assigned", o.attemptsAssigned),
		daemon.NotNegative("find-identity-retry-interval", o.attemptInterval))
}

// maxArrivalLimit is far more than any client waits.
const maxArrivalLimit = time.Hour

// arrivalLimit returns how long a request waits for an identity that is being assigned.
func (o *identityOptions) arrivalLimit() time.Duration {
	attempts := min(o.attemptsCreated, 3600) + min(o.attemptsAssigned, 3600)
	return min(time.Duration(attempts)*time.Duration(min(o.attemptInterval, 3600))*time.Second, maxArrivalLimit)
}

// answerOptions configure what pods are answered.
type answerOptions struct {
	headerRequired bool
	blockInstance  bool
	blockAttested  bool
	blockUserData  bool
	anyInterface   bool
	retryAfter     bool
}

func (o *answerOptions) bindFlags(flags *flag.FlagSet) {
	flags.BoolVar(&o.headerRequired, "metadata-header-required", true, "refuse token requests without the header Metadata: true, as the metadata service does")
	flags.BoolVar(&o.blockInstance, "block-instance-metadata", false, "keep /metadata/instance and /metadata/attested from pods")
	flags.BoolVar(&o.blockAttested, "block-attested-document", false, "keep /metadata/attested/document from pods, by which a program proves that it runs on this machine")
	flags.BoolVar(&o.blockUserData, "block-user-data", true, "keep the machine's user data (/metadata/instance/compute/userData and customData), which often has secrets, from pods")
	flags.BoolVar(&o.anyInterface, "allow-address-on-any-interface", false, "accept a pod's address from any network interface: for network plugins that replace the interfaces of running pods")
	flags.BoolVar(&o.retryAfter, "set-retry-after-header", false, "answer 503 with Retry-After: 20 while a pod's identity is being assigned, instead of waiting")
}

// clusterOptions are which identities are the cluster's own.
type clusterOptions struct {
	allow bool
	list  string
}

func (o *clusterOptions) bindFlags(flags *flag.FlagSet) {
	flags.BoolVar(&o.allow, "allow-cluster-identities", false,
		"let pods have identities of the cluster itself, as aad-pod-identity did: those of --cluster-identities, the kubelet's and the system-assigned one")
	flags.StringVar(&o.list, "cluster-identities", "",
		"client IDs or resource IDs, separated by commas, of identities of the cluster itself, such as MIC's; "+
			"the kubelet's is also known by the node's label "+v1.KubeletIdentityLabel)
}

func (o *clusterOptions) validate() error {
	if err := identity.CheckIDs(o.list); err != nil {
		return fmt.Errorf("--cluster-identities: %w", err)
	}
	return nil
}

// set returns the client IDs and resource IDs in the list, in lower case.
func (o *clusterOptions) set() map[string]bool { return identity.IDSet(identity.SplitIDs(o.list)...) }

func port(name string, value int) error {
	if value > 0 && value <= 65535 {
		return nil
	}
	return fmt.Errorf("--%s=%d is not a port: use a number from 1 to 65535", name, value)
}
