// The redirect over time, with a real kernel in temporary namespaces: it is restored, not written
// again without need, handed over between agents, and removed.

package redirect

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func veth(t *testing.T) *network { return newNetwork(t, topologies()[0]) }

// ruleset returns the table as the kernel has it.
func (n *network) ruleset(r *Redirect) (have *ruleset) {
	n.t.Helper()
	n.in(n.node, func() (err error) {
		have, err = readRuleset(build(r.config, r.port, r.generation))
		return err
	})
	return have
}

func TestReadsBack(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig())
	n.ensure(r)
	if d := cmp.Diff(build(r.config, r.port, r.generation).String(), n.ruleset(r).String()); d != "" {
		t.Errorf("the kernel has other rules than were written (-want +got):\n%s", d)
	}
}

func TestWritesOnlyDifferences(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig())
	n.ensure(r)
	before := n.handles(DefaultTable)
	n.ensure(r)
	if d := cmp.Diff(before, n.handles(DefaultTable)); d != "" {
		t.Errorf("rules were written again although all was in place:\n%s", d)
	}

	newer, _ := n.agent("newer", testConfig())
	n.ensure(newer)
	after, changed := n.handles(DefaultTable), 0
	for i := range before {
		if before[i] != after[i] {
			changed++
		}
	}
	if len(before) != len(after) || changed != 1 {
		t.Errorf("%d rules changed for a new port, want the divert rule alone (%v, %v)", changed, before, after)
	}
}

// TestRestored damages the redirect in every way an operator or a program may, and waits until it
// is restored.
func TestRestored(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(c *nftables.Conn, table *nftables.Table) error
	}{
		{"table deleted", func(c *nftables.Conn, table *nftables.Table) error {
			c.DelTable(table)
			return nil
		}},
		{"ruleset flushed", func(c *nftables.Conn, _ *nftables.Table) error {
			c.FlushRuleset()
			return nil
		}},
		{"chain emptied", func(c *nftables.Conn, table *nftables.Table) error {
			c.FlushChain(&nftables.Chain{Name: divertChain, Table: table})
			return nil
		}},
		{"rule in front", func(c *nftables.Conn, table *nftables.Table) error {
			c.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: forwardChain, Table: table}, Exprs: drop()})
			return nil
		}},
		{"table dormant", func(_ *nftables.Conn, table *nftables.Table) error {
			return setDormant(table.Name)
		}},
		{"address deleted", func(_ *nftables.Conn, _ *nftables.Table) error {
			return deleteAddress(testConfig().AgentIP)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := veth(t)
			r, _ := n.agent("agent", testConfig())
			n.ensure(r)
			damage := func() {
				n.in(n.node, func() error {
					c, err := nftables.New()
					if err != nil {
						return err
					}
					if err := tt.damage(c, &nftables.Table{Name: DefaultTable, Family: nftables.TableFamilyIPv4}); err != nil {
						return err
					}
					return c.Flush()
				})
			}
			damage()
			if n.inPlace(r) {
				t.Fatal("the damage has no effect")
			}
			states, _ := n.run(r)
			if !n.inPlace(r) {
				t.Fatal("not restored by the first check")
			}
			began := time.Now()
			damage()
			n.waitInPlace(r, states)
			t.Logf("restored after %v", time.Since(began))
			body, err := get(n.pod, imds)
			n.wantBody("agent sees "+podIP, body, err)
		})
	}
}

// inPlace reports whether address and rules are in place.
func (n *network) inPlace(r *Redirect) bool {
	n.t.Helper()
	var present bool
	n.in(n.node, func() (err error) { present, err = hasAddress(r.config.AgentIP); return err })
	return present && diff(build(r.config, r.port, r.generation), n.ruleset(r)).empty()
}

// waitInPlace waits for the check after which the redirect is in place. Each state is one check.
func (n *network) waitInPlace(r *Redirect, states <-chan error) {
	n.t.Helper()
	deadline := time.After(testTimeout)
	for {
		if n.inPlace(r) {
			return
		}
		select {
		case err := <-states:
			if err != nil {
				n.t.Logf("state: %v", err)
			}
		case <-deadline:
			n.t.Fatalf("not restored: %v", n.ruleset(r))
		}
	}
}

// setDormant switches a table off, as `nft add table ip podid '{ flags dormant; }'` does. The
// library cannot do that, so this sends the messages itself: begin of a batch, change of the table,
// end.
func setDormant(table string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	message := func(kind, family uint8, system int, attributes ...*nl.RtAttr) []byte {
		m := nl.NewNetlinkRequest(system<<8|int(kind), unix.NLM_F_REQUEST)
		m.AddRawData([]byte{family, 0, 0, unix.NFNL_SUBSYS_NFTABLES})
		for _, a := range attributes {
			m.AddRawData(a.Serialize())
		}
		return m.Serialize()
	}
	const dormant = 1 // NFT_TABLE_F_DORMANT, big endian
	return unix.Sendto(fd, slices.Concat(
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, 0),
		message(unix.NFT_MSG_NEWTABLE, unix.NFPROTO_IPV4, unix.NFNL_SUBSYS_NFTABLES,
			nl.NewRtAttr(unix.NFTA_TABLE_NAME, append([]byte(table), 0)),
			nl.NewRtAttr(unix.NFTA_TABLE_FLAGS, []byte{0, 0, 0, dormant})),
		message(unix.NFNL_MSG_BATCH_END, 0, 0),
	), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func TestGenerations(t *testing.T) {
	n := veth(t)
	older, stopOlder := n.agent("older", testConfig())
	states, leave := n.run(older)
	body, err := get(n.pod, imds)
	n.wantBody("older sees "+podIP, body, err)
	open, err := dial(n.pod, "tcp4", imds)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(open)

	newer, stopNewer := n.agent("newer", testConfig())
	if newer.port == older.port {
		t.Fatalf("both listen on port %d", newer.port)
	}
	_, leaveNewer := n.run(newer)
	body, err = get(n.pod, imds)
	n.wantBody("newer sees "+podIP, body, err)
	body, err = ask(open)
	n.wantBody("older sees "+podIP, body, err) // open connections stay with the older agent

	select { // the older agent notices the change, which is no error
	case err := <-states:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(testTimeout):
		t.Fatal("the older agent did not check")
	}
	body, err = get(n.pod, imds)
	n.wantBody("newer sees "+podIP, body, err)

	leaveNewer() // an upgrade that fails: the older agent takes over again
	stopNewer()
	n.ensure(older)
	body, err = get(n.pod, imds)
	n.wantBody("older sees "+podIP, body, err)

	leave()
	stopOlder()
	n.wantRefused(n.pod, "tcp4", imds)
}

// TestStopped: what ends while it asks whether another agent answers leaves the rules to that
// agent.
func TestStopped(t *testing.T) {
	n := veth(t)
	older, _ := n.agent("older", testConfig())
	newer, _ := n.agent("newer", testConfig())
	n.ensure(newer)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for name, act := range map[string]func() error{
		"older agent": func() error { return older.Ensure(ctx) },
		"boot guard":  func() error { _, err := Guard(ctx, testConfig()); return err },
		"cleanup":     func() error { _, err := Clean(ctx, testConfig(), testTimeout, false); return err },
	} {
		if err := n.node.Do(act); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		if !n.inPlace(newer) {
			t.Fatalf("%s took the rules of an agent that answers", name)
		}
	}
}

func TestStaysAfterRun(t *testing.T) {
	n := veth(t)
	r, stopServing := n.agent("agent", testConfig())
	_, leave := n.run(r)
	leave()
	stopServing()
	n.nothingLeaks(func() { n.wantRefused(n.pod, "tcp4", imds) })
}

func TestRemove(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig())
	n.ensure(r)
	for range 2 { // the second time they do not exist
		n.in(n.node, func() error { return r.Remove(t.Context()) })
	}
	if have := n.ruleset(r); have != nil {
		t.Errorf("the table still exists:\n%s", have)
	}
	body, err := get(n.pod, imds)
	n.wantBody("metadata service", body, err)
}

func TestNotAllowed(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig())
	err := n.withoutCapabilities(func() error { return r.Ensure(t.Context()) })
	if !errors.Is(err, unix.EPERM) || errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "needs the capability NET_ADMIN") {
		t.Errorf("got %v, want an error that names the missing capability", err)
	}
}

// TestRefusedByModule: with the capability, EPERM comes from a security module.
func TestRefusedByModule(t *testing.T) {
	if err := explain(unix.EPERM); !errors.Is(err, unix.EPERM) || !errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
}

func TestAddressTaken(t *testing.T) {
	n := veth(t)
	n.node.Address(t, "eth0", DefaultAgentIP+"/16")
	r, _ := n.agent("agent", testConfig())
	err := n.node.Do(func() error { return r.Ensure(t.Context()) })
	if err == nil || !strings.Contains(err.Error(), "choose another") {
		t.Errorf("got %v, want an error that asks for another address", err)
	}
	n.nothingLeaks(func() { // the rules are in place anyway
		if body, err := get(n.pod, imds); body == "metadata service" {
			t.Errorf("the metadata service responded (%v)", err)
		}
	})
}

// tally counts the calls of its methods.
type tally struct{ set, repaired int }

func (c *tally) RedirectSet()      { c.set++ }
func (c *tally) RedirectRepaired() { c.repaired++ }

func TestCounts(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig())
	got := &tally{}
	r.CountTo(got)
	for range 3 { // put in place once, then found in place
		n.ensure(r)
	}
	n.in(n.node, func() error { return deleteTable(DefaultTable) })
	n.ensure(r)
	if *got != (tally{set: 1, repaired: 1}) {
		t.Errorf("got %+v", *got)
	}
}

func TestListenTakesFreePort(t *testing.T) {
	n := veth(t)
	first, _ := n.agent("first", testConfig())
	second, _ := n.agent("second", testConfig())
	if first.port != 2579 || second.port == first.port || second.port == 0 {
		t.Errorf("ports %d and %d, want 2579 and a free one", first.port, second.port)
	}
}

func TestSubscriptionStops(t *testing.T) {
	n := veth(t)
	var s *subscription
	n.in(n.node, func() (err error) { s, err = subscribe(DefaultTable); return err })
	s.stop() // returns after its readers
	select {
	case <-s.ended:
	default:
		t.Error("stopped, but ended is not closed")
	}
}
