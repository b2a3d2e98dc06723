package sockdiag

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const established = 1

var (
	from = netip.MustParseAddrPort("127.0.0.1:40000")
	to   = netip.MustParseAddrPort("127.0.0.1:64579")
)

// answer returns a message as the kernel answers with.
func answer(sequence uint32, family, state byte, from, to netip.AddrPort, group uint64) []byte {
	native := binary.NativeEndian
	m := make([]byte, header+answerSize)
	native.PutUint16(m[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint32(m[8:], sequence)
	m[header], m[header+answerState] = family, state
	socket := m[header+answerSocket:]
	binary.BigEndian.PutUint16(socket[socketFrom:], from.Port())
	binary.BigEndian.PutUint16(socket[socketTo:], to.Port())
	for at, end := range map[int]netip.AddrPort{socketFromIP: from, socketToIP: to} {
		ip := end.Addr().As16()
		if family == unix.AF_INET {
			ip4 := end.Addr().As4()
			ip = [16]byte{}
			copy(ip[:], ip4[:])
		}
		copy(socket[at:], ip[:])
	}
	m = append(m, 5, 0, 8, 0, 0, 0, 0, 0) // another attribute: INET_DIAG_SHUTDOWN
	if group != 0 {
		m = native.AppendUint16(m, attributeHead+8)
		m = native.AppendUint16(m, attributeGroup)
		m = native.AppendUint64(m, group)
	}
	native.PutUint32(m, uint32(len(m)))
	return m
}

func refusal(sequence uint32, code unix.Errno) []byte {
	m := make([]byte, header+4)
	binary.NativeEndian.PutUint16(m[4:], unix.NLMSG_ERROR)
	binary.NativeEndian.PutUint32(m[8:], sequence)
	binary.NativeEndian.PutUint32(m[header:], uint32(-int32(code)))
	return m
}

// TestAnswers: only the other end of the connection counts, and it must be an end.
func TestAnswers(t *testing.T) {
	const four, six = unix.AF_INET, unix.AF_INET6
	otherPort, otherIP := netip.MustParseAddrPort("127.0.0.1:40001"), netip.MustParseAddrPort("127.0.0.2:40000")
	for _, tt := range []struct {
		name  string
		m     []byte
		group uint64
		err   error
	}{
		{"connection", answer(1, four, established, from, to, 7), 7, nil},
		{"closing", answer(1, four, 5, from, to, 7), 7, nil},
		{"v4-mapped", answer(1, six, established, from, to, 7), 7, nil},
		{"kernel without groups", answer(1, four, established, from, to, 0), 0, ErrNoGroup},
		{"listener at its port", answer(1, four, stateListen, from, netip.MustParseAddrPort("0.0.0.0:0"), 7), 0, ErrNoSocket},
		{"listener that says both ends", answer(1, four, stateListen, from, to, 7), 0, ErrNoSocket},
		{"time wait", answer(1, four, stateTimeWait, from, to, 0), 0, ErrNoSocket},
		{"half open", answer(1, four, stateSynReceived, from, to, 0), 0, ErrNoSocket},
		{"other port", answer(1, four, established, otherPort, to, 7), 0, ErrNoSocket},
		{"other address", answer(1, four, established, otherIP, to, 7), 0, ErrNoSocket},
		{"to another port", answer(1, four, established, from, otherPort, 7), 0, ErrNoSocket},
		{"to another address", answer(1, four, established, from, netip.MustParseAddrPort("127.0.0.2:64579"), 7), 0, ErrNoSocket},
		{"IPv6", answer(1, six, established, netip.MustParseAddrPort("[::1]:40000"), to, 7), 0, ErrNoSocket},
		{"no socket", refusal(1, unix.ENOENT), 0, ErrNoSocket},
		{"not allowed", refusal(1, unix.EPERM), 0, unix.EPERM},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, late, err := parse(tt.m, 1)
			var group uint64
			if err == nil {
				group, err = s.callers(from, netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port()))
			}
			if group != tt.group || late || !errors.Is(err, tt.err) {
				t.Errorf("%d, %t, %v, want %d, %v", group, late, err, tt.group, tt.err)
			}
			if _, late, err := parse(tt.m, 2); !late || err != nil {
				t.Errorf("answer to another question: late %t, %v", late, err)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	m := request(9, from, netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port()))
	want := answer(9, unix.AF_INET, 0, from, to, 0)[header+answerSocket:][:socketDevice]
	if got := m[requestSocket:][:socketDevice]; string(got) != string(want) {
		t.Errorf("ends %x, want %x", got, want)
	}
	if got := binary.NativeEndian.Uint32(m[requestSocket+socketDevice:]); got != loopback {
		t.Errorf("device %d, want lo", got)
	}
}

// FuzzParse: no message makes it panic.
func FuzzParse(f *testing.F) {
	f.Add(answer(1, unix.AF_INET, established, from, to, 7))
	f.Add(answer(1, unix.AF_INET6, established, from, to, 7)[:header+answerSize+2])
	f.Add(refusal(1, unix.ENOENT))
	f.Add(refusal(1, unix.ENOENT)[:header])
	f.Fuzz(func(t *testing.T, m []byte) {
		s, late, err := parse(m, 1)
		if s.group != 0 && (late || err != nil) {
			t.Errorf("%v, %t, %v", s, late, err)
		}
	})
}

// TestCheckErrors: a node that cannot answer gets the reason and the remedy.
func TestCheckErrors(t *testing.T) {
	for _, tt := range []struct {
		answer error
		want   string
	}{
		{ErrNoSocket, "modprobe tcp_diag"},
		{ErrNoGroup, "Linux 5.8"},
		{unix.EPERM, "not permitted"},
	} {
		err := check(t.Context(), func(from, to netip.AddrPort) (uint64, error) { return 0, tt.answer })
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %q", tt.answer, err, tt.want)
		}
	}
}
