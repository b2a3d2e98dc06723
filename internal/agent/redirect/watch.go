// Being told of changes: the kernel announces every change of nftables and of addresses to whoever asks.

package redirect

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// changes tells that something of ours may have changed. It carries no detail: the check that follows reads
// the state itself, so any number of announcements is one.
type changes struct {
	seen  chan struct{} // holds at most one
	ended chan struct{} // closed when announcements no longer come
	once  sync.Once
	stop  func() // ends it and waits until it has ended
}

// watch asks for announcements about the table and the node's IPv4 addresses.
func watch(table string) (*changes, error) {
	rules, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, explain(fmt.Errorf("watch nftables: %w", err))
	}
	addresses, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR)
	if err != nil {
		rules.Close()
		return nil, explain(fmt.Errorf("watch addresses: %w", err))
	}
	c := &changes{seen: make(chan struct{}, 1), ended: make(chan struct{})}
	var readers sync.WaitGroup
	readers.Go(func() { c.read(rules, func(m *syscall.NetlinkMessage) bool { return concernsTable(m, table) }) })
	readers.Go(func() {
		c.read(addresses, func(m *syscall.NetlinkMessage) bool { return m.Header.Type == unix.RTM_DELADDR })
	})
	c.stop = func() {
		rules.Close()
		addresses.Close()
		readers.Wait()
	}
	return c, nil
}

// read passes announcements on until the socket is closed or broken.
func (c *changes) read(socket *nl.NetlinkSocket, concerns func(*syscall.NetlinkMessage) bool) {
	defer c.once.Do(func() { close(c.ended) })
	for {
		messages, _, err := socket.Receive()
		if errors.Is(err, unix.ENOBUFS) { // more came than fits: some of it may have been ours
			c.tell()
			continue
		}
		if err != nil {
			return
		}
		for i := range messages {
			if concerns(&messages[i]) {
				c.tell()
				break
			}
		}
	}
}

func (c *changes) tell() {
	select {
	case c.seen <- struct{}{}:
	default:
	}
}

// Sizes of what precedes the attributes of an nftables message, and of an attribute's own head.
const (
	nfgenHeader     = 4
	attributeHeader = 4
)

// concernsTable tells whether an announcement is about the table. In every nftables message about a table,
// chain, rule or set, attribute 1 is the table's name; a message about the ruleset as a whole has a number
// there.
func concernsTable(m *syscall.NetlinkMessage, table string) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nfgenHeader {
		return false
	}
	attributes := m.Data[nfgenHeader:]
	for len(attributes) >= attributeHeader {
		length := int(nl.NativeEndian().Uint16(attributes[0:2]))
		kind := nl.NativeEndian().Uint16(attributes[2:4]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if length < attributeHeader || length > len(attributes) {
			return false
		}
		if kind == unix.NFTA_TABLE_NAME {
			return string(attributes[attributeHeader:length]) == table+"\x00"
		}
		attributes = attributes[min((length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(attributes)):]
	}
	return false
}
