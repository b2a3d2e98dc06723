// Agents that replace each other while a pod sends 500 requests a second.

package main

import (
	"bytes"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// journal is the output of a process, which a test can wait for.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed when there is more
}

func newJournal() *journal { return &journal{more: make(chan struct{})} }

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.more)
	j.more = make(chan struct{})
	return j.text.Write(p)
}

// String returns the output so far.
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// says waits for a text in the output.
func (p *process) says(what string) {
	p.n.t.Helper()
	p.saysTimes(what, 1)
}

func (p *process) saysTimes(what string, times int) {
	p.n.t.Helper()
	deadline := time.After(atMost)
	for {
		p.log.mu.Lock()
		said, more := strings.Count(p.log.text.String(), what) >= times, p.log.more
		p.log.mu.Unlock()
		if said {
			return
		}
		select {
		case <-more:
		case <-deadline:
			p.n.t.Fatalf("nmi does not say %q:\n%s", what, p.log)
		}
	}
}

const (
	saysStarts   = "msg=starting "
	saysPlaced   = "redirect put in place"
	saysInPods   = "capturing requests inside pods"
	saysTakes    = "taking over from an older agent"
	saysServes   = "the newer agent serves pods"
	saysGoneBack = "lost the newer agent, taking over again"
)

// underLoad returns a node with a pod that sends requests without pause, and the agent that answers
// them.
func underLoad(t *testing.T) (*node, *load, *process) {
	n, p := serving(t)
	return n, n.startLoad(n.web), p
}

// serving returns a node with a pod that has an identity, and a ready agent.
func serving(t *testing.T) (*node, *process) {
	n := newNode(t)
	n.pod("web", "10.244.0.2", "Running")
	n.grant("web")
	p := n.start()
	n.probe("/readyz", 200, "ok")
	return n, p
}

// TestRolls replaces the agent several times.
func TestRolls(t *testing.T) {
	n, l, older := underLoad(t)
	for range 4 { // as the DaemonSet does: the old one ends when the new one is ready
		newer := n.start()
		newer.says(saysPlaced)
		n.probe("/readyz", 200, "ok")
		older.stop(syscall.SIGTERM)
		older = newer
	}
	for range 2 { // stopped at the moment the next one is started
		newer := n.start()
		// The older one serves for three seconds, in case another one is starting. On a busy machine
		// a program may take longer than that to run at all.
		newer.says(saysStarts)
		older.stop(syscall.SIGTERM)
		older = newer
	}
	newer := n.start("--http-probe-port=18080", "--prometheus-port=19090")
	newer.says(saysPlaced)
	older.stop(syscall.SIGTERM)
	l.check(t)
	n.want(n.web, tokenURL, 200, "access_token")
}

// TestRollWithoutMetadataService replaces the agent while the metadata service is down: the pod
// goes on with the token of the agent before.
func TestRollWithoutMetadataService(t *testing.T) {
	n, older := serving(t)
	n.want(n.web, tokenURL, 200, "access_token")
	n.down.Store(true)
	for range 2 {
		newer := n.start("--prefetch-resources=")
		newer.says("adopted tokens of the older agent")
		newer.says(saysPlaced)
		older.stop(syscall.SIGTERM)
		older = newer
		n.want(n.web, tokenURL, 200, "access_token")
		if text := newer.log.String(); strings.Contains(text, "e30.") {
			t.Errorf("the log holds a token:\n%s", text)
		}
	}
	older.stop(syscall.SIGKILL)
	n.start("--prefetch-resources=")
	n.probe("/readyz", 200, "ok")
	n.want(n.web, tokenURL, 500, "PID-511") // no agent was there to pass it on
}

// TestRollBack stops the newer of two agents: the older one continues.
func TestRollBack(t *testing.T) {
	n, l, older := underLoad(t)
	t.Run("before it serves", func(*testing.T) {
		newer := n.start("--kubeconfig=" + n.deadEnd())
		newer.says(saysTakes)
		n.probe("/readyz", 503, "an older agent has it")
		newer.stop(syscall.SIGKILL)
		older.says(saysGoneBack)
		n.probe("/readyz", 200, "ok")
	})
	t.Run("while it serves", func(*testing.T) {
		newer := n.start()
		newer.says(saysPlaced)
		older.says(saysServes)
		newer.stop(syscall.SIGTERM)
		n.probe("/readyz", 200, "ok")
	})
	newer := n.start()
	newer.says(saysPlaced)
	older.stop(syscall.SIGTERM)
	l.check(t)
}

// TestHostRolls sends requests as processes of the host do, while the agent is replaced.
func TestHostRolls(t *testing.T) {
	n, older := serving(t)
	stop, asked := make(chan struct{}), make(chan int)
	go func() {
		count := 0
		defer func() { asked <- count }()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			if status, body, err := n.get(n.node, "127.0.0.1:2579", "/healthz"); err != nil || status != 200 {
				t.Errorf("the host is not answered: %d %s %v", status, body, err)
				return
			}
			count++
		}
	}()
	for range 3 {
		newer := n.start()
		newer.says(saysPlaced)
		older.stop(syscall.SIGTERM)
		older = newer
	}
	close(stop)
	t.Logf("%d answers", <-asked)
}
