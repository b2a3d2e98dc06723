// The endpoint for processes of the host, and its protection from others.

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/podid-io/podid/internal/testnet"
)

// TestHostEndpoint: the endpoint is reachable from the node only.
func TestHostEndpoint(t *testing.T) {
	n := newFarNode(t)
	n.connect()
	n.start().says("serving the host")
	n.probe("/readyz", 200, "ok")
	hostToken := "/host/token?resource=https%3A%2F%2Fvault.azure.net"
	if status, _, err := n.get(n.node.node, "127.0.0.1:2579", "/healthz"); err != nil || status != 200 {
		t.Fatalf("the node itself: %d %v", status, err)
	}
	for _, from := range []struct {
		name string
		net  *testnet.Net
	}{{"pod", n.web}, {"another machine", n.outside}} {
		// The node's addresses, the agent's, and the node's loopback by a route of the pod.
		for _, to := range []string{"10.0.0.4:2579", "10.244.0.1:2579", "169.254.171.79:2579", "127.0.0.1:2579"} {
			t.Run(fmt.Sprint(from.name, " to ", to), func(t *testing.T) {
				if status, body, err := n.get(from.net, to, hostToken); !errors.Is(err, syscall.ECONNREFUSED) &&
					!errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
					t.Errorf("got %d %s %v, want no connection", status, body, err)
				}
			})
		}
	}
	// The redirect leads to the agent's listener for pods, which does not serve that path.
	if status, body, err := n.get(n.web, metadataService, hostToken); err != nil || status != 404 {
		t.Errorf("through the redirect: %d %s %v, want 404", status, body, err)
	}
}

// TestHostPort: a pod whose host port equals the port of the endpoint gets what is sent to the node
// there, and nothing that is sent to the endpoint.
func TestHostPort(t *testing.T) {
	n := newFarNode(t)
	n.connect()
	n.serveIn(n.web, "10.244.0.2:2579", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	}))
	n.start().says("serving the host")
	n.probe("/readyz", 200, "ok")
	n.hostPort(netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.244.0.2"), 2579)

	hostToken := "/host/token?resource=https%3A%2F%2Fvault.azure.net"
	if status, body, err := n.get(n.outside, "10.0.0.4:2579", hostToken); err != nil || status != http.StatusTeapot {
		t.Errorf("from outside: %d %s %v, want the pod's own answer", status, body, err)
	}
	if status, body, err := n.getWithin(2*time.Second, n.web, "10.0.0.4:2579", hostToken); err == nil && status != http.StatusTeapot {
		t.Errorf("from the pod itself: %d %s, want its own answer or none", status, body)
	}
	if status, _, err := n.get(n.node.node, "127.0.0.1:2579", "/healthz"); err != nil || status != 200 {
		t.Errorf("from the node: %d %v, want the agent", status, err)
	}
}

// hostPort forwards a port of the node to a pod, as network plugins do.
func (n *farNode) hostPort(node, pod netip.Addr, port uint16) {
	n.t.Helper()
	table := &nftables.Table{Name: "hostport", Family: nftables.TableFamilyIPv4}
	chain := &nftables.Chain{
		Name: "ports", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	}
	changeTables(n.t, n.node.node, func(c *nftables.Conn) {
		c.AddTable(table)
		c.AddChain(chain)
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}, // the receiver's address
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: node.AsSlice()},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syscall.IPPROTO_TCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // and port
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
			&expr.Immediate{Register: 1, Data: pod.AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: syscall.AF_INET, RegAddrMin: 1},
		}})
	})
}

// TestHostEndpointExposed: if the endpoint is on an address that pods reach, only loopback gets
// tokens.
func TestHostEndpointExposed(t *testing.T) {
	n := newFarNode(t)
	n.connect()
	p := n.start("--nmi-listen-address=10.0.0.4")
	p.says("serving the host")
	for _, from := range []*testnet.Net{n.web, n.outside} {
		if status, body, err := n.get(from, "10.0.0.4:2579", "/host/token?resource=https%3A%2F%2Fvault.azure.net"); err != nil || status != 403 {
			t.Errorf("got %d %s %v, want 403", status, body, err)
		}
	}
}

// hostGet requests the token of a pod as a process of the host does: over TCP, or over the Unix
// socket if the address is a path.
func (n *node) hostGet(address, pod string, headers ...string) (int, string, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		if filepath.IsAbs(address) {
			return new(net.Dialer).DialContext(ctx, "unix", address)
		}
		err = n.node.Do(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, "tcp4", address)
			return err
		})
		return conn, err
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, "http://localhost/host/token/?resource=https%3A%2F%2Fvault.azure.net", nil)
	if err != nil {
		return 0, "", err
	}
	for _, h := range append(headers, "podname: "+pod, "podns: shop") {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := (&http.Client{Transport: transport, Timeout: atMost}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// TestHostTokens: the host gets the token of a pod whose volumes are being mounted, of one on the
// node's own network, and of a running one, over TCP and over the Unix socket, which only root may
// use. Without TCP, a pod's probe gets the same answer whichever pod it names.
func TestHostTokens(t *testing.T) {
	n := newNode(t)
	for _, pod := range []string{"web", "mounting"} {
		n.grant(pod)
	}
	n.pod("web", "10.244.0.2", "Running")
	n.kube.apply("pods", "v1", "Pod", "mounting", map[string]any{
		"spec": map[string]any{"nodeName": "node-1", "containers": []any{}}, "status": map[string]any{"phase": "Pending"},
	}, map[string]any{"aadpodidbinding": "mounting"})
	n.kube.apply("pods", "v1", "Pod", "hostnet", map[string]any{
		"spec":   map[string]any{"nodeName": "node-1", "hostNetwork": true, "containers": []any{}},
		"status": map[string]any{"phase": "Running", "podIP": "10.244.0.1", "hostIP": "10.244.0.1"},
	}, map[string]any{"aadpodidbinding": "web"}) // MIC writes no assigned identity for it
	socket := filepath.Join(t.TempDir(), "podid", "host.sock")
	older := n.start("--host-token-socket=" + socket)
	n.probe("/readyz", 200, "ok")
	older.says(`"serving the host" address=` + socket)
	const tcp = "127.0.0.1:2579"
	for _, address := range []string{tcp, socket} {
		for _, pod := range []string{"web", "mounting", "hostnet"} {
			if status, body, err := n.hostGet(address, pod); err != nil || status != 200 || !strings.Contains(body, `"clientid":"11111111-`) {
				t.Errorf("%s at %s: %d %s %v", pod, address, status, body, err)
			}
		}
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's file: %v, %v", info, err)
	}

	// The next agent gets the socket, and serves no tokens over TCP.
	newer := n.start("--host-token-socket="+socket, "--host-token-tcp=false")
	newer.says(saysPlaced)
	older.stop(syscall.SIGTERM)
	if status, body, err := n.hostGet(socket, "web"); err != nil || status != 200 {
		t.Errorf("over the socket of the next agent: %d %s %v", status, body, err)
	}
	_, want, _ := n.hostGet(tcp, "nothing")
	for _, pod := range []string{"web", "mounting"} {
		if status, body, err := n.hostGet(tcp, pod, "User-Agent: x"); err != nil || status != 404 || body != want {
			t.Errorf("%s with TCP off: %d %s %v", pod, status, body, err)
		}
	}
	if status, _, err := n.get(n.node, tcp, "/healthz"); err != nil || status != 200 {
		t.Errorf("the old probe: %d %v", status, err)
	}
}
