// The flags of what needs privileges. The agent and the holder take the same.

package privileged

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"time"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/hook/netns"
)

// The ways of --capture.
const (
	CaptureWire    = "wire"
	CapturePrefer  = "prefer"
	CaptureRequire = "require"
)

// The values of --host-network-pods: which pods on the node's network are captured.
const (
	// HostPodsOff captures none.
	HostPodsOff = "off"
	// HostPodsLabel captures those with the label v1.CaptureHostNetworkLabel.
	HostPodsLabel = "label"
	// HostPodsBound captures those with a value of the label v1.BindingLabel.
	HostPodsBound = "bound"
)

// DefaultFolder is where the holder listens for its agent.
const DefaultFolder = "/run/podid/holder"

// DefaultPins is the default of --bpf-dir.
const DefaultPins = "/sys/fs/bpf/podid"

// Options configure the redirect, and how requests are captured inside pods.
type Options struct {
	metadataIP   string
	metadataPort int
	agentAddress string
	table        string
	interval     int
	wireServer   bool // closed for pods

	// Way is the value of --capture.
	Way string
	// HostPods is the value of --host-network-pods. The agent chooses the pods. To the holder it only
	// matters whether it is HostPodsOff.
	HostPods string
	address  string
	// Where things are on the node.
	groups, namespaces, pins, lock string
}

// BindFlags adds the flags.
func (o *Options) BindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.metadataIP, "metadata-ip", redirect.DefaultMetadataIP, "`address` of the instance metadata service")
	flags.IntVar(&o.metadataPort, "metadata-port", redirect.DefaultMetadataPort, "`port` of the instance metadata service")
	flags.StringVar(&o.agentAddress, "agent-address", redirect.DefaultAgentIP, "link-local `address` that nmi adds to lo and listens on; requests of pods are redirected there")
	flags.StringVar(&o.table, "agent-table", redirect.DefaultTable, "`name` of the nftables table that nmi owns")
	flags.BoolVar(&o.wireServer, "block-wireserver", true, "keep Azure's WireServer (168.63.129.16, TCP ports 80 and 32526), which has the machine's certificates and secrets, from pods")
	flags.IntVar(&o.interval, "ipt-update-interval-sec", 60, "`seconds` between two checks of the redirect; changes are corrected at once")
	flags.StringVar(&o.Way, "capture", "",
		"how requests of pods reach nmi: wire (nftables), prefer (inside pods where the node can, and nftables behind it), or require (inside pods only; others are refused). The last two need root, or a holder (--holder). "+
			"By default prefer on a machine's own network, and wire in any other network namespace: such a node may be one of several on its machine")
	flags.StringVar(&o.address, "capture-address", "127.0.0.1:64579",
		"loopback `address` and port in pods' network where nmi listens; if a pod uses the port, one of the next")
	flags.StringVar(&o.HostPods, "host-network-pods", HostPodsOff,
		"with --capture=prefer or require, which pods on the node's network are captured, too: off, label (those with aadpodidentity.k8s.io/capture-host-network=true), "+
			"or bound (those with the label aadpodidbinding); all others keep the machine's own metadata service")
	flags.StringVar(&o.groups, "cgroup-dir", "/sys/fs/cgroup", "`folder` where the node's control groups are mounted")
	flags.StringVar(&o.namespaces, "netns-dir", "/run/netns", "`folder` in which the container runtime keeps network namespaces")
	flags.StringVar(&o.pins, "bpf-dir", DefaultPins, "`folder` for pins in a BPF file system, which nmi makes")
	flags.StringVar(&o.lock, "holder-lock", "/run/podid/holders.lock", "`file` that the agents of a node share: one of two that run at once serves the pods that start")
}

// Complete sets what depends on where this process runs: the default of --capture. In a network
// namespace that is not the machine's first one, the control groups of pods that it sees may be
// those of another node.
func (o *Options) Complete() {
	if o.Way != "" {
		return
	}
	o.Way = CapturePrefer // where that cannot be found out, the attempt says why
	if first, err := netns.IsFirst(); err == nil && !first {
		o.Way = CaptureWire
	}
}

// Validate returns all mistakes, joined. port is where the agent listens.
func (o *Options) Validate(port int) error {
	return errors.Join(o.ValidateRedirect(port), o.validateCapture())
}

// ValidateRedirect is Validate for programs that capture nothing.
func (o *Options) ValidateRedirect(port int) error {
	var err1, err2 error
	if o.metadataPort <= 0 || o.metadataPort > 65535 {
		err1 = fmt.Errorf("--metadata-port=%d is not a port: use a number from 1 to 65535", o.metadataPort)
	}
	if o.interval <= 0 {
		err2 = fmt.Errorf("--ipt-update-interval-sec=%d: must be more than 0", o.interval)
	}
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	_, err := o.Redirect(port)
	return err
}

func (o *Options) validateCapture() error {
	var way, address error
	if o.Way != CaptureWire && o.Way != CapturePrefer && o.Way != CaptureRequire {
		way = fmt.Errorf("--capture=%q: use %s, %s or %s", o.Way, CaptureWire, CapturePrefer, CaptureRequire)
	}
	if at, err := netip.ParseAddrPort(o.address); err != nil || !at.Addr().Is4() || !at.Addr().IsLoopback() || at.Port() == 0 {
		address = fmt.Errorf("--capture-address=%q: use an IPv4 loopback address and a port, such as 127.0.0.1:64579", o.address)
	}
	return errors.Join(way, address, o.validateHostPods())
}

func (o *Options) validateHostPods() error {
	switch o.HostPods {
	case HostPodsOff:
	case HostPodsLabel, HostPodsBound:
		if o.Way == CaptureWire {
			return fmt.Errorf("--host-network-pods=%s needs --capture=%s or %s", o.HostPods, CapturePrefer, CaptureRequire)
		}
	default:
		return fmt.Errorf("--host-network-pods=%q: use %s, %s or %s", o.HostPods, HostPodsOff, HostPodsLabel, HostPodsBound)
	}
	return nil
}

// Redirect returns the configuration of the redirect to the port that the agent listens on.
func (o *Options) Redirect(port int) (redirect.Config, error) {
	metadata, err1 := netip.ParseAddr(o.metadataIP)
	if err1 != nil {
		err1 = fmt.Errorf("--metadata-ip=%q is not an IP address", o.metadataIP)
	}
	agent, err2 := netip.ParseAddr(o.agentAddress)
	if err2 != nil {
		err2 = fmt.Errorf("--agent-address=%q is not an IP address", o.agentAddress)
	}
	c := redirect.Config{
		MetadataIP: metadata, MetadataPort: uint16(o.metadataPort & 0xffff),
		AgentIP: agent, AgentPort: uint16(port & 0xffff), Table: o.table, BlockWireServer: o.wireServer,
	}
	if err := errors.Join(err1, err2); err != nil {
		return c, err
	}
	return c, c.Validate()
}

// Interval returns the time between two checks of the redirect.
func (o *Options) Interval() time.Duration { return time.Duration(o.interval) * time.Second }

// Closed returns the services that pods never reach.
func (o *Options) Closed() []netip.AddrPort {
	if !o.wireServer {
		return nil
	}
	return redirect.WireServer()
}

// Upstream returns the address and port of the metadata service.
func (o *Options) Upstream() string { return o.metadata().String() }

func (o *Options) metadata() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(o.metadataIP), uint16(o.metadataPort&0xffff))
}

// Groups returns the folder where the node's control groups are mounted.
func (o *Options) Groups() string { return o.groups }

// Pins returns the folder of the pins in a BPF file system.
func (o *Options) Pins() string { return o.pins }

// CleanupArgs returns the flags that a cleanup of another node needs.
func (o *Options) CleanupArgs() []string {
	return []string{"--agent-table=" + o.table, "--agent-address=" + o.agentAddress, "--bpf-dir=" + o.pins}
}
