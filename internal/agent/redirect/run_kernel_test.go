// The redirect over time, with a real kernel in throw-away namespaces: it is put back, not written again
// without need, handed over between agents, and taken away.

package redirect

import (
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

func veth(t *testing.T) *network { return newNetwork(t, wirings()[0]) }

// ours reads the table as the kernel has it.
func (n *network) ours(r *Redirect) (have *ruleset) {
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
	if d := cmp.Diff(build(r.config, r.port, r.generation).String(), n.ours(r).String()); d != "" {
		t.Errorf("the kernel shows other rules than were written (-want +got):\n%s", d)
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

// TestPutBack breaks the redirect in every way a person or program may, and waits for it to be whole again.
func TestPutBack(t *testing.T) {
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
			if n.whole(r) {
				t.Fatal("the damage does not show")
			}
			states, _ := n.run(r)
			if !n.whole(r) {
				t.Fatal("not whole after the first check")
			}
			began := time.Now()
			damage()
			n.waitWhole(r, states)
			t.Logf("whole again after %v", time.Since(began))
			body, err := get(n.pod, imds)
			n.wantBody("agent sees "+podIP, body, err)
		})
	}
}

// whole tells whether address and rules are in place.
func (n *network) whole(r *Redirect) bool {
	n.t.Helper()
	var present bool
	n.in(n.node, func() (err error) { present, err = hasAddress(r.config.AgentIP); return err })
	return present && diff(build(r.config, r.port, r.generation), n.ours(r)).empty()
}

// waitWhole waits for the check after which all is in place; each state is one check.
func (n *network) waitWhole(r *Redirect, states <-chan error) {
	n.t.Helper()
	deadline := time.After(patience)
	for {
		if n.whole(r) {
			return
		}
		select {
		case err := <-states:
			if err != nil {
				n.t.Logf("state: %v", err)
			}
		case <-deadline:
			n.t.Fatalf("not put back: %v", n.ours(r))
		}
	}
}

// setDormant switches a table off, as `nft add table ip podid '{ flags dormant; }'` does. The library cannot,
// so the batch is made by hand: begin, change the table, end.
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
	n.wantBody("older sees "+podIP, body, err) // what was open goes on

	select { // the older one saw the change, and has nothing to complain of
	case err := <-states:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the older agent did not look")
	}
	body, err = get(n.pod, imds)
	n.wantBody("newer sees "+podIP, body, err)

	leaveNewer() // an upgrade that fails: the older one takes over again
	stopNewer()
	n.ensure(older)
	body, err = get(n.pod, imds)
	n.wantBody("older sees "+podIP, body, err)

	leave()
	stopOlder()
	n.refused(n.pod, "tcp4", imds)
}

func TestStaysAfterRun(t *testing.T) {
	n := veth(t)
	r, stopServing := n.agent("agent", testConfig())
	_, leave := n.run(r)
	leave()
	stopServing()
	n.nothingLeaks(func() { n.refused(n.pod, "tcp4", imds) })
}

func TestRemove(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig())
	n.ensure(r)
	for range 2 { // the second time nothing is there
		n.in(n.node, func() error { return r.Remove(t.Context()) })
	}
	if have := n.ours(r); have != nil {
		t.Errorf("the table is still there:\n%s", have)
	}
	body, err := get(n.pod, imds)
	n.wantBody("metadata service", body, err)
}

func TestNotAllowed(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig())
	err := n.withoutCapabilities(func() error { return r.Ensure(t.Context()) })
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "needs the capability NET_ADMIN") {
		t.Errorf("got %v, want the missing capability named", err)
	}
}

// TestRefusedByModule: with the capability, "not permitted" is the answer of a security module.
func TestRefusedByModule(t *testing.T) {
	if err := explain(unix.EPERM); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "security module") {
		t.Errorf("got %v", err)
	}
}

func TestAddressTaken(t *testing.T) {
	n := veth(t)
	n.node.Address(t, "eth0", DefaultAgentIP+"/16")
	r, _ := n.agent("agent", testConfig())
	err := n.node.Do(func() error { return r.Ensure(t.Context()) })
	if err == nil || !strings.Contains(err.Error(), "choose another") {
		t.Errorf("got %v, want the clash named", err)
	}
	n.nothingLeaks(func() { // the rules are there all the same
		if body, err := get(n.pod, imds); body == "metadata service" {
			t.Errorf("got through to the metadata service (%v)", err)
		}
	})
}

// tally counts what it is told.
type tally struct{ set, repaired int }

func (c *tally) RedirectSet()      { c.set++ }
func (c *tally) RedirectRepaired() { c.repaired++ }

func TestCounts(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig())
	got := &tally{}
	r.CountTo(got)
	for range 3 { // put in place, found in place twice
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

func TestWatchEnds(t *testing.T) {
	n := veth(t)
	var c *changes
	n.in(n.node, func() (err error) { c, err = watch(DefaultTable); return err })
	c.stop() // returns only when its readers have ended
	select {
	case <-c.ended:
	default:
		t.Error("stopped, yet not ended")
	}
}
