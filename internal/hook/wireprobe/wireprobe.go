// Package wireprobe finds out where on the node's network a pod's connection to the metadata
// service arrives. That the redirect's rules are in place would prove less: another program's rules
// can come before them.
//
// A thread makes a network namespace for itself and joins it with the node's by a pair of
// interfaces. It connects from inside, as a pod does, and asks a question that the agent alone can
// answer. Every packet has a time to live of one hop: what passes by the redirect ends on the node,
// which reports that. The namespace and the interfaces end with the thread, and so with the
// process, however that ends.
//
// Packets meet the node's netfilter as those of pods do, but not what a network plugin attaches to
// pods' own interfaces. So a probe that does not arrive proves that the redirect is passed by only
// if it arrived somewhere else. Firewalls that know pods' interfaces may drop it.
//
//	wireprobe.go  what is asked, and what was found
//	network.go    the namespace and the interfaces
//	connect.go    the connection
package wireprobe

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"time"

	"github.com/podid-io/podid/internal/hook/netns"
)

// Question is what a probe asks, and the answer that proves that it met the agent. Both are random
// numbers in hexadecimal digits. They are no secrets of any value: who knows them can only ask
// where a probe arrives.
type Question struct {
	Question string `json:"question"`
	Answer   string `json:"answer"`
}

// Path and Header are what the agent knows a probe by: the path of the request, and the header with
// the question.
const (
	Path   = "/podid/probe"
	Header = "Podid-Probe"
)

// Valid reports whether question and answer have the right form.
func (q Question) Valid() bool {
	form := regexp.MustCompile(`^[0-9a-f]{32}$`)
	return form.MatchString(q.Question) && form.MatchString(q.Answer)
}

// Met is what a probe met.
type Met int

const (
	// Unknown is anything that happens to probes although pods are served: a firewall that does not
	// know the probe's interface drops it or refuses it with an ICMP error.
	Unknown Met = iota
	// Agent has answered the question.
	Agent
	// Stranger has sent another answer.
	Stranger
	// Silence is a process that accepted the connection and answered nothing.
	Silence
	// Reset is that the connection was refused.
	Reset
	// Router is that the node would have routed the packet to the metadata service.
	Router
)

// Finding is what a probe met, and the details for people.
type Finding struct {
	Met    Met
	Detail string
}

// Config is where a probe connects from, and to.
type Config struct {
	Metadata netip.AddrPort
	// Source is the probe's address. It must be link-local, and of no pod and no node.
	Source netip.Addr
	Question
}

// The time limits of a probe, which takes some 40 ms. A lost packet is sent again after a
// second.
const (
	connectTime = 2500 * time.Millisecond
	answerTime  = 2 * time.Second
)

// Run sends a probe to the network namespace of this thread. It returns an error if the probe could
// not be sent, which says nothing about pods. Probes of several processes in one namespace wait for
// each other.
func Run(ctx context.Context, c Config) (found Finding, err error) {
	node, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return Finding{}, fmt.Errorf("open the node's network namespace: %w", err)
	}
	defer func() { _ = node.Close() }()
	err = netns.OnOwnThread(func() (err error) {
		if err := netns.Enter(node); err != nil {
			return err
		}
		n, err := newNetwork(ctx, c)
		if err != nil {
			return err
		}
		defer n.close()
		found, err = connect(ctx, c)
		return err
	})
	if err != nil {
		return Finding{}, fmt.Errorf("send a probe on the node's network: %w", err)
	}
	return found, nil
}
