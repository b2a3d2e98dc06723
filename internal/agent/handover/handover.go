// Package handover lets two generations of the agent on one node change places without a request failing.
//
// Each agent has a Line: an abstract Unix socket in the node's network namespace, whose name and passwords come from a
// word that the agent writes into its nftables rules (redirect.Config.Handover), where only CAP_NET_ADMIN can read it. A
// new agent reads the word of the one that has the rules, joins its line, and gets the listening sockets that cannot be
// opened twice: probes, metrics, the host's. A socket that is handed over is the same one, so no connection is lost. The
// older agent keeps its copies, and uses them again when the newer one dies.
//
//	newer                                          older
//	{proof, listeners wanted}          ──>         stops accepting on those that are not to wait
//	                                   <──         {proof, listeners} and the sockets
//	{state: serving}                   ──>         stops accepting on the others; leaves when told to
//	{state: leaving}                   ──>         takes everything back
//	                                   <──         {state: serving}, or leaving when it is about to end itself
//
// The end of the connection is the end of the process at the other end. docs/redirect.md tells the story.
package handover

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

// patience is how long the other side may take for a message that is due at once.
const patience = 5 * time.Second

// maxMessage bounds a message; a handful of addresses is a few hundred bytes. maxListeners bounds the sockets in it.
const (
	maxMessage   = 4096
	maxListeners = 8
)

// State is what an agent's line knows of a newer agent.
type State int

// The states.
const (
	Alone    State = iota // there is no newer agent
	Starting              // one has the probes, and is not ready to serve
	Serving               // one serves pods
)

// Line is one agent's end. Its methods may be called from several goroutines.
type Line struct {
	word string
	log  logr.Logger

	mu        sync.Mutex
	listeners map[string]*listener // by the address asked for
	inherited map[string]net.Listener
	state     State
	changed   chan struct{} // closed when state changes
	server    *net.UnixListener
	leaving   bool
}

// New makes a line with a word of its own.
func New(log logr.Logger) *Line {
	return &Line{
		word: rand.Text(), log: log.WithName("handover"),
		listeners: map[string]*listener{}, inherited: map[string]net.Listener{}, changed: make(chan struct{}),
	}
}

// Word is for the next agent; see the package.
func (l *Line) Word() string { return l.word }

// State tells how far a newer agent is, and a channel that is closed when that changes.
func (l *Line) State() (State, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, l.changed
}

// Leave tells that this agent is about to end: it takes nothing back any more from a newer one that leaves.
func (l *Line) Leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaving = true
}

func (l *Line) setState(s State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s != l.state {
		l.state = s
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// Roles, which each side proves.
const (
	roleOlder = "older"
	roleNewer = "newer"
)

// proof shows that a side knows the word. The newer agent speaks first: the older one's name can be taken by others
// only after its end, and whoever takes it then has not seen the older one's proof.
func proof(word, role string) string {
	mac := hmac.New(sha256.New, []byte(word))
	mac.Write([]byte(role))
	return hex.EncodeToString(mac.Sum(nil))
}

// address is that of the line of a word, in the abstract namespace.
func address(word string) *net.UnixAddr {
	sum := sha256.Sum256([]byte("podid line " + word))
	return &net.UnixAddr{Net: "unixpacket", Name: "@podid/" + hex.EncodeToString(sum[:8])}
}

// message is one packet.
type message struct {
	Proof string `json:"proof,omitempty"`
	// Listeners are wanted, or are those whose sockets come along, in this order.
	Listeners []wanted `json:"listeners,omitempty"`
	State     string   `json:"state,omitempty"` // saysServing or saysLeaving
}

// wanted is a listener: its address as the program knows it, and whether the older agent goes on accepting there until
// the newer one serves.
type wanted struct {
	Address string `json:"address"`
	Later   bool   `json:"later,omitempty"`
}

const (
	saysServing = "serving"
	saysLeaving = "leaving"
)

func send(c *net.UnixConn, m message, sockets ...int) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	var rights []byte
	if len(sockets) > 0 {
		rights = unix.UnixRights(sockets...)
	}
	if err := c.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, _, err = c.WriteMsgUnix(text, rights, nil)
	return err
}

// receive reads a message, and the sockets that come with it. No deadline is one it sets itself.
func receive(c *net.UnixConn) (message, []int, error) {
	var m message
	text, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxListeners))
	n, nr, _, _, err := c.ReadMsgUnix(text, rights)
	if err != nil {
		return m, nil, err
	}
	var sockets []int
	if nr > 0 {
		if sockets, err = parseRights(rights[:nr]); err != nil {
			return m, nil, err
		}
	}
	if err := json.Unmarshal(text[:n], &m); err != nil {
		closeAll(sockets)
		return m, nil, fmt.Errorf("read message: %w", err)
	}
	return m, sockets, nil
}

func parseRights(rights []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("read sockets: %w", err)
	}
	var all []int
	for i := range messages {
		some, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("read sockets: %w", err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func closeAll(sockets []int) {
	for _, s := range sockets {
		_ = unix.Close(s) // never used
	}
}

// sameUser refuses a process of another user: an agent is root, as its forerunner was.
func sameUser(c *net.UnixConn, user int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	if int(peer.Uid) != user {
		return fmt.Errorf("user %d is at the other end", peer.Uid)
	}
	return nil
}
