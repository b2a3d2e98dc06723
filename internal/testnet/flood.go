// Floods of connections, and the resources of a process under them.

package testnet

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Listeners returns where a process listens: TCP addresses of its network namespace, and Unix
// sockets.
func Listeners(t testing.TB, pid int) []net.Addr {
	t.Helper()
	sockets := socketInodes(t, pid)
	var all []net.Addr
	for _, table := range []string{"tcp", "tcp6"} {
		for _, f := range procTable(t, pid, table) {
			const listening = "0A"
			if len(f) > 9 && f[3] == listening && sockets[f[9]] {
				address, err := parseProcAddress(f[1])
				must(t, "read "+f[1], err)
				all = append(all, net.TCPAddrFromAddrPort(address))
			}
		}
	}
	for _, f := range procTable(t, pid, "unix") {
		const listening = "00010000"
		if len(f) > 7 && f[3] == listening && sockets[f[6]] {
			network := map[string]string{"0001": "unix", "0005": "unixpacket"}[f[4]]
			all = append(all, &net.UnixAddr{Net: network, Name: f[7]})
		}
	}
	return all
}

// socketInodes returns the sockets that a process has open.
func socketInodes(t testing.TB, pid int) map[string]bool {
	t.Helper()
	inodes := map[string]bool{}
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(folder)
	must(t, "list the files of a process", err)
	for _, f := range files {
		target, err := os.Readlink(filepath.Join(folder, f.Name()))
		if inode, ok := strings.CutPrefix(target, "socket:["); ok && err == nil {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return inodes
}

// procTable returns the fields of each line of a table of sockets.
func procTable(t testing.TB, pid int, name string) (lines [][]string) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, name))
	must(t, "read the sockets of a process", err)
	for line := range strings.Lines(string(text)) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

// parseProcAddress reads an address in the form of /proc/net/tcp: hexadecimal words in the
// machine's byte order, a colon, and the port.
func parseProcAddress(s string) (netip.AddrPort, error) {
	words, port, _ := strings.Cut(s, ":")
	var ip []byte
	for ; len(words) >= 8; words = words[8:] {
		word, err := strconv.ParseUint(words[:8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, err
		}
		ip = append(ip, byte(word), byte(word>>8), byte(word>>16), byte(word>>24)) //nolint:gosec // bytes of little-endian words
	}
	n, err := strconv.ParseUint(port, 16, 16)
	a, ok := netip.AddrFromSlice(ip)
	if err != nil || !ok {
		return netip.AddrPort{}, fmt.Errorf("%q is no address: %w", s, err)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

// Sockets returns how many sockets a process has open.
func Sockets(t testing.TB, pid int) int {
	t.Helper()
	return len(socketInodes(t, pid))
}

// MostMemory returns the peak of a process's resident memory, in MiB.
func MostMemory(t testing.TB, pid int) int {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	must(t, "read the status of a process", err)
	defer func() { _ = file.Close() }()
	for s := bufio.NewScanner(file); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok {
			kB, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(text), " kB"))
			must(t, "read "+s.Text(), err)
			return kB >> 10
		}
	}
	t.Fatal("the process has no memory: it has ended")
	return 0
}

// misuses lists what the clients of a flood send.
func misuses() [][]byte {
	const head = " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n"
	return [][]byte{
		nil,                                    // nothing
		[]byte("GET /healthz HTTP/1.1"),        // half a header
		[]byte("GET /healthz" + head + "\r\n"), // a request, and then nothing
		[]byte("POST /metrics" + head + "Content-Length: 1000000\r\n\r\nx"),                           // half a body
		[]byte("POST /healthz" + head + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"),               // half of one in chunks
		[]byte(strings.Repeat("GET /metrics"+head+"\r\n", 400)),                                       // many requests
		[]byte(strings.Repeat("GET /debug/pprof/goroutine?debug=2"+head+"\r\n", 100)),                 // costly ones
		[]byte("GET /debug/pprof/profile?seconds=60" + head + "\r\n"),                                 // long ones
		[]byte("GET /metrics" + head + strings.Repeat("X-A: "+strings.Repeat("x", 1000)+"\r\n", 200)), // a long header
		[]byte(strings.Repeat("GET /metadata/instance?api-version=2021-02-01"+head+"\r\n", 200)),      // many for the metadata service
	}
}

// Flood lets clients in the namespace connect to an address and misuse their connections in every
// way until stop is called: they send nothing, half a request or too much, and never read. 500
// connect every second, and the oldest leave when there are more than keep. stop returns how many
// there were.
func (n *Net) Flood(to net.Addr, keep int) (stop func() int) {
	ended := make(chan struct{})
	var clients sync.WaitGroup
	var count int
	clients.Go(func() {
		// An error means that the namespace could not be entered; there are no clients then.
		_ = n.Do(func() error {
			count = flood(to, keep, ended)
			return nil
		})
	})
	return func() int {
		close(ended)
		clients.Wait()
		return count
	}
}

func flood(to net.Addr, keep int, ended <-chan struct{}) (count int) {
	open := make([]int, 0, keep)
	leave := func(some []int) {
		for _, fd := range some {
			_ = unix.Close(fd) // that of a client
		}
	}
	defer func() { leave(open) }()
	requests := misuses()
	next := time.NewTicker(2 * time.Millisecond)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ended:
			return count
		}
		fd, err := connect(to)
		if err != nil {
			continue // the backlog is full
		}
		// What does not fit into the buffers stays unsent. The connection may be closed already.
		_, _ = unix.Write(fd, requests[count%len(requests)])
		count++
		if open = append(open, fd); len(open) == keep {
			leave(open[:keep/2])
			open = append(open[:0], open[keep/2:]...)
		}
	}
}

// connect returns a non-blocking socket with a small receive buffer.
func connect(to net.Addr) (int, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	var peer unix.Sockaddr
	switch a := to.(type) {
	case *net.TCPAddr:
		peer = &unix.SockaddrInet4{Port: a.Port, Addr: a.AddrPort().Addr().Unmap().As4()}
	case *net.UnixAddr:
		family, peer = unix.AF_UNIX, &unix.SockaddrUnix{Name: a.Name}
		if a.Net == "unixpacket" {
			kind = unix.SOCK_SEQPACKET
		}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	// The timeout bounds connect.
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 100_000}), unix.Connect(fd, peer), unix.SetNonblock(fd, true))
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
