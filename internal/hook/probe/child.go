// The program that connects.

package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/netns"
)

// name is the program's name.
const name = "podid-probe"

// errorPrefix begins a line with an error.
const errorPrefix = "error "

// connectTimeout bounds the connect, which takes microseconds.
const connectTimeout = 2 * time.Second

// Main is the program that connects, if this process is one. Every program that calls Run has to
// call it first, and to exit with the code if it is.
func Main() (code int, is bool) {
	if len(os.Args) != 2 || os.Args[0] != name {
		return 0, false
	}
	if err := connectAs(os.Args[1], os.Stdin, os.Stdout); err != nil {
		_, _ = fmt.Fprintf(os.Stdout, "%s%v\n", errorPrefix, err)
		return 1, true
	}
	return 0, true
}

// connectAs reports a listener, waits for a line, connects, and reports that it met the listener.
func connectAs(metadata string, in io.Reader, out io.Writer) error {
	if err := loopbackOnly(); err != nil {
		return err
	}
	cookie, err := netns.Cookie()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() { _ = listener.Close() }()
	if _, err := fmt.Fprintf(out, "%d %s\n", cookie, listener.Addr()); err != nil {
		return err
	}
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return fmt.Errorf("wait for the start: %w", err)
	}
	if err := meet(ctx, metadata, listener); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "met")
	return err
}

// loopbackOnly sets lo up. It fails in a network namespace with a way out.
func loopbackOnly() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	for _, l := range links {
		switch a := l.Attrs(); {
		case a.Flags&net.FlagLoopback != 0:
			if err := netlink.LinkSetUp(l); err != nil {
				return fmt.Errorf("set %s up: %w", a.Name, err)
			}
		case a.Flags&net.FlagUp != 0:
			return fmt.Errorf("the network of the probe has the interface %s, so it does not connect", a.Name)
		}
	}
	return nil
}

// meet connects to the metadata service and returns an error unless the connection arrives at the
// listener. It must be called in a network namespace without a way out.
func meet(ctx context.Context, metadata string, listener net.Listener) error {
	d := net.Dialer{Timeout: connectTimeout, Control: func(_, _ string, raw syscall.RawConn) error {
		var optionErr error // the packet would not get farther than the next hop
		err := raw.Control(func(fd uintptr) { optionErr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TTL, 1) })
		return errors.Join(err, optionErr)
	}}
	conn, err := d.DialContext(ctx, "tcp4", metadata)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return err
	}
	arrived, err := listener.Accept()
	if err != nil {
		return fmt.Errorf("the connection arrived somewhere else: %w", err)
	}
	defer func() { _ = arrived.Close() }()
	if arrived.RemoteAddr().String() != conn.LocalAddr().String() {
		return errors.New("the connection arrived somewhere else")
	}
	return nil
}
