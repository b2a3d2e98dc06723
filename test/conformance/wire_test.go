// What is sent between a pod and the metadata service's address: captured on the node's end of the
// pod's veth, before the redirect changes requests and after it changes answers.
package conformance_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/testnet"
)

// exchange is one request and its answer.
type exchange struct {
	head   string // request line and headers, as sent, without the empty line
	status int    // of the answer, 0 while there is none
	at     time.Time
	done   time.Time
}

// wire records the requests of one pod.
type wire struct {
	end func() error // sends the marker

	mu      sync.Mutex
	conns   map[uint16]*conn // by the pod's port
	seen    []*exchange      // in the order in which the requests were complete
	changed chan struct{}    // closed at the next change
	markers int
}

// conn is one connection to port 80 of the metadata service.
type conn struct {
	out, in stream
	open    []*exchange // not answered yet, oldest first
}

// marker is the content of the packet that wire.end sends.
const marker = "everything before this has been seen"

// listenOn records what passes an interface until the test ends.
func listenOn(t *testing.T, n *testnet.Net, link string) *wire {
	t.Helper()
	w := &wire{conns: map[uint16]*conn{}, changed: make(chan struct{})}
	var socket *os.File
	must(t, n.Do(func() error {
		// IPv4 only, without the link-layer header.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(swap(unix.ETH_P_IP)))
		if err != nil {
			return err
		}
		socket = os.NewFile(uintptr(fd), "packets of "+link)
		device, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		// ETH_P_ALL, because the socket must see what is sent to the pod.
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_ALL), Ifindex: device.Index})
	}))
	t.Cleanup(func() { _ = socket.Close() })
	go func() {
		buffer := make([]byte, 1<<17) // packets are large, because a veth leaves segmentation to a network card
		for {
			n, err := socket.Read(buffer)
			if err != nil {
				return
			}
			w.packet(buffer[:n], time.Now())
		}
	}()
	return w
}

func swap(v uint16) uint16 { return v<<8 | v>>8 }

// packet handles an IPv4 packet. It ignores what it does not know.
func (w *wire) packet(p []byte, now time.Time) {
	if len(p) < 20 || p[0]>>4 != 4 {
		return
	}
	header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	if header < 20 || total < header || total > len(p) {
		return
	}
	from, to := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	body := p[header:total]
	w.mu.Lock()
	defer w.mu.Unlock()
	service := netip.MustParseAddr(metadataIP)
	switch {
	case p[9] == unix.IPPROTO_UDP && bytes.HasSuffix(body, []byte(marker)):
		w.markers++
	case p[9] == unix.IPPROTO_TCP && len(body) >= 20 && (from == service || to == service):
		w.segment(body, to == service, now)
	default:
		return
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// segment handles a TCP segment from the pod or to it.
func (w *wire) segment(p []byte, out bool, now time.Time) {
	source, destination := binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
	sequence, flags, data := binary.BigEndian.Uint32(p[4:]), p[13], p[min(int(p[12]>>4)*4, len(p)):]
	const syn = 2
	if out {
		if flags&syn != 0 {
			w.conns[source] = &conn{}
		}
		if c := w.conns[source]; c != nil {
			c.out.take(sequence, flags&syn != 0, data)
			c.requests(w, now)
		}
		return
	}
	if c := w.conns[destination]; c != nil {
		c.in.take(sequence, flags&syn != 0, data)
		c.answers(now)
	}
}

// requests removes the complete requests from what was sent. None has a body.
func (c *conn) requests(w *wire, now time.Time) {
	for {
		head, rest, ok := bytes.Cut(c.out.data, []byte("\r\n\r\n"))
		if !ok {
			return
		}
		e := &exchange{head: string(head), at: now}
		c.out.data = rest
		c.open = append(c.open, e)
		w.seen = append(w.seen, e)
	}
}

// answers removes the complete answers from what was received.
func (c *conn) answers(now time.Time) {
	for len(c.open) > 0 {
		reader := bytes.NewReader(c.in.data)
		buffered := bufio.NewReader(reader)
		answer, err := http.ReadResponse(buffered, nil)
		if err != nil {
			return
		}
		length, err := strconv.Atoi(answer.Header.Get("Content-Length"))
		left := buffered.Buffered() + reader.Len()
		_ = answer.Body.Close() // which reads it
		if err != nil || left < length {
			return
		}
		c.in.data = c.in.data[len(c.in.data)-left+length:]
		c.open[0].status, c.open[0].done = answer.StatusCode, now
		c.open = c.open[1:]
	}
}

// stream puts the segments of one direction in order.
type stream struct {
	begun bool
	next  uint32
	early map[uint32][]byte
	data  []byte
}

func (s *stream) take(sequence uint32, syn bool, data []byte) {
	if syn {
		*s = stream{begun: true, next: sequence + 1, early: map[uint32][]byte{}}
		return
	}
	if !s.begun || len(data) == 0 {
		return
	}
	s.early[sequence] = bytes.Clone(data)
	for again := true; again; {
		again = false
		for at, part := range s.early {
			behind := int32(s.next - at) // how much of the part is known already; wraps around as in TCP
			if behind < 0 {
				continue
			}
			delete(s.early, at)
			if int(behind) < len(part) {
				s.data = append(s.data, part[behind:]...)
				s.next = at + uint32(len(part))
			}
			again = true
		}
	}
}

// await waits until what was recorded satisfies ok, and returns it.
func (w *wire) await(limit <-chan time.Time, ok func([]exchange, int) bool) ([]exchange, bool) {
	for {
		w.mu.Lock()
		all := make([]exchange, 0, len(w.seen))
		for _, e := range w.seen {
			all = append(all, *e)
		}
		markers, changed := w.markers, w.changed
		w.mu.Unlock()
		if ok(all, markers) {
			return all, true
		}
		select {
		case <-changed:
		case <-limit:
			return all, false
		}
	}
}

// all returns what was sent since the last call. The client must have exited.
func (w *wire) all(t *testing.T) []exchange {
	t.Helper()
	all := w.sofar(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.conns = nil, map[uint16]*conn{}
	return all
}

// sofar returns what was sent since the last call of all.
func (w *wire) sofar(t *testing.T) []exchange {
	t.Helper()
	w.mu.Lock()
	before := w.markers
	w.mu.Unlock()
	must(t, w.end())
	all, ok := w.await(time.After(atMost), func(_ []exchange, markers int) bool { return markers > before })
	if !ok {
		t.Fatal("the recorder does not see what the pod sends")
	}
	return all
}

// answered waits until a request was answered with the status. It returns false if the client exits
// before.
func (w *wire) answered(t *testing.T, status int, ended <-chan time.Time) bool {
	t.Helper()
	was := func(all []exchange, _ int) bool {
		return slices.ContainsFunc(all, func(e exchange) bool { return e.status == status })
	}
	if _, ok := w.await(ended, was); ok {
		return true
	}
	return was(w.sofar(t), 0)
}
