// Opening and closing sockets as network namespaces come and go.

package hook

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
)

// file is one in the folder of network namespaces.
type file struct {
	stop      context.CancelFunc // ends the attempts to open it
	tried     bool               // there was one
	err       error              // of the last attempt
	info      os.FileInfo        // of the namespace on it, once it is known
	namespace *namespace         // nil for the node's own, and before it is known
}

// replaced reports whether another namespace is on a file than when it was opened.
func (f *file) replaced(path string) bool { return f.info != nil && !isAt(path, f.info) }

func isAt(path string, info os.FileInfo) bool {
	there, err := os.Stat(path)
	return err == nil && os.SameFile(there, info)
}

// nodeName is the name of the node's own namespace.
const nodeName = "node"

// namespace is one with sockets in it. Several files may lead to it.
type namespace struct {
	name    string
	sockets *netns.Sockets
	files   int
	// served is when an agent last had the sockets, or when they were opened.
	served    time.Time
	published bool // by this holder
}

func (n *namespace) message(kind protocol.Kind) protocol.Message {
	return protocol.Message{Kind: kind, Namespace: n.name, Cookie: n.sockets.Cookie, Address: n.sockets.Address}
}

// watch opens and closes sockets as namespaces come and go.
func (h *Holder) watch(ctx context.Context, group *errgroup.Group) {
	w := netns.Watch{
		Folder:   h.config.Folder,
		Appeared: func(path string) { h.appeared(ctx, group, path) },
		Vanished: h.vanished,
		Listed:   h.wasListed,
		Failed: func(err error) {
			h.complain(err, "cannot watch network namespaces, looking again until it is possible")
		},
	}
	if h.config.NodeFile != "" {
		h.appeared(ctx, group, h.config.NodeFile)
	}
	w.Run(ctx)
}

// appeared opens the sockets in the namespace on a file, unless it is known.
func (h *Holder) appeared(ctx context.Context, group *errgroup.Group, path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.files[path]; f != nil {
		if !f.replaced(path) {
			return
		}
		h.forget(path)
	}
	ctx, stop := context.WithCancel(ctx)
	f := &file{stop: stop}
	h.files[path] = f
	h.untried++
	group.Go(func() error { h.open(ctx, path, f); return nil })
}

func (h *Holder) vanished(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(path)
}

func (h *Holder) wasListed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listed = true
	h.settle()
}

// The pauses between attempts to enter a namespace that the runtime is still mounting.
const (
	firstOpenPause = time.Millisecond
	maxOpenPause   = time.Second
)

// open opens the sockets in the namespace on a file, and retries until ctx ends.
func (h *Holder) open(ctx context.Context, path string, f *file) {
	for pause := firstOpenPause; ; pause = min(2*pause, maxOpenPause) {
		err := h.tryOpen(ctx, path, f)
		h.tried(f, err)
		if err == nil || ctx.Err() != nil {
			return
		}
		if pause == maxOpenPause && !errors.Is(err, os.ErrNotExist) {
			h.complain(err, "cannot open sockets in a network namespace, retrying", "remedy", remedy(err))
		}
		sleep(ctx, pause)
	}
}

func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EINVAL):
		return "none needed if the container runtime is still creating it; otherwise remove the file"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "raise the limit of open files: podid needs two for each pod"
	case errors.Is(err, unix.EADDRINUSE):
		return "choose another port, which pods do not use"
	}
	return "none known"
}

// tryOpen opens the sockets once.
func (h *Holder) tryOpen(ctx context.Context, path string, f *file) error {
	select {
	case h.opens <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if h.isNode(path, f) {
		<-h.opens
		return nil
	}
	sockets, err := h.openSockets(path, h.config.Listen)
	<-h.opens
	if err != nil {
		return err
	}
	return h.add(ctx, path, f, sockets)
}

// isNode reports whether the node's own namespace, which has a file of its own, is on a file in the
// folder. A listener there would take the port that the other one's is to have.
func (h *Holder) isNode(path string, f *file) bool {
	if h.config.NodeFile == "" || path == h.config.NodeFile {
		return false
	}
	info, err := os.Stat(path)
	if err != nil || !isAt(h.config.NodeFile, info) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f.info = info
	return true
}

var errReplaced = errors.New("the network namespace was replaced while it was opened")

// add stores a namespace and passes its sockets to the agents. The sockets are closed if they are
// not needed: in the node's own namespace, and in one that is known from another file.
func (h *Holder) add(ctx context.Context, path string, f *file, sockets *netns.Sockets) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	needed := false
	defer func() {
		if !needed {
			_ = sockets.Close()
		}
	}()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !isAt(path, sockets.Info) {
		return errReplaced
	}
	f.info = sockets.Info
	name := filepath.Base(path)
	if sockets.Cookie == h.config.Node {
		if path != h.config.NodeFile {
			return nil
		}
		name = nodeName
	}
	n := h.namespaces[sockets.Cookie]
	if n == nil {
		needed = true
		n = &namespace{name: name, sockets: sockets, served: h.now()}
		h.namespaces[sockets.Cookie] = n
		h.queueAll(item{namespace: n, kind: protocol.Appeared})
	}
	f.namespace = n
	n.files++
	return nil
}

// tried records the result of an attempt to open a file.
func (h *Holder) tried(f *file, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.err = err
	h.countTry(f)
}

// countTry counts the first attempt to open a file. The caller must hold mu.
func (h *Holder) countTry(f *file) {
	if !f.tried {
		f.tried = true
		h.untried--
		h.settle()
	}
}

// settle sends Complete to agents, once each file was opened or found to be no namespace.
// Earlier, an agent would close the sockets of the last holder that this one has not opened yet.
// The caller must hold mu.
func (h *Holder) settle() {
	if h.settled || !h.listed || h.untried > 0 {
		return
	}
	h.settled = true
	h.queueAll(item{kind: protocol.Complete})
}

// forget drops a file. If no other leads to its namespace, it withdraws the listener and closes the
// sockets. The caller must hold mu.
func (h *Holder) forget(path string) {
	f := h.files[path]
	if f == nil {
		return
	}
	delete(h.files, path)
	f.stop()
	h.countTry(f)
	n := f.namespace
	if n == nil {
		return
	}
	if n.files--; n.files > 0 {
		return
	}
	delete(h.namespaces, n.sockets.Cookie)
	h.withdraw(n)
	if err := n.sockets.Close(); err != nil {
		h.log.Error(err, "cannot close sockets", "namespace", path)
	}
	for a := range h.agents {
		delete(a.has, n)
	}
	h.queueAll(item{namespace: n, kind: protocol.Vanished})
}

// unopened reports whether there may be a namespace without sockets. A file that is no namespace is
// none: it is one that the runtime has not mounted yet, or has unmounted. The caller must hold mu.
func (h *Holder) unopened() bool {
	for _, f := range h.files {
		if f.info == nil && !errors.Is(f.err, unix.EINVAL) && !errors.Is(f.err, os.ErrNotExist) {
			return true
		}
	}
	return false
}
