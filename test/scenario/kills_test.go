// Agents and holders that are killed at random while pods ask.
package scenario_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/sandbox/network"
)

const (
	// envKills is how many processes are killed.
	envKills     = "PODID_SCENARIO_KILLS"
	defaultKills = 10
	// maxAge bounds the age at which a process is killed. It serves after a second or two: some are
	// killed before they do. The kubelet restarts one that was younger than two seconds after ten to
	// fifteen, and others at once.
	maxAge = 6 * time.Second
	// oneOf: of so many kills, one is of agent and holder at once.
	oneOf = 3
	// killsPerPod is after how many kills a pod starts.
	killsPerPod = 5
	// turnLasts is for how long a client in a pod asks before it reports.
	turnLasts = 6 * time.Second
)

// agentsKilled: pods of two identities ask without pause on each node, while the processes of
// agents are killed at random, and other pods start and ask at once. Each request gets a token of
// the pod's own identity or fails closed, and no packet arrives at the metadata service. In the end
// the agents serve again, and nothing is left on the nodes that was not there before.
func agentsKilled(s *story) {
	kills := s.kills()
	askers := s.askers()
	for _, a := range askers {
		s.token(a.pod, "", a.id)
	}
	before, since := s.traces(), s.podPackets()
	load := s.startLoad(askers)
	late := s.killAtRandom(kills, askers)
	outcomes, err := load.end()
	s.must(err)
	s.checkOutcomes(askers, outcomes)
	for _, a := range askers {
		s.tokenSoon(a)
	}
	s.agentsReady()
	for _, a := range late {
		s.checkLate(a)
		s.remove(a.pod)
	}
	if n := s.podPackets() - since; n != 0 {
		s.Errorf("%d packets of pods arrived at the metadata service", n)
	}
	s.sameTraces(before)
}

func (s *story) kills() int {
	s.Helper()
	text := os.Getenv(envKills)
	if text == "" {
		return defaultKills
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		s.Fatalf("%s=%q: use a number of at least 1", envKills, text)
	}
	return n
}

// asker is a pod that asks, and the identity that it has.
type asker struct {
	pod   *corev1.Pod
	label string
	id    world.Identity
}

// askers creates a pod of each of two identities on every node.
func (s *story) askers() (all []asker) {
	s.Helper()
	for _, name := range []string{"durable", "lasting"} {
		id := s.identity(name)
		s.bind(s.ns, name, id, name, 0)
		for node := range s.agentContainers() {
			p := podOf(s.ns, name+"-on-"+node, name, container{name: "probe", image: probeImage})
			p.Spec.NodeName = node
			s.must(s.Create(s.Context(), p))
			all = append(all, asker{p, name, id})
		}
	}
	for i, a := range all {
		all[i].pod = s.awaitPod(a.pod, "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	}
	return all
}

// load is pods that ask without pause.
type load struct {
	group *errgroup.Group
	stop  chan struct{}

	mu       sync.Mutex
	outcomes map[string]map[string]int // by pod
}

func (s *story) startLoad(askers []asker) *load {
	s.Helper()
	again := get(tokenAsk)
	again.LastsMS = turnLasts.Milliseconds()
	asked, err := json.Marshal([]request{again})
	s.must(err)
	l := &load{stop: make(chan struct{}), outcomes: map[string]map[string]int{}}
	var ctx context.Context
	l.group, ctx = errgroup.WithContext(s.Context())
	for _, a := range askers {
		l.outcomes[a.pod.Name] = map[string]int{}
		l.group.Go(func() error { return l.ask(ctx, s.cluster, a.pod, string(asked)) })
	}
	s.Cleanup(func() { // after a failure
		if _, err := l.end(); err != nil && s.Context().Err() == nil {
			s.Error(err)
		}
	})
	return l
}

// ask lets a pod ask until the load ends.
func (l *load) ask(ctx context.Context, c *cluster, p *corev1.Pod, asked string) error {
	for {
		select {
		case <-l.stop:
			return nil
		default:
		}
		out, err := c.kubectl(ctx, "exec", "-n", p.Namespace, p.Name, "--", "/client", asked)
		if err != nil {
			return err
		}
		var answers []answer
		if err := json.Unmarshal(out, &answers); err != nil || len(answers) != 1 {
			return fmt.Errorf("pod %s said %q: %w", p.Name, out, err)
		}
		l.mu.Lock()
		for outcome, n := range answers[0].Outcomes {
			l.outcomes[p.Name][outcome] += n
		}
		l.mu.Unlock()
	}
}

// end ends the load and returns the outcomes by pod.
func (l *load) end() (map[string]map[string]int, error) {
	l.mu.Lock()
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.mu.Unlock()
	err := l.group.Wait()
	return l.outcomes, err
}

// checkOutcomes fails the story for outcomes that are neither a token of the pod's own identity nor
// closed, and for pods without any token.
func (s *story) checkOutcomes(askers []asker, outcomes map[string]map[string]int) {
	s.Helper()
	for _, a := range askers {
		got, token := outcomes[a.pod.Name], "200 "+a.id.ClientID
		s.Logf("pod %s: %v", a.pod.Name, got)
		for outcome, n := range got {
			if outcome != token && !closed(outcome) {
				s.Errorf("%d requests of pod %s: %s", n, a.pod.Name, outcome)
			}
		}
		if got[token] == 0 {
			s.Errorf("pod %s got no token", a.pod.Name)
		}
	}
}

// closed reports whether an outcome, an error or a status, means that no agent served the request.
func closed(outcome string) bool {
	return outcome == "refused" || outcome == "closed" || outcome == "timeout" || strings.HasPrefix(outcome, "5")
}

// killAtRandom kills processes of agents, each at a random moment, whatever it is doing then. It
// returns pods that it started just after some of them.
func (s *story) killAtRandom(kills int, askers []asker) (late []asker) {
	s.Helper()
	seed := uint64(time.Now().UnixNano())
	s.Logf("%d kills, seed %d", kills, seed)
	k := &killer{story: s, random: rand.New(rand.NewPCG(seed, 0)), due: map[int]time.Time{}, nodes: slices.Sorted(maps.Keys(s.agentContainers()))}
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(s.Context(), limit+time.Duration(kills)*maxAge, fmt.Errorf("fewer than %d processes were killed in time", kills))
	defer cancel()
	next := time.NewTicker(50 * time.Millisecond)
	defer next.Stop()
	for len(late) < kills/killsPerPod || k.killed < kills {
		if k.killed >= (len(late)+1)*killsPerPod {
			a := askers[k.random.IntN(len(askers))]
			late = append(late, asker{s.asksAtOnce(fmt.Sprintf("late-%d", len(late)), a.label), a.label, a.id})
		}
		k.kill()
		select {
		case <-next.C:
		case <-ctx.Done():
			s.Fatal(context.Cause(ctx))
		}
	}
	s.Logf("%d processes killed within %s", k.killed, time.Since(began).Round(time.Second))
	return late
}

// killer kills processes of agents.
type killer struct {
	*story
	random *rand.Rand
	nodes  []string
	due    map[int]time.Time // when to kill each process that was seen
	killed int
}

// kill kills the processes whose time has come, and of some nodes all others as well.
func (k *killer) kill() {
	k.Helper()
	running, err := k.running(k.nodes...)
	k.must(err)
	for _, node := range k.nodes {
		all := slices.Concat(running[node][agentPart], running[node][holderPart])
		ending := map[int]bool{} // each once, also if the time of two has come
		for _, pid := range all {
			due, seen := k.due[pid]
			switch {
			case !seen:
				k.due[pid] = k.moment()
			case time.Now().Before(due):
			case k.random.IntN(oneOf) == 0:
				for _, other := range all {
					ending[other] = true
				}
			default:
				ending[pid] = true
			}
		}
		k.end(ending)
	}
}

// moment returns a random moment within maxAge.
func (k *killer) moment() time.Time {
	return time.Now().Add(time.Duration(k.random.Int64N(int64(maxAge))))
}

// end kills processes. One that is still there soon after is not counted again.
func (k *killer) end(pids map[int]bool) {
	k.Helper()
	for pid := range pids {
		k.due[pid] = time.Now().Add(maxAge)
		err := syscall.Kill(pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			continue
		}
		k.must(err)
		k.killed++
	}
}

// checkLate fails the story unless a pod that started while agents were killed got tokens of its
// own identity, or nothing.
func (s *story) checkLate(a asker) {
	s.Helper()
	p := s.finish(a.pod)
	for _, container := range []string{"init", "probe"} {
		if got := s.answers(p, container)[0]; !closedOrToken(got, a.id) {
			s.Errorf("%s of pod %s, which started while agents were killed, got %s, with claims %v", container, p.Name, got, got.Claims)
		}
	}
}

func closedOrToken(a answer, id world.Identity) bool {
	if a.Status == 200 {
		return a.Claims["appid"] == id.ClientID
	}
	if a.Status != 0 {
		return closed(strconv.Itoa(a.Status))
	}
	return closed(a.Error)
}

// tokenSoon waits until a pod gets its token. Until then its requests fail closed.
func (s *story) tokenSoon(a asker) {
	s.Helper()
	ctx, cancel := s.soon("pod " + a.pod.Name + " gets a token")
	defer cancel()
	for ctx.Err() == nil {
		got := s.ask(a.pod, get(tokenAsk))[0]
		if !closedOrToken(got, a.id) {
			s.Fatalf("pod %s got %s, with claims %v", a.pod.Name, got, got.Claims)
		}
		if got.Status == 200 {
			return
		}
	}
	s.Fatal(context.Cause(ctx))
}

// crash kills a part of the agent on a node.
func (s *story) crash(node string, which part) {
	s.Helper()
	pids := s.processes(node, which)
	if len(pids) == 0 {
		s.Errorf("there is no %s to crash on %s", which.program, node)
	}
	for _, pid := range pids {
		s.must(syscall.Kill(pid, syscall.SIGKILL))
	}
}

// processes returns the processes of a part of the agent on a node.
func (s *story) processes(node string, which part) []int {
	s.Helper()
	found, err := s.running(node)
	s.must(err)
	return found[node][which]
}

// running returns the processes of the agents on nodes, with one look at all processes.
func (s *story) running(nodes ...string) (map[string]map[part][]int, error) {
	found, networks := map[string]map[part][]int{}, map[uint64]string{} // by inode
	for _, node := range nodes {
		var stat unix.Stat_t
		if err := unix.Stat(netns.Namespace(network.Prefix(s.sandbox.Layout().Name)+node).Path(), &stat); err != nil {
			return nil, fmt.Errorf("look at the network of %s: %w", node, err)
		}
		found[node], networks[stat.Ino] = map[part][]int{}, node
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		which, ok := partOf(pid)
		var stat unix.Stat_t
		if !ok || unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &stat) != nil { // it has ended
			continue
		}
		if node, ok := networks[stat.Ino]; ok {
			found[node][which] = append(found[node][which], pid)
		}
	}
	return found, nil
}

// partOf returns which part of the agent a process is.
func partOf(pid int) (part, bool) {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	for _, which := range []part{agentPart, holderPart} {
		if err == nil && strings.TrimSpace(string(name)) == which.program {
			return which, true
		}
	}
	return part{}, false
}
