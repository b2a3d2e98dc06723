// What the agent asks of the holder.

package protocol

import (
	"encoding/json"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/kubepods"
)

// HostPods is the kind of a Request that lists the pods on the node's network that are to be
// captured: these, and no others.
const HostPods Kind = "host-pods"

// Request is a message from the agent.
type Request struct {
	Kind Kind `json:"kind"`
	// Pods are the UIDs of the pods, as in the names of their control groups.
	Pods []string `json:"pods"`
}

const (
	// MaxPods bounds the pods of a request. A node has 250 at most.
	MaxPods    = 256
	maxRequest = 16 << 10
)

// Ask sends a request. It does not wait until it is carried out.
func (c *Conn) Ask(r Request) error {
	if err := c.SendValue(r); err != nil {
		return fmt.Errorf("ask the holder for %s: %w", r.Kind, err)
	}
	return nil
}

// ReceiveRequest waits for a request. The agent is not trusted: what is no request is an error, and
// the pods of one are syntactically UIDs.
func (c *Conn) ReceiveRequest() (r Request, err error) {
	line := make([]byte, maxRequest)
	n, _, flags, _, err := c.unix.ReadMsgUnix(line, nil) // the kernel closes descriptors that come with it
	if err != nil {
		return Request{}, fmt.Errorf("receive request: %w", err)
	}
	if flags&unix.MSG_TRUNC != 0 {
		return Request{}, fmt.Errorf("read request: it has more than %d bytes", maxRequest)
	}
	if err := json.Unmarshal(line[:n], &r); err != nil {
		return Request{}, fmt.Errorf("read request: %w", err)
	}
	return r, r.validate()
}

func (r Request) validate() error {
	if r.Kind != HostPods {
		return fmt.Errorf("there is no request of the kind %.40q", r.Kind)
	}
	if len(r.Pods) > MaxPods {
		return fmt.Errorf("request is for %d pods, and may be for %d", len(r.Pods), MaxPods)
	}
	for _, uid := range r.Pods {
		if !kubepods.IsUID(uid) {
			return fmt.Errorf("request is for a pod with the UID %.40q, which is none", uid)
		}
	}
	return nil
}
