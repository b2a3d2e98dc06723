// The node: its API server, its metadata service, its pods, and NMI.

package nmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/stage"
)

const (
	nodeName = "node-0"
	nodeLink = "pods"
	podLink  = "eth0"
	prefix   = 16
	// requestTime bounds a single request.
	requestTime = 10 * time.Second
)

func gateway() netip.Addr { return netip.MustParseAddr("10.244.0.1") }

// podAddress returns the address of the i-th pod.
func podAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, byte(1 + i/250), byte(1 + i%250)}) //nolint:gosec // below 250
}

// podAddresses returns the addresses of the first n pods.
func podAddresses(n int) (list []netip.Addr) {
	for i := range n {
		list = append(list, podAddress(i))
	}
	return list
}

// node is what rows are measured on:
//
//	pods 10.244.1.1, 10.244.1.2 … ── eth0 ──── pods 10.244.0.1 ── the node: lo 169.254.169.254 (the emulated metadata
//	                                                              service), 127.0.0.1 (API server), NMI behind its redirect
type node struct {
	stage      *stage.Stage
	options    options
	kubeconfig string
	pods       *sender
	turned     int // how many holders were started
}

// newNode prepares everything except NMI.
func (b *bench) newNode(ctx context.Context) (_ *node, err error) {
	s, err := stage.New(b.options.logs)
	if err != nil {
		return nil, err
	}
	n := &node{stage: s, options: b.options}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Remove())
		}
	}()
	if err := addMetadataAddress(); err != nil {
		return nil, err
	}
	err = s.StartAzure(filepath.Join(b.options.Bin, "podid"), azure(), "--imds-address="+net.JoinHostPort(redirect.DefaultMetadataIP, "80"))
	if err != nil {
		return nil, err
	}
	if err := s.StartKubernetes(ctx); err != nil {
		return nil, err
	}
	if n.kubeconfig, err = s.ServiceAccount(ctx, "podid", "nmi"); err != nil {
		return nil, err
	}
	if err := n.startPods(); err != nil {
		return nil, err
	}
	return n, n.fill(ctx)
}

// addMetadataAddress puts the metadata service's address on this namespace's loopback device.
func addMetadataAddress() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		var a *netlink.Addr
		if a, err = netlink.ParseAddr(redirect.DefaultMetadataIP + "/32"); err == nil {
			err = netlink.AddrReplace(lo, a)
		}
	}
	if err != nil {
		return fmt.Errorf("put %s on lo: %w", redirect.DefaultMetadataIP, err)
	}
	return nil
}

// startPods creates the pods' namespace and connects it to the node.
func (n *node) startPods() (err error) {
	if n.pods, err = n.startSender(nil); err != nil {
		return err
	}
	if old, err := netlink.LinkByName(nodeLink); err == nil {
		_ = netlink.LinkDel(old) // left by an earlier node
	}
	link, err := n.pods.join(nodeLink)
	if err != nil {
		return err
	}
	if err := errors.Join(
		netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: gateway().AsSlice(), Mask: net.CIDRMask(prefix, 32)}}),
		netlink.LinkSetUp(link),
		// By default the kernel tracks closed connections for two minutes, and there are many.
		os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait", []byte("5"), 0),
	); err != nil {
		return fmt.Errorf("prepare the node's network: %w", err)
	}
	var addresses []netip.Prefix
	for i := range manyPods + maxMoments {
		addresses = append(addresses, netip.PrefixFrom(podAddress(i), prefix))
	}
	_, err = n.pods.order(order{Addresses: addresses, Gateway: gateway()})
	return err
}

func (n *node) order(o order) (load.Result, error) { return n.pods.order(o) }

const resource = "https://management.azure.com/"

// request returns the request of the pods.
func request(host, resource string) string {
	return "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + resource + " HTTP/1.1\r\n" +
		"Host: " + host + "\r\nMetadata: true\r\nUser-Agent: azsdk-go-azidentity/v1.15.0 (go1.26; linux)\r\nAccept: application/json\r\n\r\n"
}

// toNMI returns s with the request and target for NMI.
func toNMI(s load.Spec) load.Spec {
	s.Target = netip.AddrPortFrom(netip.MustParseAddr(redirect.DefaultMetadataIP), redirect.DefaultMetadataPort)
	s.Request = request(redirect.DefaultMetadataIP, resource)
	return s
}

func toBare(s load.Spec) load.Spec {
	s.Target = netip.AddrPortFrom(netip.MustParseAddr(bareMetadata), redirect.DefaultMetadataPort)
	s.Request = request(bareMetadata, resource)
	return s
}

// send makes the pods send, and fails if a request does.
func (n *node) send(s load.Spec) (load.Result, error) { return n.pods.send(s) }

// nmiProgram is a running NMI.
type nmiProgram struct {
	*stage.Program
	probe string
}

// startNMI starts NMI with its default flags, except for the node and the API server, and waits
// until it is ready. offset moves its ports, because two instances on one node cannot share the
// default ones.
func (n *node) startNMI(ctx context.Context, offset int, env ...string) (*nmiProgram, error) {
	return n.startNMIWith(ctx, offset, nil, env...)
}

// startNMIWith is startNMI with more flags.
func (n *node) startNMIWith(ctx context.Context, offset int, flags []string, env ...string) (*nmiProgram, error) {
	args := []string{
		"--node=" + nodeName, "--kubeconfig=" + n.kubeconfig,
		"--http-probe-port=" + strconv.Itoa(8080+offset), "--prometheus-port=" + strconv.Itoa(9090+offset),
	}
	if n.options.Profile != "" && offset == 0 {
		args = append(args, "--enableProfile")
	}
	p, err := n.stage.Start(stage.Launch{
		Name: "nmi", Path: filepath.Join(n.options.Bin, "nmi"), Args: slices.Concat(args, flags, n.options.nmiFlags), Env: env,
	})
	if err != nil {
		return nil, err
	}
	running := &nmiProgram{Program: p, probe: fmt.Sprintf("http://127.0.0.1:%d", 8080+offset)}
	return running, p.Until(ctx, running.probe+"/readyz", "ok")
}

// withNMI starts NMI, calls f, and stops NMI.
func (n *node) withNMI(ctx context.Context, f func(*nmiProgram) error, env ...string) error {
	p, err := n.startNMI(ctx, 0, env...)
	if err == nil {
		err = f(p)
	}
	if p != nil {
		err = errors.Join(err, p.Stop(syscall.SIGTERM))
	}
	return err
}

// withBare starts the baseline server, which responds with that body. It listens behind a redirect
// of its own, or on the listener that it gets.
func (n *node) withBare(body string, procs int, f func(*stage.Program) error, listener ...*os.File) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	env := []string{role + "=" + roleBare, "GOMAXPROCS=" + strconv.Itoa(procs)}
	if len(listener) > 0 {
		env = append(env, inherits+"=yes")
	}
	p, err := n.stage.Start(stage.Launch{
		Name: roleBare, Path: self, Args: []string{"nmi"}, Env: env, Talks: true, Files: listener,
	})
	if err != nil {
		return err
	}
	if _, err = p.In().Write([]byte(body)); err == nil {
		if err = p.CloseIn(); err == nil {
			_, err = p.Out().ReadString('\n')
		}
	}
	if err == nil {
		err = f(p)
	} else {
		err = fmt.Errorf("start the bare server: %w: %s", err, p.Tail())
	}
	return errors.Join(err, p.Stop(syscall.SIGTERM))
}
