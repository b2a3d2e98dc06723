// The command `podid cleanup node`, which cleans the nodes of a cluster from any system.

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podid-io/podid/internal/build"
	nodecleanup "github.com/podid-io/podid/internal/uninstall/node"
)

// nodeCleanupOptions are the flags of `podid cleanup node`.
type nodeCleanupOptions struct {
	cluster   clusterOptions
	namespace string
	image     string
	secrets   []string
	table     string
	address   string
	pins      string
	wait      time.Duration
	timeout   time.Duration
	all       bool
	local     bool
	force     bool
	yes       bool
}

// The defaults of NMI, whose packages do not compile on other systems than Linux.
const (
	defaultTable   = "podid"
	defaultAgentIP = "169.254.171.79"
	defaultPins    = "/sys/fs/bpf/podid"
)

const nodeCleanupLong = `Take what NMI puts on a node off it again: one nftables table, one address on lo, and the
BPF programs of --capture=prefer and require. They outlive NMI on purpose, so that pods are
refused rather than let through to the node's identities. Without them pods reach the real
metadata service.

Uninstall NMI first: while an agent answers on a node, nothing is removed there.

On nodes of the cluster (names, or --all) a short-lived pod does it: NMI's image, in the
node's network, with the capabilities NET_ADMIN and BPF. --local does it on this machine, as root.

Exit codes: 0 no redirect is left; 1 something failed, or was refused.`

const nodeCleanupExample = `  # after helm uninstall
  podid cleanup node --all --image ghcr.io/podid-io/podid/nmi:2.0.0

  # on the node itself, as root
  podid cleanup node --local`

func newNodeCleanupCommand() *cobra.Command {
	o := &nodeCleanupOptions{}
	cmd := &cobra.Command{
		Use:     "node [NAME...]",
		Aliases: []string{"nodes"},
		Short:   "Take NMI's redirect off nodes after an uninstall",
		Long:    nodeCleanupLong,
		Example: nodeCleanupExample,
		RunE:    o.run,
	}
	flags := cmd.Flags()
	o.cluster.bindFlags(cmd)
	flags.BoolVar(&o.all, "all", false, "all Linux nodes of the cluster")
	flags.BoolVar(&o.local, "local", false, "this machine, without a cluster")
	flags.StringVarP(&o.namespace, "namespace", "n", "podid-system", "namespace for the pods; it must allow pods in the node's network")
	flags.StringVar(&o.image, "image", "", "NMI's `image` (default: that of this version)")
	flags.StringSliceVar(&o.secrets, "image-pull-secret", nil, "`name` of a Secret in that namespace to get the image with; may be repeated")
	flags.StringVar(&o.table, "agent-table", defaultTable, "NMI's --agent-table")
	flags.StringVar(&o.address, "agent-address", defaultAgentIP, "NMI's --agent-address")
	flags.StringVar(&o.pins, "bpf-dir", defaultPins, "NMI's --bpf-dir")
	flags.DurationVar(&o.wait, "wait", time.Minute, "how long to wait on a node for an agent that is about to end")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long one node may take")
	flags.BoolVar(&o.force, "force", false, "although an agent answers, which will put the redirect back")
	flags.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return cmd
}

func (o *nodeCleanupOptions) run(cmd *cobra.Command, names []string) error {
	if err := o.validate(names); err != nil {
		return err
	}
	if o.local {
		return o.cleanLocal(cmd)
	}
	if err := o.check(); err != nil {
		return err
	}
	return o.cleanRemote(cmd, names)
}

func (o *nodeCleanupOptions) validate(names []string) error {
	ways := 0
	for _, way := range []bool{len(names) > 0, o.all, o.local} {
		if way {
			ways++
		}
	}
	switch {
	case ways == 0:
		return errors.New("which nodes? Name them, or use --all, or --local for this machine")
	case ways > 1:
		return errors.New("use one of node names, --all and --local")
	case o.wait < 0 || o.timeout <= 0:
		return errors.New("--wait and --timeout must be positive")
	}
	return nil
}

// cleanRemote cleans nodes of the cluster.
func (o *nodeCleanupOptions) cleanRemote(cmd *cobra.Command, names []string) error {
	spec, err := o.spec()
	if err != nil {
		return err
	}
	config, err := o.cluster.config().ClientConfig()
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	config.UserAgent, config.QPS, config.Burst = build.UserAgent("podid"), queries, 2*queries
	cleaner, err := nodecleanup.New(config, spec, o.timeout)
	if err != nil {
		return err
	}
	if o.all {
		if names, err = cleaner.Nodes(cmd.Context()); err != nil {
			return err
		}
	}
	if !o.yes {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "Pods of %d nodes will reach the real metadata service, and with it the nodes' identities: %s\n",
			len(names), strings.Join(names, " "))
		if err := confirm(cmd.InOrStdin(), cmd.ErrOrStderr()); err != nil {
			return err
		}
	}
	return cleaner.Run(cmd.Context(), names, func(r nodecleanup.Result) {
		if r.Err != nil {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", r.Node, r.Err)
			return
		}
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s: no redirect\n", r.Node)
	})
}

func (o *nodeCleanupOptions) spec() (nodecleanup.Spec, error) {
	image := o.image
	if image == "" {
		number, ok := build.Release()
		if !ok {
			return nodecleanup.Spec{}, errors.New("--image is missing: this podid is no release, so it does not know NMI's image; name the one that is installed")
		}
		image = "ghcr.io/podid-io/podid/nmi:" + number
	}
	args := []string{"--agent-table=" + o.table, "--agent-address=" + o.address, "--bpf-dir=" + o.pins}
	if o.force {
		args = append(args, "--force")
	}
	return nodecleanup.Spec{Namespace: o.namespace, Image: image, PullSecrets: o.secrets, Args: args, Wait: o.wait}, nil
}
