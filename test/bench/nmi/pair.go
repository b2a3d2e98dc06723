// Capture inside pods: a holder, its agent, and pods that have a network namespace and a control
// group each.

package nmi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podid-io/podid/internal/privileged"
	"github.com/podid-io/podid/internal/sandbox/cgroup"
	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/measure"
	"github.com/podid-io/podid/test/bench/stage"
)

// groupTime is how long the kernel may take to remove the processes of a pod.
const groupTime = 5 * time.Second

// pair is a holder with an agent.
type pair struct {
	n      *node
	flags  []string // of both
	folder string   // of network namespaces
	groups string   // of the pods
	holder *stage.Program
	agent  *nmiProgram
}

// newPair starts a holder and its agent. What a node has in /run, /sys/fs/bpf and /sys/fs/cgroup is
// in folders of the stage. The pins of an earlier pair stay, as they do on nodes.
func (n *node) newPair(ctx context.Context) (*pair, error) {
	top, err := n.stage.Groups()
	if err != nil {
		return nil, err
	}
	pins, err := n.stage.BPF()
	if err != nil {
		return nil, err
	}
	n.turned++
	folder := filepath.Join(n.stage.Dir, "netns")
	p := &pair{n: n, folder: folder, groups: filepath.Join(top, "kubepods", "burstable"), flags: []string{
		"--capture=" + privileged.CapturePrefer, "--cgroup-dir=" + top, "--netns-dir=" + folder, "--bpf-dir=" + filepath.Join(pins, "podid"),
		"--holder-lock=" + filepath.Join(n.stage.Dir, "holders.lock"), "--holder=" + filepath.Join(n.stage.Dir, "holder-"+strconv.Itoa(n.turned)),
	}}
	if err := errors.Join(os.MkdirAll(folder, 0o755), os.MkdirAll(p.groups, 0o755)); err != nil {
		return nil, fmt.Errorf("prepare the node for capture inside pods: %w", err)
	}
	p.holder, err = n.stage.Start(stage.Launch{
		Name: "nmi-holder-" + strconv.Itoa(n.turned), Path: filepath.Join(n.options.Bin, "nmi-holder"), Args: p.flags,
	})
	if err != nil {
		return nil, err
	}
	return p, p.startAgent(ctx)
}

// startAgent starts the agent and waits until it is ready and captures inside pods.
func (p *pair) startAgent(ctx context.Context) (err error) {
	if p.agent, err = p.n.startNMIWith(ctx, 0, p.flags, "GOMAXPROCS=1"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, openTime, fmt.Errorf("it took longer than %s", openTime))
	defer cancel()
	for {
		captures, err := metric(ctx, "aadpodidentity_nmi_capture_in_pods")
		if err != nil || captures == 1 {
			return err
		}
		measure.Pause(ctx, 5*again) // each look costs NMI some milliseconds
		if ctx.Err() != nil {
			return fmt.Errorf("wait until NMI captures inside pods: %w: %s: %s", context.Cause(ctx), p.agent.Tail(), p.holder.Tail())
		}
	}
}

// metric returns a value of the agent's metrics.
func metric(ctx context.Context, name string) (float64, error) {
	page, err := stage.Get(ctx, "http://127.0.0.1:9090/metrics")
	if err != nil {
		return 0, fmt.Errorf("read the metrics of NMI: %w", err)
	}
	for line := range strings.Lines(page) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("read the metrics of NMI: no %s", name)
}

// stop stops both. One that does not run is no error.
func (p *pair) stop() error {
	var err error
	if p.agent != nil && p.agent.Program != nil {
		err = p.agent.Stop(syscall.SIGTERM)
	}
	return errors.Join(err, p.holder.Stop(syscall.SIGTERM))
}

// withPair starts a holder and its agent, calls f, and stops both.
func (n *node) withPair(ctx context.Context, f func(*pair) error) error {
	p, err := n.newPair(ctx)
	if err == nil {
		err = f(p)
	}
	if p != nil && p.holder != nil {
		err = errors.Join(err, p.stop())
	}
	return err
}

// innerPod is a pod with a network of its own.
type innerPod struct {
	*sender
	pair  *pair
	name  string
	group string // of the pod; the program is in one below
}

// startPod makes the network namespace and the control group of a pod, as a container runtime and
// the kubelet do.
func (p *pair) startPod(object *corev1.Pod) (_ *innerPod, err error) {
	pod := &innerPod{pair: p, name: object.Name, group: filepath.Join(p.groups, "pod"+string(object.UID))}
	container := filepath.Join(pod.group, "app")
	if err := os.MkdirAll(container, 0o755); err != nil {
		return nil, fmt.Errorf("make the control group of pod %s: %w", pod.name, err)
	}
	group, err := os.Open(container)
	if err != nil {
		return nil, fmt.Errorf("open the control group of pod %s: %w", pod.name, err)
	}
	defer func() { _ = group.Close() }()
	if pod.sender, err = p.n.startSender(group); err != nil {
		return nil, err
	}
	// The kernel removes the link with the namespace, so a link that stays shows a leaked namespace.
	if _, err := pod.join(innerLink + strconv.Itoa(pod.PID())); err != nil {
		return nil, err
	}
	if _, err := pod.order(order{Loopback: true}); err != nil {
		return nil, err
	}
	if err := os.WriteFile(pod.file(), nil, 0o600); err != nil {
		return nil, fmt.Errorf("name the network namespace of pod %s: %w", pod.name, err)
	}
	if err := unix.Mount(pod.namespace(), pod.file(), "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("name the network namespace of pod %s: %w", pod.name, err)
	}
	return pod, nil
}

// innerLink begins the names of links to pods with a network of their own.
const innerLink = "inner"

// file is where the runtime keeps the pod's network namespace.
func (i *innerPod) file() string { return filepath.Join(i.pair.folder, i.name) }

func (i *innerPod) namespace() string { return fmt.Sprintf("/proc/%d/ns/net", i.PID()) }

// stop ends the pod and removes what startPod has made.
func (i *innerPod) stop() error {
	err := i.Stop(syscall.SIGKILL)
	if unmounted := unix.Unmount(i.file(), unix.MNT_DETACH); unmounted != nil {
		err = errors.Join(err, fmt.Errorf("remove the network namespace of pod %s: %w", i.name, unmounted))
	}
	return errors.Join(err, os.Remove(i.file()), cgroup.Remove(i.group, groupTime))
}

const (
	// openTime is how long listeners may take.
	openTime = 10 * time.Second
	// again is the pause between two looks.
	again = 10 * time.Millisecond
)

// wait waits until the pod gets a token.
func (i *innerPod) wait(ctx context.Context) (first load.Result, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, openTime, fmt.Errorf("it took longer than %s", openTime))
	defer cancel()
	for {
		r, err := i.order(order{Load: new(inside(load.Spec{Connections: 1, Requests: 1, Length: requestTime}))})
		if err != nil || r.Failed == 0 {
			return r, err
		}
		measure.Pause(ctx, again)
		if ctx.Err() != nil {
			return r, fmt.Errorf("wait for a token in pod %s: %w: %s", i.name, context.Cause(ctx), r.Text)
		}
	}
}

// inside returns s with the request for NMI, from a pod with a network of its own.
func inside(s load.Spec) load.Spec {
	s.Sources = loopbacks(s.Fresh)
	return toNMI(s)
}

// loopbacks returns the addresses of a pod's own connections, several if each request has a new
// one: one address does not have enough ports.
func loopbacks(several bool) (list []netip.Addr) {
	for i := range byte(8) {
		list = append(list, netip.AddrFrom4([4]byte{127, 0, 0, 1 + i}))
	}
	if !several {
		return list[:1]
	}
	return list
}

// withPods starts the first pods of the node with networks of their own, calls f when each has got
// a token, and removes them.
func (p *pair) withPods(ctx context.Context, count int, f func([]*innerPod) error) (err error) {
	var pods []*innerPod
	defer func() {
		for _, pod := range pods {
			err = errors.Join(err, pod.stop())
		}
	}()
	for i := range count {
		object, err := p.n.stage.Kube.CoreV1().Pods(namespace).Get(ctx, podName(i), metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read pod %s: %w", podName(i), err)
		}
		pod, err := p.startPod(object)
		if err != nil {
			return err
		}
		pods = append(pods, pod)
	}
	for _, pod := range pods {
		if _, err := pod.wait(ctx); err != nil {
			return err
		}
	}
	return f(pods)
}
