package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/audit"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/testnet"
)

// churn is a node whose one pod address is given to one pod after the other.
type churn struct {
	*world
	node, pod *testnet.Net
	target    string
	link      string // of the pod that has the address
	last      *corev1.Pod
}

const podAddress, agentAddress = "10.9.0.2", "169.254.171.79"

func newChurn(t *testing.T, anyLink bool) *churn {
	c := &churn{world: newWorld(t, func(s *settings) { s.server.AttestLimit = 20 * time.Second }), node: testnet.New(t), pod: testnet.New(t)}
	c.attest = attest.NewTable(attest.Config{MaxWaiting: 16, MaxPerSource: 16, AnyLink: anyLink, NewestLink: func() int {
		newest := 0
		_ = c.node.Do(func() error { newest = attest.NewestLink(); return nil }) // 0: unknown
		return newest
	}})
	c.server.cfg.Attester = c.attest
	c.node.Address(t, "lo", agentAddress+"/32")
	var l net.Listener
	err := c.node.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(t.Context(), "tcp", agentAddress+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.target = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- connections.Serve(ctx, l, attest.NewOrigins(), c.server.ServePod, connections.Limits{Total: 64, PerSource: 64}, quiet())
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// succeed deletes the network of the pod that has the address, and gives the address to the next
// pod.
func (c *churn) succeed(generation int) {
	if c.link != "" {
		err := c.node.Do(func() error {
			link, err := netlink.LinkByName(c.link)
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	c.link = fmt.Sprint("pod", generation)
	testnet.Veth(c.t, c.node, c.link, c.pod, "eth0")
	c.pod.Address(c.t, "eth0", podAddress+"/32")
	c.pod.Route(c.t, agentAddress+"/32", "", "eth0")
	c.node.Route(c.t, podAddress+"/32", "", c.link)
}

// ask sends a token request from the address, and returns the identity of the token.
func (c *churn) ask() (status int, identity string) {
	conn := c.send()
	if conn == nil {
		return 0, ""
	}
	defer func() { _ = conn.Close() }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		c.t.Errorf("read: %v", err)
		return 0, ""
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if found := regexp.MustCompile(`"client_id":"c11e47-([^"]*)"`).FindSubmatch(body); found != nil {
		identity = string(found[1])
	}
	return resp.StatusCode, identity
}

// send sends a token request from the address. It returns nil if that fails.
func (c *churn) send() net.Conn {
	var conn net.Conn
	err := c.pod.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: 20 * time.Second}).Dial("tcp", c.target)
		return err
	})
	if err != nil {
		c.t.Errorf("connect: %v", err)
		return nil
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, "GET "+tokenQuery(arm)+" HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n")
	return conn
}

// next returns the pod of a generation, with an identity of its own.
func (c *churn) next(generation int, name string) *corev1.Pod {
	id := fmt.Sprint("id-", generation)
	c.bind(id, id)
	c.imds.has(id)
	c.state(name, id, v1.StateAssigned, "", "")
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(id), Labels: map[string]string{v1.BindingLabel: id}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: podAddress, HostIP: "10.0.0.1",
			Conditions: []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
		},
	}
}

func (c *churn) set(p *corev1.Pod) {
	c.authorize.SetPod(identity.Pod{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels})
	c.attest.Set(p)
}

func (c *churn) remove(p *corev1.Pod) {
	key := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
	c.attest.Remove(key)
	c.authorize.RemovePod(key)
}

// notify reports a succession to the agent as an API server may: in time or late, in either order,
// with a late change of the old pod before, and for pods that are recreated under their name.
func (c *churn) notify(generation int, now *corev1.Pod) {
	old := c.last
	c.last = now
	if old == nil {
		c.set(now)
		return
	}
	switch {
	case old.Name == now.Name:
		c.set(now)
	case generation%3 == 0:
		c.set(now)
		c.remove(old)
	case generation%3 == 1:
		late := old.DeepCopy()
		at := metav1.Now()
		late.DeletionTimestamp = &at
		late.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}}}}
		c.set(late)
		fallthrough
	default:
		c.remove(old)
		c.set(now)
	}
}

// run makes generations of pods send requests. lag is how long after that the agent is notified of
// a pod. It returns how many answers had the identity of another pod.
func (c *churn) run(generations int, lag time.Duration) (wrong int) {
	for g := 1; g <= generations; g++ {
		name := fmt.Sprint("job-", g)
		if g%7 < 2 {
			name = "db-0"
		}
		now := c.next(g, name)
		c.succeed(g)
		var notified chan struct{}
		if g%2 == 0 {
			c.notify(g, now)
		} else {
			notified = make(chan struct{})
			go func() {
				defer close(notified)
				<-time.After(lag)
				c.notify(g, now)
			}()
		}
		for range 2 {
			status, identity := c.ask()
			if identity != "" && identity != string(now.UID) {
				wrong++
			} else if status != http.StatusOK || identity == "" {
				c.t.Errorf("generation %d: got %d %s", g, status, identity)
			}
			if notified != nil {
				<-notified
			}
		}
	}
	return wrong
}

// TestPodEndsWhileHeld: a pod ends while its request waits, and another pod gets its address. The
// answer is not written, because the new pod would receive it. The same holds while an excepted
// pod's request waits for the metadata service.
func TestPodEndsWhileHeld(t *testing.T) {
	testnet.Require(t)
	for name, excepted := range map[string]bool{"token": false, "passed on": true} {
		t.Run(name, func(t *testing.T) {
			c := newChurn(t, false)
			l := newAuditLog(audit.All)
			c.server.cfg.Audit = l.Log
			old := c.next(1, "old")
			old.Labels["app"] = "old"
			c.succeed(1)
			c.set(old)
			if excepted {
				c.except("old")
			}
			arrived, goOn := make(chan struct{}), make(chan struct{})
			c.imds.fall(func(http.ResponseWriter, *http.Request) bool {
				close(arrived)
				<-goOn
				return false
			})
			conn := c.send()
			<-arrived
			c.succeed(2) // the API server does not report it yet
			<-time.After(2 * minReuseTime)
			close(goOn)
			line := l.next(t)
			if line.Decision != "refused" || line.Reason != "CallerGone" || line.Pod != "old" {
				t.Errorf("got %+v", line)
			}
			_ = conn.Close()
		})
	}
}

// TestAddressChurn: two hundred pods get one address after the other, and the agent is notified in
// time or late. A token always has the identity of the pod that has the address at that moment.
func TestAddressChurn(t *testing.T) {
	testnet.Require(t)
	began := time.Now()
	if wrong := newChurn(t, false).run(200, 4*time.Millisecond); wrong > 0 {
		t.Errorf("%d answers were another pod's", wrong)
	}
	t.Logf("200 successions in %v", time.Since(began))
}

// TestChurnOracle: without the interface as evidence, the test above fails.
func TestChurnOracle(t *testing.T) {
	testnet.Require(t)
	if wrong := newChurn(t, true).run(12, 200*time.Millisecond); wrong == 0 {
		t.Error("no answer was another pod's: the test cannot see what it looks for")
	}
}
