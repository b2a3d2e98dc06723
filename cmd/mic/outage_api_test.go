package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/podid-io/podid/internal/testenv"
)

// TestOutages cuts two MICs off the API server several times: the leader exits, the standby says
// why it is not ready, and both recover soon after the API server is back.
func TestOutages(t *testing.T) {
	env, kubeconfig := startAPI(t)
	testenv.InstallCRDs(t, env.Config)
	c := testenv.Client(t, env.Config)
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.NewProxy(t, env.Config)
	proxied := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(proxied, []byte(strings.ReplaceAll(string(text), testenv.HostPort(env.Config), proxy.Address)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	leader := start(t, proxied, "--leader-election-instance=0", "--leader-election-duration=4s")
	leader.wait("/healthz", http.StatusOK, "Active")
	standby := start(t, proxied, "--leader-election-instance=1", "--leader-election-duration=4s")
	standby.wait("/readyz", http.StatusOK, "ok")
	for i := range 3 {
		proxy.Close()
		leader.fails("could not be renewed in time")
		standby.wait("/readyz", http.StatusServiceUnavailable, "kubernetes: ")
		restarted := start(t, proxied, "--leader-election-instance="+strconv.Itoa(i+2), "--leader-election-duration=4s")
		restarted.wait("/readyz", http.StatusServiceUnavailable, "connection refused")
		proxy.Open()
		began := time.Now()
		standby.wait("/readyz", http.StatusOK, "ok")
		restarted.wait("/readyz", http.StatusOK, "ok")
		leader, standby = oneLeads(standby, restarted)
		t.Logf("works again after %v", time.Since(began).Round(time.Millisecond))
	}
	// The leader receives the event of a new node and asks Azure, which does not respond.
	testenv.Create(t, c, azureNode())
	leader.wait("/readyz", http.StatusServiceUnavailable, "azure: ")
	leader.end()
	standby.end()
	http.DefaultClient.CloseIdleConnections()
	proxy.Close()
	// A standby that never led has not started its event broadcaster.
	if err := goleak.Find(before, goleak.IgnoreTopFunction("k8s.io/apimachinery/pkg/watch.(*Broadcaster).loop")); err != nil {
		t.Error(err)
	}
}

// oneLeads waits until exactly one of two MICs leads.
func oneLeads(a, b *running) (leader, standby *running) {
	a.t.Helper()
	a.eventually("one leads", func() string {
		_, one := a.get("probes", "/healthz")
		_, other := b.get("probes", "/healthz")
		if (one == "Active") == (other == "Active") {
			return one + ", " + other
		}
		leader, standby = a, b
		if other == "Active" {
			leader, standby = b, a
		}
		return ""
	})
	return leader, standby
}
