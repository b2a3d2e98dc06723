package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/reason"
)

// newTestLog returns a log and its count of dropped lines.
func newTestLog(mode Mode) (l *Log, lost *int) {
	lost = new(int)
	return New(mode, func() { *lost++ }), lost
}

// flush writes the lines that wait.
func flush(l *Log) string {
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.Run(ctx, &out)
	return out.String()
}

func issued(pod types.NamespacedName, resource string, at time.Time) *Entry {
	return &Entry{
		Time: at, Decision: Issued, Status: 200, Resource: resource,
		Caller: attest.Caller{NamespacedName: pod, UID: types.UID(pod.String())},
		Origin: attest.Origin{Addr: netip.MustParseAddr("10.9.0.2")},
		Identity: &v1.AzureIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "one"}, Spec: v1.AzureIdentitySpec{ClientID: "c11e47-one"},
		},
	}
}

// TestCapture: a line says that the request was captured inside its pod.
func TestCapture(t *testing.T) {
	for want, origin := range map[string]attest.Origin{
		`"address":"","capture":"pod"`: {Pod: "uid"}, `"address":"10.9.0.2"`: {Addr: netip.MustParseAddr("10.9.0.2")},
	} {
		l, _ := newTestLog(Changes)
		e := issued(types.NamespacedName{Namespace: "shop", Name: "web"}, "vault", time.Now())
		e.Origin = origin
		l.Record(e)
		if line := flush(l); !strings.Contains(line, want+`,"identity"`) {
			t.Errorf("no %s in %s", want, line)
		}
	}
}

func TestChanges(t *testing.T) {
	l, _ := newTestLog(Changes)
	now := time.Now()
	logged := func(why reason.Reason, resource string) bool {
		e := issued(types.NamespacedName{Namespace: "shop", Name: "web"}, resource, now)
		if why != reason.None {
			e.Decision, e.Status, e.Reason = Refused, 403, why
		}
		l.Record(e)
		return flush(l) != ""
	}
	for _, tt := range []struct {
		reason   reason.Reason
		resource string
		want     bool
	}{
		{reason.None, "vault", true},
		{reason.None, "vault", false},
		{reason.None, "storage", true},
		{reason.Quarantined, "a", true},
		{reason.Quarantined, "b", false}, // a pod cannot fill the log with resources
	} {
		if got := logged(tt.reason, tt.resource); got != tt.want {
			t.Errorf("%s, %s: logged %v, want %v", tt.reason, tt.resource, got, tt.want)
		}
	}
	now = now.Add(repeatAfter)
	if !logged(reason.None, "vault") {
		t.Error("not logged again later")
	}
	for i := range 3 * maxRecent {
		l.recent.add(decision{status: i}, now)
	}
	if l.recent.n > maxRecent {
		t.Errorf("%d decisions in memory", l.recent.n)
	}
}

// TestNeverWaits: a writer that hangs or fails costs lines, not answers.
func TestNeverWaits(t *testing.T) {
	l, lost := newTestLog(All)
	e := issued(types.NamespacedName{}, "r", time.Now())
	for range maxLines + 10 { // without a writer
		l.Record(e)
	}
	if *lost != 10 {
		t.Errorf("%d lines dropped, want 10", *lost)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.Run(ctx, broken{})
	if *lost != maxLines+10 {
		t.Errorf("%d lines dropped, want all", *lost)
	}
	off, _ := newTestLog(Off)
	off.Record(e)
	(*Log)(nil).Record(e)
	if text := flush(off); text != "" {
		t.Errorf("off, and logged %s", text)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// TestGreedyNamespace: a namespace that causes more lines than are written costs other namespaces
// neither lines nor remembered decisions.
func TestGreedyNamespace(t *testing.T) {
	l, lost := newTestLog(Changes)
	now := time.Now()
	record := func(namespace string, i int) {
		l.Record(issued(types.NamespacedName{Namespace: namespace, Name: fmt.Sprint(i % 100)}, fmt.Sprint(i), now))
	}
	for i := range 10 {
		record("shop", i)
		for j := range maxRecent {
			record("hostile", i*maxRecent+j)
		}
		record("shop", i) // a repetition
	}
	shop, all := 0, 0
	for text := range strings.Lines(flush(l)) {
		var line jsonLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		if all++; line.Namespace == "shop" {
			shop++
		}
	}
	if shop != 10 || all != maxLines {
		t.Errorf("%d lines, %d of shop; want %d and 10", all, shop, maxLines)
	}
	if *lost != 10*maxRecent+10-maxLines {
		t.Errorf("%d dropped", *lost)
	}
}

func TestParseMode(t *testing.T) {
	for text, want := range map[string]Mode{"off": Off, "Changes": Changes, "ALL": All} {
		if got, err := ParseMode(text); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := ParseMode("some"); err == nil || !strings.Contains(err.Error(), "off, changes or all") {
		t.Errorf("got %v", err)
	}
}
