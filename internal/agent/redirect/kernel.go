// Reading and writing the table over netlink. Only this file uses nftables.

package redirect

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// readRuleset returns the chains that want has as the kernel has them, or nil if the table does not
// exist. A chain that cannot be read is left out. It then differs from want, and the write that
// follows returns the error. Only single objects are requested, because the tables of kube-proxy
// may be large.
func readRuleset(want ruleset) (*ruleset, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, explain(fmt.Errorf("open nftables: %w", err))
	}
	defer func() { _ = conn.CloseLasting() }()
	table, err := conn.ListTableOfFamily(want.table, nftables.TableFamilyIPv4)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, explain(fmt.Errorf("read nftables table %s: %w", want.table, err))
	}
	have := &ruleset{table: want.table, dormant: table.Flags != 0}
	for _, w := range want.chains {
		if c, err := readChain(conn, table, w.name); err == nil {
			have.chains = append(have.chains, c)
		}
	}
	return have, nil
}

func readChain(conn *nftables.Conn, table *nftables.Table, name string) (chain, error) {
	found, err := conn.ListChain(table, name)
	if err != nil {
		return chain{}, fmt.Errorf("read chain %s: %w", name, err)
	}
	c := chain{name: name}
	if found.Hooknum != nil && found.Priority != nil && found.Policy != nil {
		c.hook = &hook{kind: found.Type, point: *found.Hooknum, priority: int32(*found.Priority), policy: *found.Policy}
	}
	rules, err := conn.GetRules(table, found)
	if err != nil {
		return chain{}, fmt.Errorf("read the rules of chain %s: %w", name, err)
	}
	for _, r := range rules {
		c.rules = append(c.rules, rule{exprs: r.Exprs, comment: commentOf(r.UserData)})
	}
	return c, nil
}

// commentOf returns nft's comment from a rule's user data: entries of type, length and value. Any
// program may have written them, and the kernel does not check them. Data that cannot be parsed has
// no comment.
func commentOf(data []byte) string {
	for len(data) >= 2 {
		kind, length := data[0], int(data[1])
		data = data[2:]
		if length > len(data) {
			return ""
		}
		if userdata.Type(kind) == userdata.TypeComment {
			value := data[:length]
			if length > 0 && value[length-1] == 0 {
				value = value[:length-1]
			}
			return string(value)
		}
		data = data[length:]
	}
	return ""
}

// writeRuleset carries out the plan in one transaction, so that no packet passes half of it.
func writeRuleset(want ruleset, todo plan) error {
	conn, err := nftables.New()
	if err != nil {
		return explain(fmt.Errorf("open nftables: %w", err))
	}
	table := &nftables.Table{Name: want.table, Family: nftables.TableFamilyIPv4}
	if todo.whole {
		sendTable(conn, table, todo.exists)
		for _, c := range want.chains {
			sendChain(conn, table, c)
		}
	}
	for _, c := range want.chains {
		if todo.whole || slices.Contains(todo.chains, c.name) {
			sendRules(conn, table, c)
		}
	}
	if err := conn.Flush(); err != nil {
		return explain(fmt.Errorf("write nftables table %s: %w", want.table, err))
	}
	return nil
}

// sendTable creates the table again. If it did not exist when it was read, it is added before it is
// deleted: another agent may have added it meanwhile, and deleting a missing table fails.
func sendTable(conn *nftables.Conn, table *nftables.Table, exists bool) {
	if !exists {
		conn.AddTable(table)
	}
	conn.DelTable(table)
	conn.AddTable(table)
}

func sendChain(conn *nftables.Conn, table *nftables.Table, c chain) {
	out := &nftables.Chain{Name: c.name, Table: table}
	if c.hook != nil {
		out.Type, out.Hooknum, out.Policy = c.hook.kind, new(c.hook.point), new(c.hook.policy)
		out.Priority = new(nftables.ChainPriority(c.hook.priority))
	}
	conn.AddChain(out)
}

func sendRules(conn *nftables.Conn, table *nftables.Table, c chain) {
	in := &nftables.Chain{Name: c.name, Table: table}
	conn.FlushChain(in)
	for _, r := range c.rules {
		out := &nftables.Rule{Table: table, Chain: in, Exprs: r.exprs}
		if r.comment != "" {
			out.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
		}
		conn.AddRule(out)
	}
}

// deleteTable deletes the table. A missing table is no error.
func deleteTable(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return explain(fmt.Errorf("open nftables: %w", err))
	}
	table := &nftables.Table{Name: name, Family: nftables.TableFamilyIPv4}
	conn.AddTable(table)
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return explain(fmt.Errorf("delete nftables table %s: %w", name, err))
	}
	return nil
}

// mayChangeNetwork reports whether the thread has the capability NET_ADMIN.
func mayChangeNetwork() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	return unix.Capget(&header, &sets[0]) == nil && sets[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// ErrRefused means that a security module refuses the rules: no retry helps.
var ErrRefused = errors.New("a security module of this node refuses nftables rules")

// explain adds to an error of the kernel what an operator can do about it.
func explain(err error) error {
	refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	switch {
	case refused && mayChangeNetwork():
		return fmt.Errorf("%w, although the agent has the capability NET_ADMIN: %w, as on AKS nodes with eBPF host routing, "+
			"whose pods cannot be redirected: use a node pool without it, or capture inside pods", err, ErrRefused)
	case refused:
		return fmt.Errorf("%w: the agent needs the capability NET_ADMIN and hostNetwork", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: the node's kernel needs nf_tables with nat and reject "+
			"(modules nf_tables, nft_chain_nat, nft_nat, nft_reject_ipv4; Linux 5.10 or newer)", err)
	default:
		return err
	}
}
