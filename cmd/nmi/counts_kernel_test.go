package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
)

// TestRedirectCounts flushes the rules twice. Each repair is counted, even one that needs no retry.
func TestRedirectCounts(t *testing.T) {
	n := newNode(t)
	n.start()
	n.probe("/readyz", 200, "ok")
	n.metric(`aadpodidentity_nmi_redirect_changes_total{result="set"} 1`)
	for _, want := range []string{"1", "2"} {
		err := n.node.Do(func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.FlushRuleset()
			return c.Flush()
		})
		if err != nil {
			t.Fatal(err)
		}
		n.metric(`aadpodidentity_nmi_redirect_changes_total{result="repaired"} ` + want)
	}
	n.metric(`aadpodidentity_nmi_redirect_changes_total{result="set"} 1`)
}

// metric waits until the metrics have a line.
func (n *node) metric(line string) {
	n.t.Helper()
	deadline := time.Now().Add(atMost)
	for {
		_, body, err := n.get(n.node, "127.0.0.1:9090", "/metrics")
		if err == nil && strings.Contains(body, line+"\n") {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%v, no line %s in\n%s", err, line, body)
		}
		<-time.After(50 * time.Millisecond)
	}
}
