// Azure's Guest Proxy Agent on the node (Metadata Security Protocol).

package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/podid-io/podid/internal/hook/hooktest"
)

// guestProxy is a proxy on the node. A program above the pods' control group sends there what
// connects to the metadata service. The service answers only what the proxy has signed.
type guestProxy struct {
	n                *planeNode
	signed, unsigned atomic.Int64 // requests at the metadata service
}

const (
	proxyAddress = "127.0.0.1:3080"
	proxyHeader  = "X-Ms-Azure-Signature"
)

func signature(r *http.Request) string {
	code := hmac.New(sha256.New, []byte("key"))
	_, _ = code.Write([]byte(r.Method + r.URL.RequestURI()))
	return hex.EncodeToString(code.Sum(nil))
}

func newGuestProxy(n *planeNode) *guestProxy {
	p := &guestProxy{n: n}
	n.admits = func(r *http.Request) bool {
		ok := hmac.Equal([]byte(r.Header.Get(proxyHeader)), []byte(signature(r)))
		if ok {
			p.signed.Add(1)
		} else {
			p.unsigned.Add(1)
		}
		return ok
	}
	n.serve(proxyAddress, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: metadataService})
			r.Out.Header.Set(proxyHeader, signature(r.In))
		},
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = n.node.node.Do(func() error { c, err = new(net.Dialer).DialContext(ctx, network, address); return err })
			return c, err
		}},
	})
	return p
}

// attach puts the program on the control group above that of the pods, the node's processes and the
// agent.
func (p *guestProxy) attach(t *testing.T) {
	t.Helper()
	const ip, port = 4, 24 // in the struct bpf_sock_addr
	word := func(b ...byte) int32 { return int32(binary.NativeEndian.Uint32(b)) }
	half := func(n uint16) int32 { return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))) }
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "guestproxy", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, ip, asm.Word), asm.JNE.Imm32(asm.R2, word(169, 254, 169, 254), "end"),
			asm.LoadMem(asm.R2, asm.R1, port, asm.Word), asm.JNE.Imm32(asm.R2, half(80), "end"),
			asm.Mov.Imm(asm.R2, word(127, 0, 0, 1)), asm.StoreMem(asm.R1, ip, asm.R2, asm.Word),
			asm.Mov.Imm(asm.R2, half(3080)), asm.StoreMem(asm.R1, port, asm.R2, asm.Word),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("end"), asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	l, err := link.AttachCgroup(link.CgroupOptions{Path: p.n.top, Attach: ebpf.AttachCGroupInet4Connect, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// TestGuestProxy: with a Guest Proxy Agent on the node, pods get their tokens, and it signs what
// the node and the agent ask for, whichever came first. Without an agent, pods are refused.
func TestGuestProxy(t *testing.T) {
	for name, first := range map[string]bool{"before the agent": true, "after the agent": false} {
		t.Run(name, func(t *testing.T) {
			n := newPlaneNode(t, "routed")
			proxy := newGuestProxy(n)
			n.group = hooktest.Group(t, n.top, "kubepods", "pod00000000-0000-4000-8000-0000000000ff", "nmi")
			expect := func(who string, caller hooktest.Caller, want string) {
				t.Helper()
				if got := n.tries(t, waysIn{caller: caller, ways: []string{"connect"}})["connect"]; got != want {
					t.Errorf("%s: %s, want %s", who, got, want)
				}
			}
			pod, node := hooktest.Caller{In: n.web, Group: n.groupWeb}, hooktest.Caller{In: n.node.node, Group: n.system}
			if first {
				proxy.attach(t)
				expect("the pod without an agent", pod, refusedAt)
			}
			n.start(append(n.flags(), "--capture=require")...)
			n.probe("/readyz", 200, "ok")
			if !first {
				proxy.attach(t)
			}
			expect("the node", node, ofNode)
			before := proxy.signed.Load()
			expect("the pod", pod, ofWeb)
			if proxy.signed.Load() == before {
				t.Error("the agent's own request is not signed")
			}
			if got := proxy.unsigned.Load(); got > 0 {
				t.Errorf("%d requests at the metadata service are not signed", got)
			}
		})
	}
}

// TestExclusiveProgram: where a program above the pods' control group excludes others, NMI is not
// ready, and says why.
func TestExclusiveProgram(t *testing.T) {
	n := newInPods(t)
	group := filepath.Join(n.top, "kubepods")
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	attachExclusively(t, n.top, program)
	n.start(append(n.flags(), "--capture=require")...)
	n.probe("/readyz", 503, "no program on a group above that excludes others")
	n.probe("/readyz", 503, group)
}

// attachExclusively puts a program on a control group so that none may be on groups below.
func attachExclusively(t *testing.T, folder string, program *ebpf.Program) {
	t.Helper()
	at := link.RawAttachProgramOptions{Program: program, Attach: ebpf.AttachCGroupInet4Connect}
	group, err := os.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	at.Target = int(group.Fd())
	if err := link.RawAttachProgram(at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: at.Target, Program: program, Attach: at.Attach})
		if err != nil {
			t.Error(err)
		}
		_ = group.Close()
	})
}
