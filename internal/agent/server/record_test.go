package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/agent/audit"
	"github.com/podid-io/podid/internal/agent/imds"
)

// auditLine is the documented format of a line of the audit log.
type auditLine struct {
	Time           time.Time `json:"time"`
	Log            string    `json:"log"`
	Decision       string    `json:"decision"`
	Status         int       `json:"status"`
	Reason         string    `json:"reason"`
	Message        string    `json:"message"`
	Detail         string    `json:"detail"`
	Namespace      string    `json:"namespace"`
	Pod            string    `json:"pod"`
	UID            string    `json:"uid"`
	ServiceAccount string    `json:"serviceAccount"`
	Address        string    `json:"address"`
	Endpoint       string    `json:"endpoint"`
	Identity       string    `json:"identity"`
	ClientID       string    `json:"clientID"`
	Resource       string    `json:"resource"`
	Source         string    `json:"source"`
	Token          string    `json:"token"`
	RequestID      string    `json:"requestID"`
	Seconds        float64   `json:"seconds"`
}

// auditLog is an audit log that is written to memory.
type auditLog struct {
	*audit.Log
	mu   sync.Mutex
	text bytes.Buffer
}

func newAuditLog(mode audit.Mode) *auditLog { return &auditLog{Log: audit.New(mode, func() {})} }

func (l *auditLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// next waits for the next line.
func (l *auditLog) next(t *testing.T) (line auditLine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go l.Run(ctx, writerFunc(func(text []byte) {
		if err := json.Unmarshal(text, &line); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		cancel()
	}))
	<-ctx.Done()
	return line
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// lines returns the lines so far.
func (l *auditLog) lines(t *testing.T) (lines []auditLine, text string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.Run(ctx, l)
	for text := range strings.Lines(l.text.String()) {
		var line auditLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if line.Time.IsZero() || time.Since(line.Time) > time.Minute || line.Seconds < 0 {
			t.Errorf("times of %s", text)
		}
		lines = append(lines, line)
	}
	return lines, l.text.String()
}

// TestAuditStory: the log has who asked for what, what was decided and why, and where the token
// came from, but no secret.
func TestAuditStory(t *testing.T) {
	l := newAuditLog(audit.All)
	w := newWorld(t, func(s *settings) { s.server.Audit = l.Log })
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

	first := auditLine{
		Log: "audit", Decision: "issued", Status: 200, Namespace: "shop", Pod: "web", UID: "uid-web", ServiceAccount: "web-account",
		Address: "10.9.0.2", Identity: "shop/one", ClientID: "c11e47-o…", Resource: arm, Source: "imds", Token: "minted", RequestID: "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
	}
	with := func(change func(*auditLine)) auditLine {
		l := first
		l.RequestID, l.Token = "", "cached"
		change(&l)
		return l
	}
	want := []auditLine{
		first,
		with(func(*auditLine) {}),
		with(func(l *auditLine) {
			l.Decision, l.Status, l.Reason, l.Message, l.Identity, l.ClientID, l.Source, l.Token = "refused", 400, "NoMatch", "Identity not found", "", "", "", ""
		}),
		with(func(l *auditLine) { l.Token, l.Resource = "minted", "[secret]" }),
		{Log: "audit", Decision: "refused", Status: 500, Reason: "CallerUnknown", Address: "10.9.0.3", Resource: arm, Message: "the node agent does not know the pod that asks (yet): try again"},
		{Log: "audit", Decision: "passed on", Status: 200, Reason: "Excepted", Namespace: "shop", Pod: "old", UID: "uid-old", Address: "10.9.0.4", Resource: arm, Source: "imds"},
		{Log: "audit", Decision: "passed on", Status: 200, Namespace: "shop", Pod: "web", UID: "uid-web", ServiceAccount: "web-account", Address: "10.9.0.2", Resource: "/metadata/attested/document", Source: "imds"},
	}
	lines, text := l.lines(t)
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
		t.Errorf("a whole client ID or a token in the log: %s", text)
	}
}

// refusals are the Events of refusals.
type refusals []string

func (e *refusals) Refused(pod types.NamespacedName, uid types.UID, reason, message string) {
	*e = append(*e, fmt.Sprintf("%s %s %s: %s", pod, uid, reason, message))
}

// TestRefusalEvents: there are Events only for refusals that the pod's owner can do something
// about.
func TestRefusalEvents(t *testing.T) {
	events := &refusals{}
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
		t.Errorf("Events: %q", *events)
	}
	w.get(web, tokenQuery(arm, "client_id=12345678-1234-1234-1234-123456789abc"))
	w.get(w.listen("10.9.0.3"), tokenQuery(arm))
	if len(*events) != 2 || !strings.Contains((*events)[0], "shop/web uid-web NoMatch: Identity not found: client") ||
		!strings.Contains((*events)[1], "shop/unbound uid-unbound NoBinding: no AzureIdentityBinding") {
		t.Fatalf("Events: %q", *events)
	}
	if strings.Contains((*events)[0], "1234-1234") {
		t.Errorf("a whole client ID: %q", *events)
	}
}
