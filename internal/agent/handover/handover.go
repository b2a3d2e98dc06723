// Package handover replaces an agent of a node with a newer one without a failed request.
//
// Each agent has a Session. It listens on an abstract Unix socket in the node's network namespace.
// The socket's name and the proofs of both sides derive from a secret, which the agent writes into
// its nftables rules (redirect.Config.HandoverSecret). Only a process with CAP_NET_ADMIN can read
// it there, or have its holder read it. One agent may be root, and the other one without
// privileges, so the processes may be of different users: root, this agent's, or AgentUser.
//
// A newer agent reads the secret of the agent that has the rules and joins its session. It receives
// the listening sockets that cannot be opened twice: those for probes, metrics and the host. They
// stay the same sockets, so no connection is lost. The older agent keeps its copies, and uses them
// again if the newer one dies.
//
//	newer                              older
//	{proof, listeners}          ──>    stops accepting on the listeners without "later"
//	                            <──    {proof, listeners} and their sockets, then {items} of what it
//	                                   knows, and an empty message
//	{state: serving}            ──>    stops accepting on the others, and runs on until SIGTERM
//	{state: leaving}            ──>    takes everything back
//	                            <──    {state: serving}, or leaving if it cannot take it back
//
// A connection that ends means that the process at the other end is gone. docs/interception.md
// describes the whole upgrade.
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
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

// AgentUser is the user of an agent without privileges.
const AgentUser = 65532

// messageTimeout is how long a message, or the response to it, may take.
const messageTimeout = 5 * time.Second

// maxMessage is the size of a message in bytes. A few addresses take some hundred. maxListeners is
// the number of sockets in it.
const (
	maxMessage   = 4096
	maxListeners = 8
)

// State is what an agent knows about a newer one.
type State int

// The states.
const (
	Alone    State = iota // there is no newer agent
	Starting              // a newer agent has the probes, and is not ready to serve
	Serving               // a newer agent serves pods
)

// Session is one agent's part in handovers: it hands listeners to a newer agent, and opens those
// that it may hand over later. It is safe for concurrent use.
type Session struct {
	secret string
	log    logr.Logger

	mu        sync.Mutex
	listeners map[string]*listener    // open ones, by the address that was passed to Listen
	inherited map[string]net.Listener // from an older agent, until Listen returns them
	state     State
	changed   chan struct{} // closed when state changes
	server    *net.UnixListener
	stopping  bool
	items     func() [][]byte // what a newer agent gets, too; nil: nothing
	received  [][]byte        // items of an older agent
}

// Offer sets what a newer agent gets besides listeners: at most MaxItems of MaxItem bytes each, and
// maxBytes in all, the first ones. It may be secret: only an agent that knows the session's secret
// gets it, and it is never written to a file.
func (s *Session) Offer(items func() [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items = items
}

// Received returns the items that the older agent offered, once.
func (s *Session) Received() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := s.received
	s.received = nil
	return items
}

// The bounds of what is offered.
const (
	MaxItems = 4096
	MaxItem  = 96 << 10
	maxBytes = 16 << 20
)

// New returns a session with a new secret.
func New(log logr.Logger) *Session {
	return &Session{
		secret: rand.Text(), log: log.WithName("handover"),
		listeners: map[string]*listener{}, inherited: map[string]net.Listener{}, changed: make(chan struct{}),
	}
}

// Secret returns what a newer agent needs to join the session. It must not be logged.
func (s *Session) Secret() string { return s.secret }

// State returns the state of the newer agent, and a channel that is closed when it changes.
func (s *Session) State() (State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}

// MarkStopping records that this agent is about to exit. It then takes nothing back from a newer
// agent that stops.
func (s *Session) MarkStopping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
}

func (s *Session) setState(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != s.state {
		s.state = state
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// checkUser returns an error unless the other end is a process that can be an agent.
func checkUser(c *net.UnixConn) error {
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
	if user := int(peer.Uid); user != 0 && user != os.Geteuid() && user != AgentUser {
		return fmt.Errorf("the process at the other end runs as user %d, which no agent does", user)
	}
	return nil
}

// The roles, one of which each side proves.
const (
	roleOlder = "older"
	roleNewer = "newer"
)

// proof returns the proof that a side with that role knows the secret. The newer agent sends its
// proof first. Another process can take the older agent's address only after that agent has exited,
// and has not seen the older agent's proof then.
func proof(secret, role string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(role))
	return hex.EncodeToString(mac.Sum(nil))
}

// address returns the address, in the abstract namespace, of the session with the secret. It must
// not change: agents of other releases derive the same one.
func address(secret string) *net.UnixAddr {
	sum := sha256.Sum256([]byte("podid line " + secret))
	return &net.UnixAddr{Net: "unixpacket", Name: "@podid/" + hex.EncodeToString(sum[:8])}
}

// message is one packet.
type message struct {
	Proof string `json:"proof,omitempty"`
	// Listeners are those that the newer agent requests, or those whose sockets the message carries,
	// in this order.
	Listeners []listenerSpec `json:"listeners,omitempty"`
	State     string         `json:"state,omitempty"` // stateServing or stateLeaving
	// Items means that a newer agent wants items, or that they follow, a packet for each.
	Items bool `json:"items,omitempty"`
}

// listenerSpec names a listener: by its address as in Listen. If Later is set, the older agent
// accepts there until the newer one serves pods.
type listenerSpec struct {
	Address string `json:"address"`
	Later   bool   `json:"later,omitempty"`
}

const (
	stateServing = "serving"
	stateLeaving = "leaving"
)

// send sends a message with sockets. It fails after messageTimeout.
func send(c *net.UnixConn, m message, sockets ...int) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	var rights []byte
	if len(sockets) > 0 {
		rights = unix.UnixRights(sockets...)
	}
	if err := c.SetWriteDeadline(time.Now().Add(messageTimeout)); err != nil {
		return err
	}
	_, _, err = c.WriteMsgUnix(text, rights, nil)
	return err
}

// receive returns the next message and its sockets, which the caller must close. It sets no
// deadline.
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
		received, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("read sockets: %w", err)
		}
		all = append(all, received...)
	}
	return all, nil
}

func closeAll(sockets []int) {
	for _, s := range sockets {
		_ = unix.Close(s) // unused
	}
}
