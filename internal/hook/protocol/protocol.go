// Package protocol is how the holder passes the sockets in pods' network namespaces to the agent,
// and how the agent asks it to capture pods on the node's network.
//
// They are connected by a Unix socket that keeps the borders of messages (SOCK_SEQPACKET). Both
// check who the other is. A message is a line of JSON; sockets come with it as descriptors.
package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Kind is what a message reports.
type Kind string

const (
	// Appeared comes with two descriptors: the listener in a namespace, and its sock_diag socket.
	Appeared Kind = "appeared"
	// Vanished means that a namespace is being removed. The sockets in it must be closed.
	Vanished Kind = "vanished"
	// Complete follows the namespaces that were there when the agent connected, once each that can
	// be opened was opened and published. One that could not be prepared may still follow.
	Complete Kind = "complete"
)

// Message is one from the holder.
type Message struct {
	Kind Kind `json:"kind"`
	// Namespace is the name of the namespace's file.
	Namespace string `json:"namespace,omitempty"`
	// Cookie identifies the namespace.
	Cookie uint64 `json:"cookie,omitempty"`
	// Address is where the listener listens in the namespace.
	Address netip.AddrPort `json:"address,omitzero"`
}

const (
	maxMessage = 4096
	maxFiles   = 2
)

// Conn is one side of the connection. One goroutine may send while another receives.
type Conn struct{ unix *net.UnixConn }

// Close ends the connection.
func (c *Conn) Close() error { return c.unix.Close() }

// sendTimeout bounds the wait for an agent that does not receive. Messages take microseconds.
const sendTimeout = 10 * time.Second

// Send sends a message with descriptors. The caller still has to close its own. An agent that does
// not receive for a while is an error.
func (c *Conn) Send(m Message, files ...*os.File) error {
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	var rights []byte
	if len(files) > 0 {
		descriptors := make([]int, len(files))
		for i, f := range files {
			descriptors[i] = int(f.Fd())
		}
		rights = unix.UnixRights(descriptors...)
	}
	if err := c.unix.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("send %s of namespace %s: %w", m.Kind, m.Namespace, err)
	}
	if _, _, err := c.unix.WriteMsgUnix(line, rights, nil); err != nil {
		return fmt.Errorf("send %s of namespace %s: %w", m.Kind, m.Namespace, err)
	}
	return nil
}

// WaitEnd waits until the other end has closed the connection or sends something, which an agent
// never does. What it sends is not looked at.
func (c *Conn) WaitEnd() { _, _ = c.unix.Read(make([]byte, 1)) }

// ErrDescriptors means that this process may not have more descriptors.
var ErrDescriptors = errors.New("sockets were lost because this process has as many files open as it may: raise the limit (ulimit -n)")

// Receive waits for a message. The caller has to close the files.
func (c *Conn) Receive() (Message, []*os.File, error) {
	line, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oob, flags, _, err := c.unix.ReadMsgUnix(line, rights)
	if err != nil {
		return Message{}, nil, fmt.Errorf("receive message: %w", err)
	}
	files, err := received(rights[:oob])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = ErrDescriptors
	}
	var m Message
	if err == nil {
		if err = json.Unmarshal(line[:n], &m); err != nil {
			err = fmt.Errorf("read message: %w", err)
		}
	}
	if err == nil && m.Kind == Appeared && len(files) != maxFiles {
		err = fmt.Errorf("namespace %s came with %d sockets, not %d", m.Namespace, len(files), maxFiles)
	}
	if err != nil {
		closeAll(files)
		return Message{}, nil, err
	}
	return m, files, nil
}

// received returns the descriptors in control messages.
func received(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("read descriptors: %w", err)
	}
	var files []*os.File
	for i := range messages {
		descriptors, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("read descriptors: %w", err)
		}
		for _, fd := range descriptors {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
