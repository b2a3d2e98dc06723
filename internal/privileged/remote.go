// The agent's end: it asks the holder.

package privileged

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/hook/protocol"
)

// Remote does what needs privileges by a holder. Its methods are Local's.
type Remote struct {
	redirect *redirect.Redirect // its target only
	folder   string
	silence  time.Duration // after which a holder does not answer

	mu     sync.Mutex
	counts redirect.Counts
}

// minSilence is well above the minute between two checks of what captures inside pods.
const minSilence = 3 * time.Minute

// NewRemote returns a Remote that asks the holder in a folder.
func NewRemote(o Options, port int, secret, folder string) (*Remote, error) {
	r, err := newRedirect(o, port, secret)
	if err != nil {
		return nil, err
	}
	return &Remote{redirect: r, folder: folder, silence: max(minSilence, 3*o.Interval())}, nil
}

// Ping asks the holder in a folder whether it answers. It reads the redirect, and changes nothing.
func Ping(ctx context.Context, o Options, folder string) error {
	r, err := NewRemote(o, 1, "", folder)
	if err != nil {
		return err
	}
	last, err := r.call(ctx, request{Act: actPing}, nil)
	if err != nil {
		return err
	}
	return last.err()
}

// CountTo is Local's.
func (r *Remote) CountTo(c redirect.Counts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts = c
}

// Listen is Local's. It needs no privilege.
func (r *Remote) Listen(ctx context.Context) (net.Listener, error) { return r.redirect.Listen(ctx) }

// holderTime is how long a holder that starts beside the agent may take. Without the answer of a
// holder the agent would not find an older agent, and its upgrade would fail requests.
const holderTime = 15 * time.Second

// Owner is Local's. It waits for a holder that is starting.
func (r *Remote) Owner(ctx context.Context) (secret string, at netip.AddrPort, found bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, holderTime)
	defer cancel()
	for {
		var last result
		last, err = r.call(bounded, request{Act: actOwner}, nil)
		if err == nil {
			return last.Secret, last.At, last.Found, last.err()
		}
		select {
		case <-bounded.Done():
			return "", netip.AddrPort{}, false, err
		case <-time.After(firstPause):
		}
	}
}

// TakeBack is Local's.
func (r *Remote) TakeBack(ctx context.Context) error {
	if err := r.redirect.Renew(); err != nil {
		return err
	}
	return r.lasting(ctx, actTakeBack)
}

// Retire is Local's.
func (r *Remote) Retire(ctx context.Context) error {
	_, err := r.ask(ctx, actRetire)
	return err
}

// Release is Local's.
func (r *Remote) Release(ctx context.Context) error { return r.lasting(ctx, actRelease) }

// EndCapture is Local's.
func (r *Remote) EndCapture(ctx context.Context) (found bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, holderTime)
	defer cancel()
	last, err := r.ask(bounded, actEnd)
	return last.Found || err != nil, err
}

// lasting asks also while the agent stops.
func (r *Remote) lasting(ctx context.Context, a act) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), holderTime)
	defer cancel()
	_, err := r.ask(bounded, a)
	return err
}

// ask is a call with one result. Its error is that of the call, or of what was asked for.
func (r *Remote) ask(ctx context.Context, a act) (result, error) {
	last, err := r.call(ctx, request{Act: a}, nil)
	if err == nil {
		err = last.err()
	}
	return last, err
}

// The pauses between attempts to reach the holder.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// KeepRedirect is Local's. While there is no holder, that is what it reports: what the holder has
// put in place stays.
func (r *Remote) KeepRedirect(ctx context.Context, checked func(error)) {
	for ctx.Err() == nil {
		err := r.keepCalling(ctx, request{Act: actKeep}, func(each result) {
			r.count(each)
			checked(each.err())
		})
		if ctx.Err() != nil {
			return
		}
		checked(err)
		select {
		case <-ctx.Done():
		case <-time.After(maxPause):
		}
	}
}

// keepCalling calls until the last result is an error, which it returns, or ctx ends. It calls
// again when the holder is replaced, and reports a holder that does not come back.
func (r *Remote) keepCalling(ctx context.Context, q request, each func(result)) error {
	pause := firstPause
	for ctx.Err() == nil {
		last, err := r.call(ctx, q, func(got result) {
			pause = firstPause
			each(got)
		})
		if err == nil && last.Error != "" {
			return last.err()
		}
		if pause == maxPause && ctx.Err() == nil { // a holder that is replaced is back before
			each(failed(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
	return nil
}

func (r *Remote) count(each result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		return
	}
	for range each.Set {
		r.counts.RedirectSet()
	}
	for range each.Repaired {
		r.counts.RedirectRepaired()
	}
}

// Sockets is Local's.
func (r *Remote) Sockets() (path string, remove func(), err error) {
	return filepath.Join(r.folder, socketsName), func() {}, nil
}

// Capture is Local's. The holder goes on when ctx ends, and when the agent does. The agent goes on
// serving on the sockets that it has while the holder is replaced.
func (r *Remote) Capture(ctx context.Context, _ string, passAbsent bool, checked func(error)) error {
	return r.keepCalling(ctx, request{Act: actCapture, PassAbsent: passAbsent}, func(each result) { checked(each.err()) })
}

// call sends a request, passes on the results, and returns the last one. Its error is about the
// call itself.
func (r *Remote) call(ctx context.Context, q request, each func(result)) (result, error) {
	conn, err := protocol.Dial(ctx, filepath.Join(r.folder, callsName))
	if err != nil {
		return result{}, fmt.Errorf("%w: does the holder (nmi-holder) run, with the same folder (--holder)?", err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	q.Target = r.redirect.Target()
	if err := conn.SendValue(q); err != nil {
		return result{}, fmt.Errorf("ask the holder: %w", err)
	}
	for {
		var got result
		if err := conn.ReceiveValue(&got, r.silence); err != nil {
			return result{}, fmt.Errorf("the holder has ended: %w", err)
		}
		if got.Last {
			return got, nil
		}
		if each != nil {
			each(got)
		}
	}
}
