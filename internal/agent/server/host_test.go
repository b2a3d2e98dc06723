package server

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/audit"
)

func TestHostToken(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	local, foreign := w.listenHost("127.0.0.1"), w.listenHost("10.9.0.2")
	pod := []string{"podname: web", "podns: shop"}
	tests := []struct {
		name, address, target string
		headers               []string
		status                int
		says                  string
	}{
		{"token", local, "/host/token?resource=r", pod, 200, `"clientid":"` + clientID("one") + `"`},
		{"by client id", local, "/host/token/?resource=r&client_id=" + clientID("one"), pod, 200, `"token":{"access_token"`},
		{"wrong client id", local, "/host/token?resource=r&client_id=x", pod, 400, "Identity not found"},
		{"no pod named", local, "/host/token?resource=r", nil, 400, "podname"},
		{"no resource", local, "/host/token", pod, 400, "resource"},
		{"no such pod", local, "/host/token?resource=r", []string{"podname: other", "podns: shop"}, 500, "does not know the pod"},
		{"not from the host", foreign, "/host/token?resource=r", pod, 403, "loopback"},
		{"token path", local, tokenQuery("r"), pod, 404, ""},
		{"passed on", local, "/metadata/instance?api-version=1", pod, 404, ""},
		{"probe", local, "/healthz", nil, 200, "Active"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := w.get(tt.address, tt.target, tt.headers...)
			if got.status != tt.status || !strings.Contains(got.body, tt.says) {
				t.Errorf("got %d %s, want %d and %q", got.status, got.body, tt.status, tt.says)
			}
		})
	}
	// The format of v1.8.17: these fields in this order, all of them strings.
	got := w.get(local, "/host/token?resource=r", pod...)
	form := regexp.MustCompile(`^{"token":{"access_token":"[^"]+","refresh_token":"","expires_in":"\d+","expires_on":"\d+",` +
		`"not_before":"\d+","resource":"r","token_type":"Bearer"},"clientid":"` + clientID("one") + `"}$`)
	if !form.MatchString(got.body) {
		t.Errorf("got %s", got.body)
	}
}

func TestHostTokenOf(t *testing.T) {
	for _, tt := range []struct{ name, body, token, problem string }{
		{"one", `{"access_token":"a"}`, "a", ""},
		{"several tenants", `[{"access_token":"a"},{"access_token":"b"}]`, "a", ""},
		{"none", `[]`, "", "no first entry"},
		{"not JSON", `{"access_token":"secret`, "", "fields of a token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := hostTokenOf([]byte(tt.body))
			if got.AccessToken != tt.token || (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("got %q, %v", got.AccessToken, err)
			}
		})
	}
}

// TestHostTokenForPods: pods without an address, or on the node's network, are served by name.
func TestHostTokenForPods(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("mounting", "", "one")
	w.assign("hostnet", "", "two")
	w.assign("ended", "", "one")
	w.pod("mounting", "", func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} })
	w.pod("hostnet", "10.0.0.1", func(p *corev1.Pod) { p.Spec.HostNetwork = true })
	w.pod("ended", "10.9.0.3", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	local := w.listenHost("127.0.0.1")
	for _, tt := range []struct {
		pod    string
		status int
		says   string
	}{
		{"mounting", 200, clientID("one")},
		{"hostnet", 200, clientID("two")},
		{"ended", 500, "does not know the pod"},
	} {
		got := w.get(local, "/host/token?resource=r", "podname: "+tt.pod, "podns: shop")
		if got.status != tt.status || !strings.Contains(got.body, tt.says) {
			t.Errorf("%s: got %d %s", tt.pod, got.status, got.body)
		}
	}
	// No connection belongs to them.
	w.get(w.listen("10.0.0.1"), tokenQuery("r")).want(t, 500) // from the node's address
}

// TestHostTokenOverTCP: requests that the kubelet sends on a pod's behalf are refused if they are
// recognized, and all are if TCP is off.
func TestHostTokenOverTCP(t *testing.T) {
	pod := []string{"podname: web", "podns: shop"}
	for _, tt := range []struct {
		name    string
		off     bool
		headers []string
		status  int
		says    string
	}{
		{"client", false, nil, 200, "access_token"},
		{"client that says keep-alive", false, []string{"Connection: keep-alive"}, 200, "access_token"},
		{"probe", false, []string{"User-Agent: kube-probe/1.34", "Connection: close"}, 403, "kubelet"},
		{"client that closes its connection", false, []string{"User-Agent: Python-urllib/3.13", "Connection: close"}, 200, "access_token"},
		{"hook", false, []string{"User-Agent: kube-lifecycle/1.34"}, 403, "kubelet"},
		{"off", true, nil, 404, "--host-token-socket"},
		{"off, probe", true, []string{"Connection: close"}, 404, "--host-token-socket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, func(s *settings) { s.server.HostTokenTCP = !tt.off })
			w.assign("web", "10.9.0.2", "one")
			local := w.listenHost("127.0.0.1")
			got := w.get(local, "/host/token?resource=r", append(tt.headers, pod...)...)
			if got.status != tt.status || !strings.Contains(got.body, tt.says) {
				t.Errorf("got %d %s, want %d and %q", got.status, got.body, tt.status, tt.says)
			}
			w.get(local, "/healthz", tt.headers...).want(t, 200) // the old probe
			w.get(w.listenHostSocket(), "/host/token?resource=r", append(tt.headers, pod...)...).want(t, 200)
		})
	}
}

// TestHostTokenRecords: a refusal to a process of the host causes no Event of the pod. Its audit
// line names the endpoint.
func TestHostTokenRecords(t *testing.T) {
	l, events := newAuditLog(audit.Changes), &refusals{}
	w := newWorld(t, func(s *settings) { s.server.Audit, s.server.Events = l.Log, events })
	w.assign("web", "10.9.0.2", "one")
	headers := []string{"podname: web", "podns: shop"}
	tcp, socket := w.listenHost("127.0.0.1"), w.listenHostSocket()
	for _, address := range []string{tcp, socket} {
		w.get(address, "/host/token?resource=r", headers...)
		w.get(address, "/host/token?resource=r&client_id=another", headers...)
	}
	w.get(w.listen("10.9.0.2"), tokenQuery("r"))
	if len(*events) != 0 {
		t.Errorf("Events: %q", *events)
	}
	var got []string
	lines, _ := l.lines(t)
	for _, line := range lines {
		got = append(got, fmt.Sprintf("%s at %q from %q for %s", line.Decision, line.Endpoint, line.Address, line.Pod))
	}
	want := []string{
		`issued at "host-tcp" from "127.0.0.1" for web`, `refused at "host-tcp" from "127.0.0.1" for web`,
		`issued at "host-socket" from "" for web`, `refused at "host-socket" from "" for web`,
		`issued at "" from "10.9.0.2" for web`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestHostPending: requests on behalf of a pod do not count for the limit of the pod's own.
func TestHostPending(t *testing.T) {
	w := newWorld(t, func(s *settings) { s.authorize.ArrivalLimit = time.Minute })
	w.pod("web", "10.9.0.2")
	w.bind("web", "one")
	w.imds.has("one")
	local := w.listenHost("127.0.0.1")
	statuses := make(chan int, 4+1)
	for range cap(statuses) {
		go func() { statuses <- w.get(local, "/host/token?resource=r", "podname: web", "podns: shop").status }()
	}
	if got := <-statuses; got != 429 { // the limit for the host is reached
		t.Fatalf("got %d, want 429", got)
	}
	answered := w.asking(w.listen("10.9.0.2"), tokenQuery("r"))
	w.state("web", "one", v1.StateAssigned, "", "")
	(<-answered).want(t, 200) // the pod itself
	for range cap(statuses) - 1 {
		if got := <-statuses; got != 200 {
			t.Errorf("a process of the host got %d", got)
		}
	}
}

// TestHostTokenBeforeCluster: a request that arrives while the agent starts waits until it knows
// the cluster.
func TestHostTokenBeforeCluster(t *testing.T) {
	w := newWorld(t, func(s *settings) { s.unknown, s.server.AttestLimit = true, time.Minute })
	w.assign("web", "10.9.0.2", "one")
	local := w.listenHost("127.0.0.1")
	answered := w.asking(local, "/host/token?resource=r", "podname: web", "podns: shop")
	close(w.known)
	(<-answered).want(t, 200)
}
