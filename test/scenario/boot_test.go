// A node that reboots: its pods are there before the agent.
package scenario_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/sandbox"
)

// asksAfterBoot is for how long pods ask that a rebooted node starts.
const asksAfterBoot = 3 * time.Second

// nodeRebooted: a node reboots, and its kubelet starts the pods again that it had, while there is
// no agent. With the boot guard, their requests are refused from their first instruction on, and no
// packet arrives at the metadata service. When the agent is back, there are tokens again, and the
// node is as before.
func nodeRebooted(s *story) {
	id := s.identity("rebooted")
	s.bind(s.ns, "rebooted", id, "rebooted", 0)
	node := s.nodeWithoutMIC()
	bound, stranger := s.restarts("bound", "rebooted", node), s.restarts("stranger", "", node)
	s.token(bound, "", id)
	before, since := s.traces(), s.podPackets()

	s.Cleanup(func() { // also after a failure: the next stories need the node and the agents
		ctx := context.WithoutCancel(s.Context())
		if err := errors.Join(s.bootIfDown(ctx, node), s.sendAgents(ctx, nil)); err != nil {
			s.Error(err)
		}
	})
	s.must(s.sandbox.CrashNode(node))
	s.must(s.sendAgents(s.Context(), map[string]string{"story": "rebooted"}))
	ctx, cancel := s.soon(node + " is ready")
	defer cancel()
	s.must(s.boot(ctx, node))
	for _, p := range []*corev1.Pod{bound, stranger} {
		p = s.runsAgain(p)
		got := s.answers(p, "init")[0].Outcomes
		s.Logf("after the boot, pod %s: %v", p.Name, got)
		if got["refused"] == 0 || len(got) != 1 {
			s.Errorf("after the boot, pod %s got %v; want refused", p.Name, got)
		}
		if n := s.podPackets() - since; n != 0 {
			s.Fatalf("after the boot, %d packets of pods arrived at the metadata service", n)
		}
		for _, a := range s.ask(p, get(tokenAsk), get("/metadata/instance?api-version=2021-02-01")) {
			if a.Error != "refused" || a.TookMS > quick {
				s.Errorf("pod %s asked without an agent: %s; want refused at once", p.Name, a)
			}
		}
	}
	s.none(&corev1.PodList{}, "the agents are away", func(client.Object) bool { return true },
		client.InNamespace(release), component(nmi))

	s.must(s.sendAgents(s.Context(), nil))
	s.agentsReady()
	s.tokenSoon(asker{pod: bound, id: id})
	s.refused(stranger, "", 400, "Identity not found", quick)
	if n := s.podPackets() - since; n != 0 {
		s.Errorf("%d packets of pods arrived at the metadata service", n)
	}
	s.sameTraces(before)
}

// nodeWithoutMIC returns a node on which no MIC runs: after its crash the next one would wait for
// its lease to end.
func (s *story) nodeWithoutMIC() string {
	s.Helper()
	var controllers corev1.PodList
	s.must(s.List(s.Context(), &controllers, client.InNamespace(release), component(mic)))
	nodes := s.agentContainers()
	for _, p := range controllers.Items {
		delete(nodes, p.Spec.NodeName)
	}
	for node := range nodes {
		return node
	}
	s.Fatal("MIC runs on every node")
	return ""
}

// restarts creates a pod on a node that is started again after a reboot. It asks for a while before
// its program runs.
func (s *story) restarts(name, label, node string) *corev1.Pod {
	s.Helper()
	again := get(tokenAsk)
	again.LastsMS, again.TimeoutMS = asksAfterBoot.Milliseconds(), quick
	asked, err := json.Marshal([]request{again})
	s.must(err)
	p := podOf(s.ns, name, label, container{name: "probe", image: probeImage})
	before := *p.Spec.Containers[0].DeepCopy()
	before.Name, before.Args = "init", []string{string(asked)}
	p.Spec.InitContainers = []corev1.Container{before}
	p.Spec.NodeName, p.Spec.RestartPolicy = node, corev1.RestartPolicyAlways
	s.must(s.Create(s.Context(), p))
	return s.awaitPod(p, "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
}

// runsAgain waits until a pod runs in other containers.
func (s *story) runsAgain(p *corev1.Pod) *corev1.Pod {
	s.Helper()
	return s.awaitPod(p, "runs again", func(now *corev1.Pod) bool {
		for _, c := range now.Status.ContainerStatuses {
			if c.State.Running == nil || c.ContainerID == p.Status.ContainerStatuses[0].ContainerID {
				return false
			}
		}
		return len(now.Status.ContainerStatuses) > 0
	})
}

// boot starts a node that has crashed, with the boot guard.
func (s *story) boot(ctx context.Context, node string) error {
	bin, err := binaries()
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "podid"), "sandbox", "node", "start", node,
		"--name="+s.sandbox.Layout().Name, "--boot-guard="+s.capture).CombinedOutput()
	if err != nil {
		return fmt.Errorf("start %s: %w: %s", node, err, out)
	}
	return nil
}

// bootIfDown starts a node that a story which failed has left down.
func (s *story) bootIfDown(ctx context.Context, node string) error {
	status, err := s.sandbox.Status(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(status.Components, func(c sandbox.ComponentStatus) bool { return c.Name == node && c.State == "ended" }) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.boot(ctx, node)
}
