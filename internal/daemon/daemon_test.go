package daemon

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/podid-io/podid/internal/observe"
)

func usage() Usage {
	return Usage{
		Name: "daemon", Intro: "daemon does nothing.", Environment: "NONE", MetricsPort: "1234",
		OldFlags: []string{"old"}, OldSwitches: []string{"older"},
	}
}

func noEnv(string) string { return "" }

// TestMainCodes: the exit code and output of command lines.
func TestMainCodes(t *testing.T) {
	for _, c := range []struct {
		name, args     string
		run            error
		code           int
		stdout, stderr string
	}{
		{"runs", "", nil, ExitDone, "", "stopped"},
		{"fails", "", errors.New("no luck"), ExitFailed, "", "no luck"},
		{"without meaning", "--old=x -older", nil, ExitDone, "", "flag=older"},
		{"format", "--logging-format=json", nil, ExitDone, "", `"msg":"stopped"`},
		{"format by its older name", "-log-format=json", nil, ExitDone, "", `"msg":"stopped"`},
		{"version", "--version", nil, ExitDone, "daemon ", ""},
		{"help", "-h", nil, ExitDone, "without meaning: add_dir_header", ""},
		{"unknown", "--bogus", nil, ExitUsage, "", "daemon --help"},
		{"argument", "serve", nil, ExitUsage, "", `unexpected argument "serve"`},
		{"wrong format by its older name", "--log-format=xml", nil, ExitUsage, "", "use text or json"},
		{"all complaints", "--http-probe-port=70000 --prometheus-port=x --logging-format=xml", nil, ExitUsage, "", "--prometheus-port=x is not a port"},
		{"no address", "--http-probe-address=localhost --prometheus-address=10.0.0.0/8", nil, ExitUsage, "", "--http-probe-address=localhost is not an IP address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			p := Process{Args: strings.Fields(c.args), Getenv: noEnv, Stdout: &stdout, Stderr: &stderr, SetLoggers: func(logr.Logger) {}}
			o := &Options{}
			err := o.Parse(usage(), p.Args, &stdout, func(*flag.FlagSet) {})
			if err == nil {
				err = errors.Join(o.Complete(noEnv), o.Validate())
			}
			code := p.Main(t.Context(), Daemon{Name: "daemon", Options: o, Error: err, Run: func(context.Context) error { return c.run }})
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("code %d\n%s\n%s", code, stdout.String(), stderr.String())
			}
		})
	}
}

// TestServers: all ports are open, or none is.
func TestServers(t *testing.T) {
	o := &Options{ProbePort: "0", MetricsPort: "0"}
	open, err := o.Listen(t.Context(), &observe.Health{}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	open.Serve(ctx, group)
	for path, want := range map[string]string{"0/healthz": "Not Active", "0/readyz": "ok", "1/metrics": ""} {
		_, port, err := net.SplitHostPort(open[path[0]-'0'].listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+port+path[1:], http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || string(body) != want {
			t.Errorf("%s: %d %q %v", path, res.StatusCode, body, err)
		}
		taken := &Options{ProbePort: "0", MetricsPort: port}
		if _, err := taken.Listen(t.Context(), &observe.Health{}, prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "--prometheus-port") {
			t.Errorf("a port that is taken: %v", err)
		}
	}
	stop()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// TestAddresses: the ports can be opened on one address, and are open on all otherwise.
func TestAddresses(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", ":8080 :1234"},
		{"--http-probe-address=127.0.0.1 --prometheus-address=::1", "127.0.0.1:8080 [::1]:1234"},
		{"-prometheus-address=10.0.0.1 -prometheus-port=99 -enableProfile", ":8080 10.0.0.1:99 localhost:6060"},
	} {
		o := &Options{}
		if err := errors.Join(o.Parse(usage(), strings.Fields(tt.args), io.Discard, func(*flag.FlagSet) {}), o.Validate()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(o.Addresses(), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.args, got, tt.want)
		}
	}
	o := &Options{ProbeAddress: "127.0.0.1", ProbePort: "0", MetricsAddress: "127.0.0.1", MetricsPort: "0"}
	open, err := o.Listen(t.Context(), &observe.Health{}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range open {
		if address, ok := s.listener.Addr().(*net.TCPAddr); !ok || !address.IP.Equal(net.IPv4(127, 0, 0, 1)) {
			t.Errorf("%s are served on %v", s.what, s.listener.Addr())
		}
		_ = s.listener.Close()
	}
}
