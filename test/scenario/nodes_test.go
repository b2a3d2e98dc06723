// Identities on the nodes, and agents and controllers that come and go.
package scenario_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/demo"
)

// othersStay: identities that were on the nodes before podid serve pods without a request to Azure,
// and stay when the pods are gone.
func othersStay(s *story) {
	shared, own := unknownIdentity(foreignShared), s.identity("passing")
	s.bind(s.ns, "shared", shared, "shared", 1)
	p := s.probe(s.ns, "pod", "shared")
	since := s.mark()
	s.token(p, "", shared)
	if s.changed(0, "added", shared) {
		s.Error("MIC asked Azure for an identity that was on the nodes")
	}

	s.bind(s.ns, "own", own, "shared", 0) // leaves with the pod: its absence shows that MIC has done its work
	s.onNodes(own, true)
	s.remove(p)
	s.unassigned(p)
	s.onNodes(own, false)
	for _, name := range foreign() {
		if id := unknownIdentity(name); s.changed(since, "removed", id) {
			s.Errorf("%s was taken off the nodes", name)
		}
		s.onNodes(unknownIdentity(name), true)
	}
	machines, err := s.azure.control.Machines(s.Context(), sandbox.ScaleSet)
	s.must(err)
	if !machines[0].SystemAssigned {
		s.Error("the nodes' own identity was taken off them")
	}
}

// agentAway: while a node's agent is away, for whatever reason, requests of its pods are refused at
// once and none reaches the metadata service. When it is back, there are tokens again, and the
// start-up taint that the nodes got meanwhile is removed.
func agentAway(s *story) {
	id := s.identity("patient")
	s.bind(s.ns, "patient", id, "patient", 0)
	p, stranger := s.probe(s.ns, "pod", "patient"), s.probe(s.ns, "stranger", "")
	s.token(p, "", id)

	before := s.agentContainers()
	s.must(s.sendAgents(s.Context(), map[string]string{"story": "away"}))
	s.Cleanup(func() { // also after a failure: the next stories need the agents
		if err := s.sendAgents(context.WithoutCancel(s.Context()), nil); err != nil {
			s.Error(err)
		}
	})
	s.none(&corev1.PodList{}, "the agents are away", func(client.Object) bool { return true },
		client.InNamespace(release), component(nmi))
	s.taintNodes()
	since := s.mark()
	for _, pod := range []*corev1.Pod{p, stranger} {
		for _, a := range s.ask(pod, get(tokenAsk), get("/metadata/instance?api-version=2021-02-01"), get(tokenAsk+"&client_id="+unknownIdentity(foreignAlone).ClientID)) {
			if a.Error != "refused" || a.TookMS > quick {
				s.Errorf("pod %s asked without an agent: %s; want refused at once", pod.Name, a)
			}
		}
	}
	if list := s.requests(since, world.Filter{Surface: "imds"}); len(list) != 0 {
		s.Errorf("without an agent, the metadata service saw %+v", list)
	}

	s.must(s.sendAgents(s.Context(), nil))
	s.agentsRestarted(before)
	s.taintsTakenOff()
	s.token(p, "", id)
	s.refused(stranger, "", 400, "Identity not found", quick)

	before = s.agentContainers()
	since = s.mark()
	for node := range before {
		s.crashAgent(node)
	}
	for _, a := range s.ask(stranger, get(tokenAsk), get(tokenAsk), get(tokenAsk)) {
		if a.Error != "refused" && a.Status != 400 {
			s.Errorf("around a crash of the agent, pod stranger got: %s", a)
		}
	}
	s.agentsRestarted(before)
	s.token(p, "", id)
	for _, r := range s.requests(since, world.Filter{Surface: "imds"}) {
		if r.Details["clientID"] != id.ClientID {
			s.Errorf("around a crash of the agent, the metadata service saw %+v", r)
		}
	}
}

// agentsReplaced: during a rolling update of the agents, as by an upgrade of the chart, a node's
// new agent runs beside the old one and takes over; no request of a pod fails.
func agentsReplaced(s *story) {
	id := s.identity("steady")
	s.bind(s.ns, "steady", id, "steady", 0)
	var pods []*corev1.Pod
	for i := range 2 {
		pods = append(pods, s.probe(s.ns, fmt.Sprintf("pod-%d", i), "steady"))
	}
	for _, p := range pods {
		s.token(p, "", id)
	}

	before := s.agentContainers()
	set := agents()
	s.must(s.Get(s.Context(), client.ObjectKeyFromObject(set), set))
	changed := set.DeepCopy()
	if changed.Spec.Template.Annotations == nil {
		changed.Spec.Template.Annotations = map[string]string{}
	}
	changed.Spec.Template.Annotations["story"] = "replaced"
	s.must(s.Patch(s.Context(), changed, client.MergeFrom(set)))

	ctx, cancel := context.WithTimeoutCause(s.Context(), 4*time.Minute, errors.New("the agents were not replaced"))
	defer cancel()
	asked := 0
	for !s.replaced(ctx) {
		for _, p := range pods {
			for _, a := range s.ask(p, slices.Repeat([]request{get(tokenAsk)}, 20)...) {
				if asked++; a.Status != 200 || a.Claims["appid"] != id.ClientID {
					s.Errorf("pod %s asked while the agents were replaced: %s", p.Name, a)
				}
			}
		}
	}
	for node, container := range s.agentContainers() {
		if container == before[node] {
			s.Errorf("the agent on %s is the one it was", node)
		}
	}
	if asked == 0 {
		s.Error("no request was made meanwhile")
	}
}

// replaced reports whether every node has exactly one agent, of the latest revision and ready.
func (s *story) replaced(ctx context.Context) bool {
	s.Helper()
	set := agents()
	s.must(s.Get(ctx, client.ObjectKeyFromObject(set), set))
	var running corev1.PodList
	s.must(s.List(ctx, &running, client.InNamespace(release), component(nmi)))
	now := set.Status
	return now.ObservedGeneration >= set.Generation && now.DesiredNumberScheduled > 0 && len(running.Items) == int(now.DesiredNumberScheduled) &&
		now.UpdatedNumberScheduled == now.DesiredNumberScheduled && now.NumberReady == now.DesiredNumberScheduled
}

// taintNodes puts the start-up taint on every node that gets an agent.
func (s *story) taintNodes() {
	s.Helper()
	var nodes corev1.NodeList
	s.must(s.List(s.Context(), &nodes))
	for i := range nodes.Items {
		node := &nodes.Items[i]
		before := node.DeepCopy()
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: v1.AgentNotReadyTaint, Effect: corev1.TaintEffectNoSchedule})
		s.must(s.Patch(s.Context(), node, client.MergeFrom(before)))
	}
}

// taintsTakenOff waits until no node has the start-up taint.
func (s *story) taintsTakenOff() {
	s.Helper()
	s.none(&corev1.NodeList{}, "the start-up taint is off", func(o client.Object) bool {
		node, ok := o.(*corev1.Node)
		return ok && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1.AgentNotReadyTaint })
	})
}

// The processes of an agent's pod, and their containers. On the wire there is no holder.
type part struct{ program, container string }

var (
	agentPart  = part{"nmi", nmi}
	holderPart = part{"nmi-holder", "holder"}
)

// crashAgent kills the agent on a node.
func (s *story) crashAgent(node string) {
	s.Helper()
	s.crash(node, agentPart)
}

// agentContainers returns the agents' current containers by node.
func (s *story) agentContainers() map[string]string {
	s.Helper()
	return s.containers(agentPart)
}

// containers returns the current containers of a part of the agents by node.
func (s *story) containers(which part) map[string]string {
	s.Helper()
	var pods corev1.PodList
	s.must(s.List(s.Context(), &pods, client.InNamespace(release), component(nmi)))
	now := map[string]string{}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			if c.Name == which.container {
				now[p.Spec.NodeName] = c.ContainerID
			}
		}
	}
	if len(now) == 0 {
		s.Fatal("there are no agents")
	}
	return now
}

// agentsRestarted waits until every agent runs in a new container and is ready.
func (s *story) agentsRestarted(before map[string]string) {
	s.Helper()
	s.restarted(agentPart, before)
}

// restarted waits until a part of every agent runs in a new container, and all of it is ready.
func (s *story) restarted(which part, before map[string]string) {
	s.Helper()
	ctx, cancel := s.soon("the agents have restarted")
	defer cancel()
	back := map[string]bool{}
	s.must(follow(ctx, s.cluster, &corev1.PodList{}, func(_ watch.EventType, p *corev1.Pod) bool {
		ready, changed := true, false
		for _, c := range p.Status.ContainerStatuses {
			ready = ready && c.Ready
			changed = changed || c.Name == which.container && c.ContainerID != before[p.Spec.NodeName]
		}
		back[p.Spec.NodeName] = ready && changed
		for node := range before {
			if !back[node] {
				return false
			}
		}
		return true
	}, client.InNamespace(release), component(nmi)))
}

// sendAgents restricts the agents to nodes with these labels; nil means every node.
func (c *cluster) sendAgents(ctx context.Context, labels map[string]string) error {
	set := agents()
	if err := c.Get(ctx, client.ObjectKeyFromObject(set), set); err != nil {
		return err
	}
	selector := set.Spec.Template.Spec.NodeSelector
	maps.DeleteFunc(selector, func(name, _ string) bool { return strings.HasPrefix(name, "story") })
	maps.Copy(selector, labels)
	return c.Update(ctx, set)
}

func agents() *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: release, Name: daemons}}
}

// agentsReady waits until every node has a ready agent of the latest revision.
func (s *story) agentsReady() {
	s.Helper()
	ctx, cancel := s.soon("the agents are ready")
	defer cancel()
	set := agents()
	s.must(s.Get(ctx, client.ObjectKeyFromObject(set), set))
	s.must(follow(ctx, s.cluster, &appsv1.DaemonSetList{}, func(_ watch.EventType, d *appsv1.DaemonSet) bool {
		now := d.Status
		return d.Name == daemons && now.ObservedGeneration >= set.Generation && now.DesiredNumberScheduled > 0 &&
			now.UpdatedNumberScheduled == now.DesiredNumberScheduled && now.NumberReady == now.DesiredNumberScheduled
	}, client.InNamespace(release)))
}

// micRestarts: a new MIC continues from what the old one recorded. It keeps what pods use, and
// removes from the nodes what the old one attached.
func micRestarts(s *story) {
	id := s.identity("kept")
	s.bind(s.ns, "kept", id, "kept", 0)
	p := s.probe(s.ns, "pod", "kept")
	s.token(p, "", id)

	since := s.mark()
	var old corev1.PodList
	s.must(s.List(s.Context(), &old, client.InNamespace(release), component(mic)))
	if len(old.Items) == 0 {
		s.Fatal("there is no MIC")
	}
	names := map[string]bool{}
	for i := range old.Items {
		names[old.Items[i].Name] = true
		s.must(s.Delete(s.Context(), &old.Items[i]))
	}
	s.token(p, "", id) // works without MIC
	ctx, cancel := s.soon("a new MIC is ready")
	defer cancel()
	s.must(follow(ctx, s.cluster, &corev1.PodList{}, func(_ watch.EventType, now *corev1.Pod) bool {
		return !names[now.Name] && slices.ContainsFunc(now.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	}, client.InNamespace(release), component(mic)))

	second := s.identity("second") // once it is assigned, the new MIC has processed everything
	s.bind(s.ns, "second", second, "kept", 0)
	s.onNodes(second, true)
	if s.changed(since, "removed", id) {
		s.Error("the new MIC took an identity off the nodes that a pod uses")
	}
	s.token(p, "&client_id="+id.ClientID, id)
	s.remove(p)
	s.onNodes(id, false)
	s.onNodes(second, false)
}

// managedMode: without MIC, identities that another party put on the nodes serve exactly the pods
// that a binding in their own namespace selects.
func managedMode(s *story) {
	// MIC removes its finalizers before it is uninstalled; only then can the other stories'
	// namespaces go.
	s.none(&corev1.NamespaceList{}, "the other stories' namespaces are gone", func(o client.Object) bool {
		return strings.HasPrefix(o.GetName(), "story-") && o.GetName() != s.ns
	})
	s.none(&v1.AzureAssignedIdentityList{}, "there are no assigned identities", func(client.Object) bool { return true })
	program, err := helm(s.Context(), s.report)
	s.must(err)
	s.must(demo.Install(s.Context(), s.sandbox, demo.Installation{Helm: program, Capture: s.capture, Values: values("operationMode=managed")}))
	s.none(&corev1.PodList{}, "MIC is gone", func(client.Object) bool { return true },
		client.InNamespace(release), component(mic))
	s.agentsReady()

	since, other := s.mark(), s.ns+"-other"
	s.namespace(other)
	id := unknownIdentity(foreignManaged)
	s.bind(s.ns, "managed", id, "managed", 0)
	p, foreigner := s.probe(s.ns, "pod", "managed"), s.probe(other, "pod", "managed")
	s.token(p, "", id)
	s.token(p, "&client_id="+id.ClientID, id)
	s.refused(foreigner, "", 404, "", (10 * time.Second).Milliseconds())
	s.refused(foreigner, "&client_id="+id.ClientID, 404, "", (10 * time.Second).Milliseconds())

	var assigned v1.AzureAssignedIdentityList
	s.must(s.List(s.Context(), &assigned))
	if n := len(assigned.Items); n != 0 {
		s.Errorf("there are %d assigned identities in managed mode", n)
	}
	if list := s.requests(since, world.Filter{Surface: "arm", Method: "PATCH"}); len(list) != 0 {
		s.Errorf("in managed mode, ARM was asked to change the nodes: %+v", list)
	}
}
