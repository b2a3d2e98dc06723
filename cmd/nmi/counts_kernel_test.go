package main

import (
	"testing"

	"github.com/google/nftables"

	"github.com/podid-io/podid/internal/testenv"
)

// TestRedirectCounts flushes the rules twice. Each repair is counted, even one that needs no retry.
func TestRedirectCounts(t *testing.T) {
	n := newNode(t)
	n.start()
	n.probe("/readyz", 200, "ok")
	n.metric(`aadpodidentity_nmi_redirect_changes_total{result="set"} 1`)
	for _, want := range []string{"1", "2"} {
		changeTables(t, n.node, (*nftables.Conn).FlushRuleset)
		n.metric(`aadpodidentity_nmi_redirect_changes_total{result="repaired"} ` + want)
	}
	n.metric(`aadpodidentity_nmi_redirect_changes_total{result="set"} 1`)
}

// metric waits until the metrics have a line.
func (n *node) metric(line string) {
	n.t.Helper()
	testenv.Eventually(n.t, line, func() string { return n.wrong(n.node, "127.0.0.1:9090", "/metrics", 200, line+"\n") })
}
