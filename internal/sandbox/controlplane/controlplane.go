// Package controlplane defines how the cluster's control plane is started, and waits until it is
// ready.
package controlplane

import (
	"net/netip"
	"path/filepath"

	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/pki"
)

// Config holds what the command lines depend on.
type Config struct {
	API netip.Addr
	// PKI and Data are folders on the machine.
	PKI, Data string
}

// Component is one program with its arguments.
type Component struct {
	Name string
	Args []string
}

// Server returns the API server's URL inside the sandbox.
func Server(api netip.Addr) string { return "https://" + netip.AddrPortFrom(api, 6443).String() }

// Components lists the programs. They may all be started at once: each waits for the one it needs.
// Some exit after ten seconds without it and must be restarted.
func (c Config) Components() []Component {
	return []Component{
		{"etcd", []string{
			"--name=sandbox", "--data-dir=" + filepath.Join(c.Data, "etcd"),
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
			"--initial-cluster=sandbox=http://127.0.0.1:2380",
		}},
		{"kube-apiserver", []string{
			"--etcd-servers=http://127.0.0.1:2379",
			"--advertise-address=" + c.API.String(), "--bind-address=0.0.0.0", "--secure-port=6443",
			"--tls-cert-file=" + c.pki("apiserver.crt"), "--tls-private-key-file=" + c.pki("apiserver.key"),
			"--client-ca-file=" + c.pki("ca.crt"),
			"--kubelet-client-certificate=" + c.pki("kubelet-client.crt"), "--kubelet-client-key=" + c.pki("kubelet-client.key"),
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + c.pki("sa.pub"), "--service-account-signing-key-file=" + c.pki("sa.key"),
			"--service-cluster-ip-range=" + network.ServiceCIDR,
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true", "--profiling=false",
		}},
		{"kube-controller-manager", append(c.clientOf("kcm"),
			"--root-ca-file="+c.pki("ca.crt"), "--service-account-private-key-file="+c.pki("sa.key"),
			"--use-service-account-credentials=true", "--leader-elect=false", "--bind-address=127.0.0.1",
			"--controllers=*,-cloud-node-lifecycle-controller", "--node-monitor-grace-period=16s")},
		{"kube-scheduler", append(c.clientOf("scheduler"),
			"--leader-elect=false", "--bind-address=127.0.0.1")},
	}
}

// WritePKI writes every certificate, key and kubeconfig of the cluster, and those of more clients.
func WritePKI(a *pki.Authority, plan network.Plan, more ...pki.Subject) error {
	api := plan.API.Addr()
	subjects := []pki.Subject{
		{
			File: "apiserver", User: "kube-apiserver",
			DNS: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"},
			IPs: []netip.Addr{serviceIP(), api, netip.MustParseAddr("127.0.0.1")},
		},
		{File: "kubelet-client", User: "apiserver-kubelet-client", Group: "system:masters"},
	}
	clients := []pki.Subject{
		{File: "admin", User: "sandbox-admin", Group: "system:masters"},
		{File: "kcm", User: "system:kube-controller-manager"},
		{File: "scheduler", User: "system:kube-scheduler"},
		{File: "proxy", User: "system:kube-proxy"},
	}
	for _, n := range plan.Nodes {
		clients = append(clients, pki.Subject{
			File: n.Name, User: "system:node:" + n.Name, Group: "system:nodes",
			DNS: []string{n.Name}, IPs: []netip.Addr{n.IP.Addr()},
		})
	}
	clients = append(clients, more...)
	for _, s := range append(subjects, clients...) {
		if err := a.Issue(s); err != nil {
			return err
		}
	}
	for _, s := range clients {
		if err := a.Kubeconfig(s.File, Server(api)); err != nil {
			return err
		}
	}
	return a.ServiceAccountKeys()
}

// serviceIP returns the cluster IP of the service "kubernetes": the first address of the range.
func serviceIP() netip.Addr {
	return netip.MustParsePrefix(network.ServiceCIDR).Addr().Next()
}

func (c Config) clientOf(who string) []string {
	file := c.pki(who + ".kubeconfig")
	return []string{"--kubeconfig=" + file, "--authentication-kubeconfig=" + file, "--authorization-kubeconfig=" + file}
}

func (c Config) pki(file string) string { return filepath.Join(c.PKI, file) }
