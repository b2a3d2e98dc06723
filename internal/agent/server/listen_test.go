package server

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/observe"
)

// caller is a listener whose connections come from the addresses told.
type caller struct {
	net.Listener
	from chan netip.Addr
}

func (l caller) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return pretendConn{c, <-l.from}, nil
}

func TestSlowHeaderIsCut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	t.Parallel()
	w := newWorld(t, nil)
	c, err := net.Dial("tcp", w.listen("10.9.0.2"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "GET /metadata/instance HTTP/1.1\r\nMetadata: tr"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(readHeaderTime + 10*time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection was kept: %v", err)
	}
}

func TestAudit(t *testing.T) {
	var out bytes.Buffer
	a := newAudit(observe.NewLogger(&out, observe.FormatText, 0))
	id := newIdentity("one")
	id.Spec.ClientID = "12345678-secret-rest"
	now := time.Now()
	say := func(reason, resource string) string {
		out.Reset()
		res := &result{
			status: 200, began: now, address: addr{Addr: netip.MustParseAddr("10.9.0.2")}, resource: resource, identity: id, reason: reason,
			caller: attest.Caller{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web"}, UID: "u"},
		}
		if reason != "" {
			res.problem, res.status = &imds.Error{Status: 403, Description: "remedy"}, 403
		}
		a.token(res, time.Millisecond)
		return out.String()
	}
	line := say("", "vault")
	for _, want := range []string{"token issued", "pod=shop/web", "identity=shop/one", "clientID=12345678…", "resource=vault", "address=10.9.0.2"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
	if strings.Contains(line, "secret-rest") {
		t.Errorf("the whole client id: %s", line)
	}
	if line := say("", "vault"); line != "" {
		t.Errorf("said again: %s", line)
	}
	if line := say("", "storage"); line == "" {
		t.Error("another resource: nothing said")
	}
	if line := say("Quarantined", "a"); !strings.Contains(line, "remedy") || !strings.Contains(line, "reason=Quarantined") {
		t.Errorf("refusal: %s", line)
	}
	if line := say("Quarantined", "b"); line != "" {
		t.Errorf("a pod can fill the log with resources: %s", line)
	}
	now = now.Add(sayAgain)
	if line := say("", "vault"); line == "" {
		t.Error("not said again later")
	}
	for i := range 3 * maxSeen {
		a.worth(decision{status: i}, now)
	}
	if len(a.seen) > maxSeen {
		t.Errorf("remembers %d decisions", len(a.seen))
	}
}
