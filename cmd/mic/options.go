// The command line and the environment: a struct for each concern, with bindFlags, complete for
// environment variables, and validate.

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podid-io/podid/internal/daemon"
	"github.com/podid-io/podid/internal/identity"
)

// options are all options of the program.
type options struct {
	daemon.Options

	kubernetes kubernetesOptions
	azure      azureOptions
	identities identityOptions
	preassign  preassignOptions
	cluster    clusterOptions
	election   electionOptions
	agents     agentOptions
	crds       crdOptions
	ask        askOptions
}

// parse reads flags and environment. Its error has all mistakes, one a line. It is flag.ErrHelp if
// the usage was requested and written to w.
func (o *options) parse(args []string, getenv func(string) string, w io.Writer) error {
	err := o.Parse(daemon.Usage{
		Name: "mic",
		Intro: "mic keeps Azure identities assigned to the nodes whose pods need them.\n\n" +
			"Usage: mic [flags]",
		Environment: "KUBECONFIG, MIC_POD_NAMESPACE (namespace of the record of attached identities), FORCENAMESPACED, AZURE_ENVIRONMENT_FILEPATH",
		Verbosity:   "0 tells what was done, 1 also why, 5 and 6 are for debugging",
		MetricsPort: "8888",
		OldFlags:    []string{"update-user-msi-max-retry"}, // it retries without end
	}, args, w, o.bindFlags)
	if errors.Is(err, flag.ErrHelp) || o.Version {
		return err
	}
	return errors.Join(err, o.complete(getenv), o.validate())
}

func (o *options) bindFlags(flags *flag.FlagSet) {
	o.kubernetes.bindFlags(flags)
	o.azure.bindFlags(flags)
	o.identities.bindFlags(flags)
	o.preassign.bindFlags(flags)
	o.cluster.bindFlags(flags)
	o.election.bindFlags(flags)
	o.agents.bindFlags(flags)
	o.crds.bindFlags(flags)
	o.ask.bindFlags(flags)
}

func (o *options) complete(getenv func(string) string) error {
	o.kubernetes.complete(getenv)
	o.azure.complete(o.Given("cloudconfig"))
	return errors.Join(o.Complete(getenv), o.election.complete(os.Hostname, o.ProbePort))
}

func (o *options) validate() error {
	return errors.Join(o.Validate(), o.kubernetes.validate(), o.azure.validate(), o.identities.validate(), o.preassign.validate(), o.cluster.validate(), o.election.validate(), o.agents.validate(), o.crds.validate(), o.ask.validate())
}

// kubernetesOptions configure the API server and the load on it.
type kubernetesOptions struct {
	qps           float64
	batch         int64
	sweepInterval time.Duration
	podNamespace  string
	configMap     string
	typeUpgrade   bool
	upgradeKey    string
}

func (o *kubernetesOptions) bindFlags(flags *flag.FlagSet) {
	flags.Float64Var(&o.qps, "clientQps", 0,
		"requests a second to the API server, in bursts of twice as many; 0: no limit, the API server's own (API Priority and Fairness) does")
	flags.Int64Var(&o.batch, "createDeleteBatch", 20, "assigned identities of one VM or scale set that are written at the same time")
	flags.DurationVar(&o.sweepInterval, "syncRetryDuration", time.Hour, "time between two searches for assigned identities that were left behind")
	flags.StringVar(&o.configMap, "config-map-name", "aad-pod-identity-config",
		"`name` of the ConfigMap, in MIC's own namespace, that records the type upgrade; those that record what mic has attached to VMs and scale sets begin with it")
	flags.BoolVar(&o.typeUpgrade, "enable-type-upgrade", true,
		"once, rename the fields of objects that were stored before v1.6 of AAD Pod Identity (resourceid, ResourceID ...)")
	flags.StringVar(&o.upgradeKey, "type-upgrade-status-key", "type-upgrade-status",
		"`key` of the ConfigMap that says which version has done that; while it is there, it is not done again")
}

func (o *kubernetesOptions) complete(getenv func(string) string) {
	if o.podNamespace = getenv("MIC_POD_NAMESPACE"); o.podNamespace == "" {
		o.podNamespace = "default"
	}
}

func (o *kubernetesOptions) validate() error {
	return errors.Join(
		daemon.NotNegative("clientQps", o.qps),
		daemon.Positive("createDeleteBatch", o.batch),
		daemon.Positive("syncRetryDuration", o.sweepInterval),
		objectName("config-map-name", o.configMap),
		configMapKey("type-upgrade-status-key", o.upgradeKey),
		objectName("MIC_POD_NAMESPACE", o.podNamespace),
	)
}

// azureOptions configure the access to Azure.
type azureOptions struct {
	cloudConfig   string
	retryInterval time.Duration
	driftInterval time.Duration
}

// defaultCloudConfig is the path that AKS and CAPZ use on every node.
const defaultCloudConfig = "/etc/kubernetes/azure.json"

func (o *azureOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.cloudConfig, "cloudconfig", defaultCloudConfig,
		"cloud config `file` (azure.json); the default one need not exist: then the environment says it (CLOUD, TENANT_ID, CLIENT_ID, CLIENT_SECRET, USE_MSI ...)")
	flags.DurationVar(&o.retryInterval, "update-user-msi-retry-interval", time.Second,
		"pause after a failed update of a VM or scale set; it doubles up to a minute")
	flags.DurationVar(&o.driftInterval, "identity-assignment-reconcile-interval", 3*time.Minute,
		"time between two comparisons of Azure with the cluster")
}

// complete clears the path, which selects the environment, if no file was given and the default
// file does not exist.
func (o *azureOptions) complete(given bool) {
	if given {
		return
	}
	if _, err := os.Stat(o.cloudConfig); errors.Is(err, os.ErrNotExist) {
		o.cloudConfig = ""
	}
}

func (o *azureOptions) validate() error {
	return errors.Join(
		daemon.Positive("update-user-msi-retry-interval", o.retryInterval),
		daemon.Positive("identity-assignment-reconcile-interval", o.driftInterval),
	)
}

// identityOptions configure which identities are assigned where, and when they are removed.
type identityOptions struct {
	grace     time.Duration
	immutable string
	brokers   string
	byNode    bool
}

func (o *identityOptions) bindFlags(flags *flag.FlagSet) {
	flags.DurationVar(&o.grace, "identity-detach-grace-period", 10*time.Minute,
		"how long an identity stays on a VM or scale set that no pod there needs any more; 0: it leaves at once")
	flags.StringVar(&o.immutable, "immutable-user-msis", "",
		"identities never to remove from a VM or scale set: client `ids` or resource IDs, separated by commas")
	flags.StringVar(&o.brokers, "broker-namespace", identity.DefaultBrokerNamespace,
		"`namespace` of the ServiceAccounts that stand for federated identities (type 3), which mic makes and removes; empty: it does not")
	flags.BoolVar(&o.byNode, "limit-brokers-to-nodes", false,
		"keep a Role for each node, in the namespace of the brokers, that names those its pods need, for the chart's admission policy")
}

func (o *identityOptions) validate() error {
	var namespace error
	if o.brokers != "" {
		namespace = objectName("broker-namespace", o.brokers)
	}
	return errors.Join(daemon.NotNegative("identity-detach-grace-period", o.grace), namespace)
}

// immutables returns the entries of the list.
func (o *identityOptions) immutables() []string {
	return identity.SplitIDs(o.immutable)
}

// unprotecting returns the entries of the list that cannot be any identity's. v1.8.17 accepted any
// entry, so they do not prevent a start.
func (o *identityOptions) unprotecting() []string {
	return slices.DeleteFunc(o.immutables(), identity.IsID)
}

// electionOptions configure the leader's Lease.
type electionOptions struct {
	instance, namespace, name string
	duration                  time.Duration
}

// minLease leaves time for two attempts at a renewal.
const minLease = 4 * time.Second

// defaultLease lets a standby take over within 9 s after the leader was killed: it may have
// observed the last renewal a second late, and checks the Lease about once a second. A leader
// survives an API server that is away for 4 s.
const defaultLease = 6 * time.Second

func (o *electionOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.instance, "leader-election-instance", "", "`name` of this instance, unique among all (default: the host name and the probe port)")
	flags.StringVar(&o.namespace, "leader-election-namespace", "default", "namespace of the Lease")
	flags.StringVar(&o.name, "leader-election-name", "aad-pod-identity-mic", "name of the Lease")
	flags.DurationVar(&o.duration, "leader-election-duration", defaultLease,
		"how long the Lease is valid without a renewal; the leader exits after five sixths of it")
}

// complete sets the name of the instance. Two programs with the same host name run on one machine
// and cannot share the port, so host name and port are unique. A program that restarts has the same
// name and gets the Lease at once.
func (o *electionOptions) complete(hostname func() (string, error), port string) error {
	if o.instance != "" {
		return nil
	}
	name, err := hostname()
	if err != nil {
		return fmt.Errorf("read the host name: %w; set --leader-election-instance", err)
	}
	if port == "0" { // any free port: only the process ID is unique
		port = "p" + strconv.Itoa(os.Getpid())
	}
	o.instance = name + "_" + port
	return nil
}

func (o *electionOptions) validate() error {
	var tooShort error
	if o.duration < minLease {
		tooShort = fmt.Errorf("--leader-election-duration=%v: use %v or more", o.duration, minLease)
	}
	return errors.Join(tooShort, objectName("leader-election-namespace", o.namespace), objectName("leader-election-name", o.name))
}

// objectName validates the name of an object. what is the flag or, in capitals, the environment
// variable.
func objectName(what, value string) error {
	problems := validation.IsDNS1123Subdomain(value)
	if len(problems) == 0 {
		return nil
	}
	if what != strings.ToUpper(what) {
		what = "--" + what
	}
	return fmt.Errorf("%s=%q cannot be the name of an object: %s", what, value, problems[0])
}

// configMapKey returns an error for a name that no key of a ConfigMap can have.
func configMapKey(flag, value string) error {
	if problems := validation.IsConfigMapKey(value); len(problems) > 0 {
		return fmt.Errorf("--%s=%q cannot be the key of a ConfigMap: %s", flag, value, problems[0])
	}
	return nil
}
