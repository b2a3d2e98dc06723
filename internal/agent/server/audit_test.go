package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/imds"
)

// ledger collects an audit log.
type ledger struct {
	*Audit
	dropped atomic.Int64
}

func newLedger(mode AuditMode) *ledger {
	l := &ledger{}
	l.Audit = NewAudit(mode, func() { l.dropped.Add(1) })
	return l
}

// take returns the lines written so far.
func (l *ledger) take(t *testing.T) (lines []auditLine, text string) {
	t.Helper()
	var out bytes.Buffer
	done, cancel := context.WithCancel(context.Background())
	cancel()
	l.Run(done, &out)
	for line := range strings.Lines(out.String()) {
		var a auditLine
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if a.Time.IsZero() || time.Since(a.Time) > time.Minute || a.Seconds < 0 {
			t.Errorf("times of %s", line)
		}
		lines = append(lines, a)
	}
	return lines, out.String()
}

// next returns the next line when it is written.
func (l *ledger) next(t *testing.T) auditLine {
	t.Helper()
	var line auditLine
	text := l.Audit.next()
	for text == nil {
		select {
		case <-l.ready:
			text = l.Audit.next()
		case <-time.After(time.Minute):
			t.Fatal("no line")
		}
	}
	if err := json.Unmarshal(text, &line); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return line
}

// TestAuditStory: who asked for what, what was decided and why, and where the
// token came from; and no secret anywhere.
func TestAuditStory(t *testing.T) {
	l := newLedger(AuditAll)
	w := newWorld(t, func(s *settings) { s.server.Audit = l.Audit })
	w.assign("web", "10.9.0.2", "one")
	w.pod("web", "10.9.0.2", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "web-account" })
	w.pod("old", "10.9.0.4")
	w.except("old")
	w.imds.has("one")
	web, stranger, old := w.listen("10.9.0.2"), w.listen("10.9.0.3"), w.listen("10.9.0.4")

	secrets := []string{"eyJhbGciOi.in-the-wrong-parameter"}
	ask := func(address, target string, headers ...string) {
		got := w.get(address, target, headers...)
		var body struct {
			Token string `json:"access_token"`
		}
		if json.Unmarshal([]byte(got.body), &body) == nil && body.Token != "" {
			secrets = append(secrets, strings.Split(body.Token, ".")[1:]...)
		}
	}
	ask(web, tokenQuery(arm), "X-Ms-Client-Request-Id: 6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	ask(web, tokenQuery(arm), "X-Ms-Client-Request-Id: not\" an id")
	ask(web, tokenQuery(arm, "client_id=somebody-else"))
	ask(web, tokenQuery(secrets[0]))
	ask(stranger, tokenQuery(arm))
	ask(old, tokenQuery(arm, "client_id="+clientID("one")))
	ask(web, "/metadata/attested/document?api-version=2021-02-01")
	ask(web, "/metadata/instance?api-version=2021-02-01")
	ask(web, tokenQuery(arm), "Metadata: ")

	mine := auditLine{
		Log: "audit", Decision: "issued", Status: 200, Namespace: "shop", Pod: "web", UID: "uid-web", ServiceAccount: "web-account",
		Address: "10.9.0.2", Identity: "shop/one", ClientID: "c11e47-o…", Resource: arm, Source: "imds", Token: "minted", RequestID: "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
	}
	with := func(change func(*auditLine)) auditLine {
		l := mine
		l.RequestID, l.Token = "", "cached"
		change(&l)
		return l
	}
	want := []auditLine{
		mine,
		with(func(*auditLine) {}),
		with(func(l *auditLine) {
			l.Decision, l.Status, l.Reason, l.Message, l.Identity, l.ClientID, l.Source, l.Token = "refused", 400, "NoMatch", "Identity not found", "", "", "", ""
		}),
		with(func(l *auditLine) { l.Token, l.Resource = "minted", "[secret]" }),
		{Log: "audit", Decision: "refused", Status: 500, Reason: "CallerUnknown", Address: "10.9.0.3", Resource: arm, Message: "the node agent does not know the pod that asks (yet): try again"},
		{Log: "audit", Decision: "passed on", Status: 200, Reason: "Excepted", Namespace: "shop", Pod: "old", UID: "uid-old", Address: "10.9.0.4", Resource: arm, Source: "imds"},
		{Log: "audit", Decision: "passed on", Status: 200, Namespace: "shop", Pod: "web", UID: "uid-web", ServiceAccount: "web-account", Address: "10.9.0.2", Resource: "/metadata/attested/document", Source: "imds"},
	}
	lines, text := l.take(t)
	if diff := cmp.Diff(want, lines, cmpopts.IgnoreFields(auditLine{}, "Time", "Seconds", "Detail")); diff != "" {
		t.Error(diff)
	}
	if lines[2].Detail == "" || lines[4].Detail == "" {
		t.Errorf("the details for the operator are missing: %s", text)
	}
	if len(secrets) < 7 {
		t.Fatalf("only %d secrets to look for", len(secrets))
	}
	for _, secret := range secrets {
		for i := 0; i+24 < len(secret); i += 24 {
			if strings.Contains(text, secret[i:i+24]) {
				t.Fatalf("a piece of a token is in the log: %s", secret[i:i+24])
			}
		}
	}
	if strings.Contains(text, clientID("one")+`"`) || strings.Contains(text, "in-the-wrong-parameter") {
		t.Errorf("a whole client id or a token in the log: %s", text)
	}
}

func TestAuditChanges(t *testing.T) {
	l := newLedger(AuditChanges)
	now := time.Now()
	r := &http.Request{Header: http.Header{}}
	said := func(reason, resource string) bool {
		res := &result{
			status: 200, began: now, address: addr{Addr: netip.MustParseAddr("10.9.0.2")}, resource: resource, identity: newIdentity("one"), reason: reason,
			caller: attest.Caller{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web"}, UID: "u"},
		}
		if reason != "" {
			res.problem, res.status = &imds.Error{Status: 403, Description: "remedy"}, 403
		} else {
			res.token = newToken()
		}
		l.answered(r, imds.Route{Kind: imds.Token}, res, time.Millisecond)
		n := 0
		for l.Audit.next() != nil {
			n++
		}
		return n == 1
	}
	for _, tt := range []struct {
		reason, resource string
		want             bool
	}{
		{"", "vault", true},
		{"", "vault", false},
		{"", "storage", true},
		{"Quarantined", "a", true},
		{"Quarantined", "b", false}, // a pod cannot fill the log with resources
	} {
		if got := said(tt.reason, tt.resource); got != tt.want {
			t.Errorf("%q, %s: said %v, want %v", tt.reason, tt.resource, got, tt.want)
		}
	}
	now = now.Add(sayAgain)
	if !said("", "vault") {
		t.Error("not said again later")
	}
	for i := range 3 * maxSeen {
		l.worth(decision{status: i}, now)
	}
	if l.n > maxSeen {
		t.Errorf("remembers %d decisions", l.n)
	}
}

// TestAuditNeverWaits: a writer that hangs or fails costs lines, not answers.
func TestAuditNeverWaits(t *testing.T) {
	l := newLedger(AuditAll)
	r := &http.Request{Header: http.Header{}}
	res := &result{status: 200, token: newToken(), began: time.Now()}
	for range maxLines + 10 { // nobody writes
		l.answered(r, imds.Route{Kind: imds.Token}, res, 0)
	}
	if n := l.dropped.Load(); n != 10 {
		t.Errorf("%d lines dropped, want 10", n)
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	l.Run(done, broken{})
	if n := l.dropped.Load(); n != maxLines+10 {
		t.Errorf("%d lines dropped, want all", n)
	}
	off := newLedger(AuditOff)
	off.answered(r, imds.Route{}, res, 0)
	(*Audit)(nil).answered(r, imds.Route{}, res, 0)
	if off.lines.Len() != 0 {
		t.Error("off, and still lines")
	}
}

// TestAuditOfAGreedyNamespace: a namespace that causes more lines than are written costs no other
// one's lines, nor what is remembered of them.
func TestAuditOfAGreedyNamespace(t *testing.T) {
	l := newLedger(AuditChanges)
	now := time.Now()
	say := func(namespace string, i int) {
		name := types.NamespacedName{Namespace: namespace, Name: fmt.Sprint(i % 100)}
		res := &result{
			status: 200, began: now, resource: fmt.Sprint(i), token: newToken(), identity: newIdentity("one"),
			caller: attest.Caller{NamespacedName: name, UID: types.UID(name.String())},
		}
		l.answered(&http.Request{Header: http.Header{}}, imds.Route{Kind: imds.Token}, res, time.Millisecond)
	}
	for i := range 10 {
		say("shop", i)
		for j := range maxSeen {
			say("hostile", i*maxSeen+j)
		}
		say("shop", i) // said before
	}
	shop := 0
	lines, _ := l.take(t)
	for _, line := range lines {
		if line.Namespace == "shop" {
			shop++
		}
	}
	if shop != 10 || len(lines) != maxLines {
		t.Errorf("%d lines, %d of shop; want %d and 10", len(lines), shop, maxLines)
	}
	if int(l.dropped.Load()) != 10*maxSeen+10-maxLines {
		t.Errorf("%d dropped", l.dropped.Load())
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestParseAuditMode(t *testing.T) {
	for text, want := range map[string]AuditMode{"off": AuditOff, "Changes": AuditChanges, "ALL": AuditAll} {
		if got, err := ParseAuditMode(text); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := ParseAuditMode("some"); err == nil || !strings.Contains(err.Error(), "off, changes or all") {
		t.Errorf("got %v", err)
	}
}

// told are the refusals that a pod's people were told of.
type told []string

func (e *told) Refused(pod types.NamespacedName, uid types.UID, reason, message string) {
	*e = append(*e, fmt.Sprintf("%s %s %s: %s", pod, uid, reason, message))
}

// TestRefusalsTold: what somebody can mend is told, and nothing else.
func TestRefusalsTold(t *testing.T) {
	events := &told{}
	w := newWorld(t, func(s *settings) { s.server.Events = events })
	w.assign("web", "10.9.0.2", "one")
	w.pod("unbound", "10.9.0.3")
	w.pod("plain", "10.9.0.4", noLabel)
	web := w.listen("10.9.0.2")
	w.get(web, tokenQuery(arm))
	w.get(web, tokenQuery(arm), "Metadata: ")
	w.get(web, imds.TokenPath)
	w.get(w.listen("10.9.0.4"), tokenQuery(arm))
	w.get(w.listen("10.9.0.5"), tokenQuery(arm))
	if len(*events) != 0 {
		t.Errorf("told: %q", *events)
	}
	w.get(web, tokenQuery(arm, "client_id=12345678-1234-1234-1234-123456789abc"))
	w.get(w.listen("10.9.0.3"), tokenQuery(arm))
	if len(*events) != 2 || !strings.Contains((*events)[0], "shop/web uid-web NoMatch: Identity not found: client") ||
		!strings.Contains((*events)[1], "shop/unbound uid-unbound NoBinding: no AzureIdentityBinding") {
		t.Fatalf("told: %q", *events)
	}
	if strings.Contains((*events)[0], "1234-1234") {
		t.Errorf("a whole client id: %q", *events)
	}
}
