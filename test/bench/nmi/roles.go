// The parts that this program plays when it starts itself: the pods of the node, or the baseline
// server.

package nmi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/test/bench/load"
)

// role is the environment variable that selects the part of this process.
const (
	role     = "PODID_BENCH_ROLE"
	rolePods = "pods"
	roleBare = "bare"
)

// inherits is the environment variable of a bare server that gets its listener.
const inherits = "PODID_BENCH_LISTENER"

func play(ctx context.Context, part string, stdin io.Reader, stdout io.Writer) error {
	var err error
	switch part {
	case rolePods:
		err = pods(ctx, stdin, stdout)
	case roleBare:
		err = bare(ctx, stdin, stdout)
	default:
		err = fmt.Errorf("%s=%q: no such part", role, part)
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	return nil // an error after the end of ctx is that of being ended
}

// order is an instruction to the pods, one JSON object each. They reply with an answer.
type order struct {
	// Addresses configures the network namespace with these addresses, of one prefix, and a gateway.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateway   netip.Addr     `json:"gateway,omitzero"`
	// Loopback switches on the namespace's loopback device.
	Loopback bool `json:"loopback,omitempty"`
	// Load sends requests.
	Load *load.Spec `json:"load,omitempty"`
}

type answer struct {
	Result load.Result `json:"result"`
	Error  string      `json:"error,omitempty"`
}

// pods acts as the pods of the node: one network namespace with the addresses of all of them.
func pods(ctx context.Context, orders io.Reader, answers io.Writer) error {
	in, out := json.NewDecoder(orders), json.NewEncoder(answers)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read an order: %w", err)
		}
		var a answer
		var err error
		switch {
		case o.Load != nil:
			a.Result, err = load.Run(ctx, *o.Load)
		case o.Loopback:
			err = loopback()
		default:
			err = configure(o.Addresses, o.Gateway)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// loopback sets up the existing lo.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	return morePorts()
}

// morePorts allows many new connections per second, which need more ports than the default.
func morePorts() error {
	return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("1024 65535"), 0)
}

// configure sets up the existing eth0.
func configure(addresses []netip.Prefix, gateway netip.Addr) error {
	link, err := netlink.LinkByName(podLink)
	if err != nil {
		return fmt.Errorf("find %s: %w", podLink, err)
	}
	for _, a := range addresses {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), 32)}}); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up %s: %w", podLink, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("add the default route: %w", err)
	}
	return morePorts()
}

// The address of the bare server and its redirect, so that its requests take the same path as those
// to NMI.
const (
	bareMetadata = "169.254.172.1"
	bareAgent    = "169.254.171.80"
	bareTable    = "bench-bare"
	barePort     = 2580
)

// bare is the baseline: a net/http server without any decisions. It reports when it is ready, and
// replies with the text read from body.
func bare(ctx context.Context, body io.Reader, ready io.Writer) error {
	text, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read the answer to give: %w", err)
	}
	l, err := bareListener(ctx)
	if err != nil {
		return err
	}
	contentType, contentLength := []string{"application/json; charset=utf-8"}, []string{strconv.Itoa(len(text))}
	text = bytes.Clone(text)
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h["Content-Type"], h["Content-Length"] = contentType, contentLength
			_, _ = w.Write(text) // an error means that the client has disconnected
		}),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if _, err := io.WriteString(ready, "ready\n"); err != nil {
		return fmt.Errorf("say that it is ready: %w", err)
	}
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// bareListener returns the listener that this process was started with, or one behind a redirect.
func bareListener(ctx context.Context) (net.Listener, error) {
	if os.Getenv(inherits) != "" {
		const first = 3
		l, err := net.FileListener(os.NewFile(first, "listener"))
		if err != nil {
			return nil, fmt.Errorf("use the listener: %w", err)
		}
		return l, nil
	}
	r, err := redirect.New(redirect.Config{
		MetadataIP: netip.MustParseAddr(bareMetadata), MetadataPort: redirect.DefaultMetadataPort,
		AgentIP: netip.MustParseAddr(bareAgent), AgentPort: barePort, Table: bareTable,
	})
	if err != nil {
		return nil, err
	}
	l, err := r.Listen(ctx)
	if err == nil {
		err = r.Ensure(ctx)
	}
	return l, err
}
