package main

import (
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// The pods on the node's network.
const (
	chosenUID = "00000000-0000-4000-8000-00000000000c"
	boundUID  = "00000000-0000-4000-8000-00000000000d"
	pluginUID = "00000000-0000-4000-8000-00000000000e"
)

// hostPod creates or changes a pod on the node's network. Its control group is another matter.
func (n *inPods) hostPod(name, uid, phase string, labels map[string]any) {
	n.kube.apply("pods", "v1", "Pod", name, map[string]any{
		"metadata": map[string]any{
			"namespace": "shop", "name": name, "uid": uid, "resourceVersion": "1000", "labels": labels,
		},
		"spec":   map[string]any{"nodeName": "node-1", "hostNetwork": true, "containers": []any{}},
		"status": map[string]any{"phase": phase, "hostIP": "10.244.0.1"},
	}, nil)
}

// groupOf makes the control group of a pod's container.
func (n *inPods) groupOf(uid string) string {
	return hooktest.Group(n.t, n.top, "kubepods", "besteffort", "pod"+uid, "app")
}

// infoURL is answered by the metadata service of these tests, and by no agent.
const infoURL = "/metadata/identity/info?api-version=2018-02-01"

// answers waits until a process on the node's network gets an answer at a URL.
func (n *inPods) answers(what, group, url, want string) {
	n.t.Helper()
	testenv.Eventually(n.t, what, func() string {
		if got := n.ask(n.node.node, group, url); !strings.HasPrefix(got, want) && !strings.Contains(got, want) {
			return got
		}
		return ""
	})
}

// questionsAfter returns what the metadata service was asked, without the first questions.
func (n *node) questionsAfter(first int) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked[first:])
}

const (
	fromAgent = "404 " // at infoURL
	plain     = "200 "
	refused   = "connection refused"
)

// TestHostNetworkPods: a pod on the node's network that the cluster's owner has chosen gets the
// token of its own identity, as other pods do. All else on the node's network keeps plain IMDS.
func TestHostNetworkPods(t *testing.T) {
	n := newInPods(t)
	capture := map[string]any{"aadpodidbinding": "chosen", v1.CaptureHostNetworkLabel: "true"}
	n.hostPod("chosen", chosenUID, "Running", capture)
	n.hostPod("bound", boundUID, "Running", map[string]any{"aadpodidbinding": "bound", v1.CaptureHostNetworkLabel: "false"})
	n.hostPod("plugin", pluginUID, "Running", nil)
	n.grant("chosen")
	n.grant("bound")
	chosen, bound, plugin := n.groupOf(chosenUID), n.groupOf(boundUID), n.groupOf(pluginUID)
	n.more = []string{"--host-network-pods=label"}
	p := n.start(n.flags()...)
	n.probe("/readyz", 200, "ok")
	n.capturing("1")

	n.answers("the chosen pod is captured", chosen, service+infoURL, fromAgent)
	before := n.questions()
	for range 3 {
		n.answers("the chosen pod's token", chosen, service+tokenURL, "200 ")
	}
	if asked := n.questionsAfter(before); len(asked) != 1 || !strings.Contains(asked[0], "msi_res_id=") {
		t.Errorf("the metadata service was asked for %q, want one token of the pod's identity", asked)
	}
	n.answers("instance metadata", chosen, service+"/metadata/instance?api-version=2021-02-01", "200 ")
	n.answers("the WireServer", chosen, "http://168.63.129.16/", refused)
	n.answers("the WireServer, for the node", n.system, "http://168.63.129.16/", "network is unreachable")
	for name, group := range map[string]string{"not chosen": bound, "plugin": plugin, "node": n.system} {
		n.answers(name, group, service+infoURL, plain)
	}
	n.answers("the node at the listener", n.system, listener+tokenURL, "403 ")
	n.answers("one not chosen at the listener", bound, listener+tokenURL, "500 ")

	p.stop(syscall.SIGKILL)
	n.answers("without the agent", chosen, service+infoURL, refused)
	n.answers("without the agent, plugin", plugin, service+infoURL, plain)
	n.start(n.flags()...)
	n.capturing("1")
	n.answers("after a new start", chosen, service+tokenURL, "200 ")
	n.answers("after a new start", chosen, service+infoURL, fromAgent)

	delete(capture, v1.CaptureHostNetworkLabel)
	n.hostPod("chosen", chosenUID, "Running", capture)
	n.answers("no longer chosen", chosen, service+infoURL, plain)
	capture[v1.CaptureHostNetworkLabel] = "true"
	n.hostPod("chosen", chosenUID, "Running", capture)
	n.answers("chosen again", chosen, service+infoURL, fromAgent)
	n.hostPod("chosen", chosenUID, "Succeeded", capture)
	n.answers("ended", chosen, service+infoURL, plain)
}

// TestHostNetworkPodStarts: a pod whose control group is made after it is known is captured as soon
// as it has one.
func TestHostNetworkPodStarts(t *testing.T) {
	n := newInPods(t)
	n.start(append(n.flags(), "--capture=require", "--host-network-pods=bound")...)
	n.probe("/readyz", 200, "ok")
	n.hostPod("plugin", pluginUID, "Running", nil)
	n.hostPod("bound", boundUID, "Pending", map[string]any{"aadpodidbinding": "bound"})
	n.hostPod("chosen", chosenUID, "Pending", map[string]any{"aadpodidbinding": "chosen"})
	n.grant("bound")
	n.answers("a first pod is captured, so the second one is known", n.groupOf(chosenUID), service+infoURL, fromAgent)
	group := n.groupOf(boundUID)
	n.answers("captured", group, service+infoURL, fromAgent)
	n.answers("token", group, service+tokenURL, "200 ")
	n.answers("plugin", n.groupOf(pluginUID), service+infoURL, plain)
}

// TestHostNetworkPodRolled: an agent is replaced while a captured pod asks without pause. No
// request fails, and none reaches the metadata service past an agent.
func TestHostNetworkPodRolled(t *testing.T) {
	n := newInPods(t)
	n.hostPod("chosen", chosenUID, "Running", map[string]any{"aadpodidbinding": "chosen"})
	n.grant("chosen")
	group := n.groupOf(chosenUID)
	n.more = []string{"--host-network-pods=bound"}
	older := n.start(n.flags()...)
	n.probe("/readyz", 200, "ok")
	n.answers("captured", group, service+infoURL, fromAgent)
	before := n.questions()
	n.rolls(n.node.node, group, older, slices.Repeat([]rolled{{"prefer", saysInPods}}, 3)...)
	for _, asked := range n.questionsAfter(before) {
		if !strings.Contains(asked, "msi_res_id=") {
			t.Errorf("past the agents: %s", asked)
		}
	}
}

// TestHostNetworkPodsOff: an agent that must not capture pods on the node's network ends what an
// earlier one has begun, and has no listener there.
func TestHostNetworkPodsOff(t *testing.T) {
	n := newInPods(t)
	n.hostPod("chosen", chosenUID, "Running", map[string]any{v1.CaptureHostNetworkLabel: "true"})
	group := n.groupOf(chosenUID)
	for _, tt := range []struct{ choice, want string }{{"off", plain}, {"label", fromAgent}, {"off", plain}} {
		p := n.start(append(n.flags(), "--host-network-pods="+tt.choice)...)
		n.capturing("1")
		n.answers(tt.choice, group, service+infoURL, tt.want)
		if tt.choice == "label" {
			n.answers("no binding, no identity", group, service+tokenURL, "400 ")
		}
		listening := false
		for _, l := range testnet.Listeners(t, p.cmd.Process.Pid) {
			listening = listening || l.String() == "127.0.0.1:64579"
		}
		if listening != (tt.choice == "label") {
			t.Errorf("%s: listening on the node's network: %v", tt.choice, listening)
		}
		p.stop(syscall.SIGKILL)
	}
}

// TestHostNetworkConnections: a connection of a pod on the node's network to the metadata service
// that is open when an agent captures inside pods for the first time goes on, past the guard.
func TestHostNetworkConnections(t *testing.T) {
	n := newInPodsOn(newNodeWithout(t))
	outside := testnet.New(t)
	testnet.Veth(t, n.node.node, "eth0", outside, "eth0")
	n.node.node.Address(t, "eth0", "10.0.0.4/24")
	n.node.node.Route(t, "0.0.0.0/0", "10.0.0.1", "eth0")
	outside.Address(t, "eth0", "10.0.0.1/24")
	outside.Address(t, "lo", "169.254.169.254/32")
	n.serveIn(outside, metadataService, http.HandlerFunc(n.metadata))

	group := n.groupOf(pluginUID)
	open := hooktest.Hold(t, n.node.node, group, "connect")
	for range 2 {
		p := n.start(n.flags()...)
		n.capturing("1")
		p.stop(syscall.SIGKILL)
	}
	if got := open.Ask(); !strings.Contains(got, "compute") {
		t.Errorf("a connection from before: %s", got)
	}
	if got := hooktest.Client(t, n.node.node, group, "connect"); !strings.Contains(got, "compute") {
		t.Errorf("a new connection: %s", got)
	}
}

// TestHostNetworkHolder: an agent without privileges has pods on the node's network captured by its
// holder, unless the holder's own flag excludes it.
func TestHostNetworkHolder(t *testing.T) {
	n := newSplit(t)
	n.hostPod("chosen", chosenUID, "Running", map[string]any{"aadpodidbinding": "chosen"})
	n.grant("chosen")
	group, folder := n.groupOf(chosenUID), n.pair()
	agent, holder := n.startAgent(folder, "--host-network-pods=bound"), n.startHolder(folder, "--host-network-pods=bound")
	n.capturing("1")
	n.answers("captured", group, service+infoURL, fromAgent)
	n.answers("token", group, service+tokenURL, "200 ")
	n.answers("the node", n.system, service+infoURL, plain)
	holder.stop(syscall.SIGKILL)
	n.answers("without the holder", group, service+infoURL, fromAgent)
	holder = n.startHolder(folder)
	n.answers("with another holder, which must not", group, service+infoURL, plain)
	agent.stop(syscall.SIGKILL)
	holder.stop(syscall.SIGKILL)
}
