package privileged

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/hook/protocol"
	"github.com/podid-io/podid/internal/testenv"
)

// parsed returns the options of a command line, with --capture=wire unless it says otherwise.
func parsed(t *testing.T, args ...string) Options {
	t.Helper()
	var o Options
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	o.BindFlags(flags)
	if err := flags.Parse(append([]string{"--capture=wire"}, args...)); err != nil {
		t.Fatal(err)
	}
	return o
}

// serve starts a holder that changes nothing on the machine, and returns the end that its agent
// has. Its peer check knows root only, so the test has to be root.
func serve(t *testing.T) (*Server, *Remote) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("an agent trusts a holder of root only")
	}
	folder := filepath.Join(t.TempDir(), "holder")
	ctx, cancel := context.WithCancel(t.Context())
	s, err := NewServer(ctx, parsed(t), folder, 65532, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	r, err := NewRemote(parsed(t), 2579, "secret", folder)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

// TestImpossibleRequests: whatever an agent asks for, the holder writes no rule from it that is not
// of a fixed form.
func TestImpossibleRequests(t *testing.T) {
	_, r := serve(t)
	for name, tt := range map[string]struct {
		request
		want string
	}{
		"act":        {request{Act: "shell"}, "unknown request"},
		"port":       {request{Act: actKeep, Target: redirect.Target{}}, "port 0"},
		"secret":     {request{Act: actTakeBack, Target: redirect.Target{Port: 1, Secret: `" drop`}}, "letters and digits"},
		"generation": {request{Act: actOwner, Target: redirect.Target{Port: 1, Generation: 1 << 63}}, "impossible"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := protocol.Dial(t.Context(), filepath.Join(r.folder, callsName))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			var got result
			if err := conn.SendValue(tt.request); err != nil {
				t.Fatal(err)
			}
			if err := conn.ReceiveValue(&got, requestTimeout); err != nil || !got.Last || !strings.Contains(got.Error, tt.want) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// TestManyCalls: calls without an end do not take more than their places, which are free again when
// they end.
func TestManyCalls(t *testing.T) {
	s, r := serve(t)
	var open []*protocol.Conn
	for range 3 * maxCalls {
		conn, err := protocol.Dial(t.Context(), filepath.Join(r.folder, callsName))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.open
	}
	testenv.Eventually(t, "places are taken", func() string {
		if n := count(); n != maxCalls {
			return "not yet"
		}
		return ""
	})
	for _, conn := range open {
		_ = conn.Close()
	}
	testenv.Eventually(t, "places are free", func() string {
		if n := count(); n != 0 {
			return "not yet"
		}
		return ""
	})
	if _, err := r.call(t.Context(), request{Act: "any"}, nil); err != nil {
		t.Error(err)
	}
}

// TestNoHolder: an agent without a holder reports what to do.
func TestNoHolder(t *testing.T) {
	r, err := NewRemote(parsed(t), 2579, "secret", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Retire(t.Context()); err == nil || !strings.Contains(err.Error(), "nmi-holder") {
		t.Errorf("error %v", err)
	}
}

// TestOptions: wrong flags get errors that name them.
func TestOptions(t *testing.T) {
	for flags, want := range map[string]string{
		"--capture=pods":                 "--capture=",
		"--capture-address=0.0.0.0:1":    "--capture-address=",
		"--metadata-port=0":              "--metadata-port=0",
		"--metadata-ip=x":                "--metadata-ip=",
		"--agent-address=10.0.0.1":       "link-local",
		"--ipt-update-interval-sec=0":    "--ipt-update-interval-sec=0",
		"--agent-table=a b":              "nftables table",
		"--capture-address=127.0.0.1:80": "",
	} {
		o := parsed(t, flags)
		err := o.Validate(2579)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", flags, err)
		}
	}
}

// TestPing: a holder answers, unless it hangs or is gone.
func TestPing(t *testing.T) {
	s, r := serve(t)
	if err := Ping(t.Context(), parsed(t), r.folder); err != nil {
		t.Error(err)
	}
	s.turn.Lock()
	brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := Ping(brief, parsed(t), r.folder); err == nil {
		t.Error("a holder that hangs answers")
	}
	s.turn.Unlock()
	if err := Ping(t.Context(), parsed(t), t.TempDir()); err == nil || !strings.Contains(err.Error(), "nmi-holder") {
		t.Errorf("no holder: %v", err)
	}
}

// TestErrorsReported: what the holder refuses is reported, and not asked for again and again.
func TestErrorsReported(t *testing.T) {
	_, r := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reports := make(chan error, 100)
	r.redirect = impossible(t)
	go r.KeepRedirect(ctx, func(err error) { reports <- err })
	if err := <-reports; err == nil || !strings.Contains(err.Error(), "impossible") {
		t.Errorf("reported %v", err)
	}
	select {
	case err := <-reports:
		t.Errorf("again at once: %v", err)
	case <-time.After(maxPause / 4):
	}
}

// TestRefusedReported: an agent distinguishes rules that its holder may not write from all else.
func TestRefusedReported(t *testing.T) {
	for name, err := range map[string]error{
		"nothing": nil,
		"refused": fmt.Errorf("write: %w", redirect.ErrRefused),
		"other":   errors.New("another"),
	} {
		t.Run(name, func(t *testing.T) {
			packet, failure := json.Marshal(failed(err))
			var got result
			if failure = errors.Join(failure, json.Unmarshal(packet, &got)); failure != nil {
				t.Fatal(failure)
			}
			if errors.Is(got.err(), redirect.ErrRefused) != errors.Is(err, redirect.ErrRefused) || fmt.Sprint(got.err()) != fmt.Sprint(err) {
				t.Errorf("got %v, want %v", got.err(), err)
			}
		})
	}
}

// impossible returns a redirect whose port is not known.
func impossible(t *testing.T) *redirect.Redirect {
	t.Helper()
	none, err := newRedirect(parsed(t), 0, "")
	if err != nil {
		t.Fatal(err)
	}
	return none
}
