// What holds on every data plane and for every way of capture.
package scenario_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/sandbox/demo"
	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/sandbox/network"
)

// firstInstruction: pods ask with their first instruction, in an init container and in the program
// after it. The first answer is right in both.
func firstInstruction(s *story) {
	id := s.identity("early")
	s.bind(s.ns, "early", id, "early", 0)
	s.token(s.probe(s.ns, "before", "early"), "", id) // puts the identity on the nodes
	s.captured()
	var pods []*corev1.Pod
	for i := range 6 {
		pods = append(pods, s.asksAtOnce(fmt.Sprintf("pod-%d", i), "early"))
	}
	stranger := s.asksAtOnce("stranger", "")
	for _, p := range pods {
		p = s.finish(p)
		for _, container := range []string{"init", "probe"} {
			if a := s.answers(p, container)[0]; a.Status != 200 || a.Claims["appid"] != id.ClientID {
				s.Errorf("%s of pod %s on %s got %s, with claims %v", container, p.Name, p.Spec.NodeName, a, a.Claims)
			}
		}
	}
	stranger = s.finish(stranger)
	for _, container := range []string{"init", "probe"} {
		if a := s.answers(stranger, container)[0]; a.Status != 400 || !strings.Contains(a.Body, "Identity not found") || a.TookMS > quick {
			s.Errorf("%s of a pod without an identity got %s", container, a)
		}
	}
}

// asksAtOnce creates a pod of an init container and a container that ask for a token, and end.
func (s *story) asksAtOnce(name, label string) *corev1.Pod {
	s.Helper()
	asked, err := json.Marshal([]request{get(tokenAsk)})
	s.must(err)
	p := podOf(s.ns, name, label, container{name: "probe", image: probeImage})
	p.Spec.Containers[0].Args = []string{string(asked)}
	before := *p.Spec.Containers[0].DeepCopy()
	before.Name = "init"
	p.Spec.InitContainers = []corev1.Container{before}
	s.must(s.Create(s.Context(), p))
	return p
}

// answers returns what a container that has ended got.
func (s *story) answers(p *corev1.Pod, container string) []answer {
	s.Helper()
	var got []answer
	said := s.logs(s.Context(), p.Namespace, p.Name, container, 100)
	if err := json.NewDecoder(strings.NewReader(said)).Decode(&got); err != nil || len(got) == 0 {
		s.Fatalf("%s of pod %s said %q: %v", container, p.Name, said, err)
	}
	return got
}

// wireWithHostRouting: where packets of pods pass by the wire, an agent that captures there is not
// ready and says why. It leaves pods to the agent that it was to replace.
func wireWithHostRouting(s *story) {
	if s.plane != network.EBPF {
		s.Skip("packets of pods do not pass by the wire")
	}
	id := s.identity("blocked")
	s.bind(s.ns, "blocked", id, "blocked", 0)
	pods := map[string]*corev1.Pod{} // by node: the update begins with any of them
	for node := range s.agentContainers() {
		p := podOf(s.ns, "pod-on-"+node, "blocked", container{name: "probe", image: probeImage})
		p.Spec.NodeName = node
		s.must(s.Create(s.Context(), p))
		pods[node] = s.awaitPod(p, "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
		s.token(p, "", id)
	}
	since := s.podPackets()
	program, err := helm(s.Context(), s.report)
	s.must(err)
	wire := demo.Installation{Helm: program, Capture: "wire", Values: values(), NoWait: true} // it is never ready
	s.must(demo.Install(s.Context(), s.sandbox, wire))
	defer func() { // also after a failure: the next stories need the agents
		s.must(demo.Install(s.Context(), s.sandbox, demo.Installation{Helm: program, Capture: s.capture, Values: values()}))
		s.agentsReady()
	}()
	node := s.notReady(slices.Collect(maps.Keys(pods)), network.HostRoutingLabel)
	for range 2 {
		s.token(pods[node], "", id) // of the agent that was there
	}
	if n := s.podPackets() - since; n != 0 {
		s.Errorf("%d packets of pods arrived at the metadata service", n)
	}
}

// wireWithCilium: with Cilium's own host routing, packets of pods pass by the redirect, too, and
// the node has no label for it. An agent with --capture=wire cannot detect that, and warns.
func wireWithCilium(s *story) {
	if _, ok := s.plane.Cilium(); !ok {
		s.Skip("Cilium is not on the nodes")
	}
	program, err := helm(s.Context(), s.report)
	s.must(err)
	p := s.probe(s.ns, "pod", "")
	s.refused(p, "", 400, "Identity not found", quick)
	since := s.podPackets()
	defer func() { // also after a failure: the next stories need the agents
		s.must(demo.Install(s.Context(), s.sandbox, demo.Installation{Helm: program, Capture: s.capture, Values: values()}))
		s.agentsReady()
		s.passedBy += s.podPackets() - since
		s.captured()
	}()
	s.must(demo.Install(s.Context(), s.sandbox, demo.Installation{Helm: program, Capture: "wire", Values: values()}))
	s.agentsReady()
	s.ask(p, get(tokenAsk))
	if s.podPackets() == since {
		s.Error("with capture on the wire, no packet of a pod arrived at the metadata service: this is not Cilium's eBPF host routing")
	}
	const want = `aadpodidentity_nmi_cilium{host_routing="unknown"} 1`
	for node := range s.agentContainers() {
		if status, text := getFrom(s.Context(), s.onNode(node), "http://127.0.0.1:9090/metrics"); !strings.Contains(text, want) {
			s.Errorf("the agent on %s does not warn of Cilium: status %d", node, status)
		}
	}
}

// captured fails the story unless all agents capture in the way that this run is about.
func (s *story) captured() {
	s.Helper()
	want, way := "aadpodidentity_nmi_capture_in_pods 1\n", v1.CapturePod
	if s.capture == "wire" {
		want, way = "aadpodidentity_nmi_capture_in_pods 0\n", v1.CaptureWire
	}
	for node := range s.agentContainers() {
		if status, text := getFrom(s.Context(), s.onNode(node), "http://127.0.0.1:9090/metrics"); !strings.Contains(text, want) {
			s.Fatalf("the agent on %s does not capture by %s: status %d", node, s.capture, status)
		}
		var object corev1.Node
		if s.must(s.Get(s.Context(), client.ObjectKey{Name: node}, &object)); object.Annotations[v1.CaptureAnnotation] != way {
			s.Errorf("node %s is annotated %q, want %q", node, object.Annotations[v1.CaptureAnnotation], way)
		}
	}
}

// notReady waits until the agent on one of the nodes is not ready for a reason, and returns the
// node.
func (s *story) notReady(nodes []string, reason string) string {
	s.Helper()
	ctx, cancel := s.soon("an agent is not ready because of " + reason)
	defer cancel()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		for _, node := range nodes {
			status, text := getFrom(ctx, s.onNode(node), "http://127.0.0.1:8085/readyz")
			if status == http.StatusServiceUnavailable && strings.Contains(text, reason) {
				return node
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			s.Fatal(context.Cause(ctx))
		}
	}
}

// onNode returns a client on a node's network.
func (s *story) onNode(node string) *http.Client {
	ns := netns.Namespace(network.Prefix(s.sandbox.Layout().Name) + node)
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return ns.Dial(ctx, network, address)
	}}}
}

// getFrom returns the status of an answer and its text, or 0 and the error's.
func getFrom(ctx context.Context, from *http.Client, url string) (status int, text string) {
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	response, err := from.Do(ask)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}
