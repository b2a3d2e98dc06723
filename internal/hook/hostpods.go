// Capturing pods on the node's network.

package hook

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/kubepods"
)

// receive handles an agent's requests until it ends.
func (h *Holder) receive(ctx context.Context, a *agent) {
	for {
		r, err := a.conn.ReceiveRequest()
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF):
			return
		case err != nil:
			h.complain(err, "rejected a request of an agent, which has to connect again")
			return
		}
		h.mu.Lock()
		a.asked, a.hostPods = true, r.Pods
		h.change(h.captureHostPods)
		h.mu.Unlock()
	}
}

// errHostPods means that an agent has asked for what the holder's configuration excludes.
var errHostPods = errors.New("pods on the node's network are not to be captured on this node")

// captureHostPods captures the pods that the agents have asked for, and no others. Those without a
// control group may have one later: reconcile looks again. While no agent has asked, all stays as
// it is. The caller must hold mu.
func (h *Holder) captureHostPods() error {
	pods, asked := h.hostPods()
	if !asked {
		return nil
	}
	var failed error // one of them, as in reconcile
	wanted := map[uint64]bool{}
	for uid := range pods {
		group, err := groupOf(h.config.Group, uid)
		switch {
		case err == nil:
			wanted[group] = true
		case !errors.Is(err, fs.ErrNotExist):
			failed = err
		}
	}
	captured, err := h.config.Programs.Captured()
	if err != nil {
		return err
	}
	for _, group := range captured {
		if wanted[group] {
			delete(wanted, group)
		} else if err := h.config.Programs.Free(group); err != nil {
			failed = err
		}
	}
	for group := range wanted {
		if err := h.config.Programs.Capture(group); err != nil {
			failed = err
		}
	}
	return failed
}

// hostPods returns the UIDs of the pods that the agents have asked for. asked is false if none of
// them is ready and has asked. The caller must hold mu.
func (h *Holder) hostPods() (pods map[string]bool, asked bool) {
	pods = map[string]bool{}
	for a := range h.agents {
		if !a.ready || !a.asked {
			continue
		}
		asked = true
		if h.config.NodeFile == "" {
			if len(a.hostPods) > 0 {
				h.complainLocked(errHostPods, "ignored a request of an agent")
			}
			continue
		}
		for _, uid := range a.hostPods {
			pods[uid] = true
		}
	}
	return pods, asked
}

// groupOf returns the ID of a pod's control group, given the folder of the pods' group. The error
// is fs.ErrNotExist if it has none.
func groupOf(pods, uid string) (uint64, error) {
	folders, err := kubepods.Folders(pods, uid)
	if err != nil {
		return 0, err
	}
	for _, folder := range folders {
		id, err := program.GroupID(folder)
		if !errors.Is(err, fs.ErrNotExist) {
			return id, err
		}
	}
	return 0, fs.ErrNotExist
}
