// Notifications of the kernel about changes of nftables and of addresses.

package redirect

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// subscription receives a value when the table or an address may have changed. It has no detail and
// merges notifications: the check that follows reads the state itself.
type subscription struct {
	changed chan struct{} // holds at most one
	ended   chan struct{} // closed when no more notifications come
	once    sync.Once
	stop    func() // unsubscribes, and waits for the readers
}

// subscribe subscribes to changes of the table and of the node's IPv4 addresses.
func subscribe(table string) (*subscription, error) {
	rules, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, explain(fmt.Errorf("watch nftables: %w", err))
	}
	addresses, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR)
	if err != nil {
		rules.Close()
		return nil, explain(fmt.Errorf("watch addresses: %w", err))
	}
	s := &subscription{changed: make(chan struct{}, 1), ended: make(chan struct{})}
	var readers sync.WaitGroup
	readers.Go(func() { s.read(rules, func(m *syscall.NetlinkMessage) bool { return concernsTable(m, table) }) })
	readers.Go(func() {
		s.read(addresses, func(m *syscall.NetlinkMessage) bool { return m.Header.Type == unix.RTM_DELADDR })
	})
	s.stop = func() {
		rules.Close()
		addresses.Close()
		readers.Wait()
	}
	return s, nil
}

// read reads notifications until the socket is closed or fails.
func (s *subscription) read(socket *nl.NetlinkSocket, concerns func(*syscall.NetlinkMessage) bool) {
	defer s.once.Do(func() { close(s.ended) })
	for {
		messages, _, err := socket.Receive()
		if errors.Is(err, unix.ENOBUFS) { // notifications were lost, maybe one about the table
			s.notify()
			continue
		}
		if err != nil {
			return
		}
		for i := range messages {
			if concerns(&messages[i]) {
				s.notify()
				break
			}
		}
	}
}

func (s *subscription) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Sizes of the header before the attributes of an nftables message, and of an attribute's own
// header.
const (
	nfgenHeader     = 4
	attributeHeader = 4
)

// concernsTable reports whether a notification is about the table. In every nftables message about
// a table, chain, rule or set, attribute 1 is the table's name. A message about the whole ruleset
// has a number there.
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
