package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/daemon"
	"github.com/podid-io/podid/internal/testenv"
)

// timeout is how long a test waits for anything that a MIC does.
const timeout = 30 * time.Second

// running is a mic in this process or another one.
type running struct {
	t    *testing.T
	log  *testenv.Buffer
	stop context.CancelFunc
	code chan int
}

// start starts mic in this process, with any free ports and the cloud config of an Azure that does
// not respond.
func start(t *testing.T, kubeconfig string, args ...string) *running {
	t.Helper()
	args, env := setup(t, kubeconfig, args)
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, log: &testenv.Buffer{}, stop: cancel, code: make(chan int, 1)}
	getenv := func(name string) string { return env[name] }
	go func() {
		r.code <- mic(ctx, daemon.Process{
			Args: args, Getenv: getenv, Stdout: io.Discard, Stderr: r.log, SetLoggers: func(logr.Logger) {},
		})
	}()
	t.Cleanup(cancel)
	return r
}

// startProcess starts mic in its own process: this test program under that name (TestMain).
func startProcess(t *testing.T, kubeconfig string, args ...string) (*running, *os.Process) {
	t.Helper()
	args, env := setup(t, kubeconfig, args)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "mic")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, log: &testenv.Buffer{}, code: make(chan int, 1)}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stderr = r.log
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.stop = func() { _ = cmd.Process.Signal(syscall.SIGTERM) }
	go func() {
		_ = cmd.Wait()
		r.code <- cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return r, cmd.Process
}

// setup returns mic's arguments and environment.
func setup(t *testing.T, kubeconfig string, args []string) ([]string, map[string]string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	environment := write("stack.json", `{"resourceManagerEndpoint": "https://127.0.0.1:1/", "activeDirectoryEndpoint": "https://127.0.0.1:1/"}`)
	cloud := write("azure.json", `{"cloud": "AzureStackCloud", "tenantId": "11111111-1111-1111-1111-111111111111",
		"aadClientId": "22222222-2222-2222-2222-222222222222", "aadClientSecret": "hunter2"}`)
	return append([]string{"--cloudconfig=" + cloud, "--http-probe-port=0", "--prometheus-port=0"}, args...),
		map[string]string{"AZURE_ENVIRONMENT_FILEPATH": environment, "KUBECONFIG": kubeconfig}
}

// end stops mic and expects exit code 0.
func (r *running) end() {
	r.t.Helper()
	r.stop()
	r.exits(daemon.ExitDone)
}

func (r *running) exits(want int) {
	r.t.Helper()
	select {
	case code := <-r.code:
		if code != want {
			r.t.Errorf("exit code %d; log:\n%s", code, r.log)
		}
	case <-time.After(timeout):
		r.t.Fatalf("does not end; log:\n%s", r.log)
	}
}

// fails waits until mic exits with code 1 without a signal, and checks for these texts in its log.
func (r *running) fails(texts ...string) {
	r.t.Helper()
	r.exits(daemon.ExitFailed)
	for _, text := range texts {
		if !strings.Contains(r.log.String(), text) {
			r.t.Errorf("the log lacks %q:\n%s", text, r.log)
		}
	}
}

func (r *running) eventually(what string, condition func() string) {
	r.t.Helper()
	testenv.Eventually(r.t, what, func() string {
		if missing := condition(); missing != "" {
			return missing + "; log:\n" + r.log.String()
		}
		return ""
	})
}

// logs waits until mic's log contains a text.
func (r *running) logs(text string) {
	r.t.Helper()
	r.eventually("log "+text, func() string {
		if !strings.Contains(r.log.String(), text) {
			return "not logged"
		}
		return ""
	})
}

// get sends a request to one of mic's servers, whose address is in the log.
func (r *running) get(what, path string) (int, string) {
	r.t.Helper()
	var port string
	r.eventually("serving "+what, func() string {
		found := regexp.MustCompile(`msg="serving ` + what + `" address=\S*:(\d+)`).FindStringSubmatch(r.log.String())
		if found == nil {
			return "not yet"
		}
		port = found[1]
		return ""
	})
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://127.0.0.1:"+port+path, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// wait waits for a response: exactly this text with status 200, else one that contains it.
func (r *running) wait(path string, status int, text string) {
	r.t.Helper()
	r.eventually(path, func() string {
		code, body := r.get("probes", path)
		if code != status || !strings.Contains(body, text) || code == http.StatusOK && body != text {
			return fmt.Sprintf("%d %s", code, body)
		}
		return ""
	})
}

const unreachable = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

// TestUnreachable checks that mic reports an API server that it cannot reach, and retries.
func TestUnreachable(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(unreachable), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, kubeconfig)
	r.wait("/readyz", http.StatusServiceUnavailable, "connection refused")
	r.wait("/healthz", http.StatusOK, "Not Active")
	r.logs("cannot start, retrying")
	r.end()
	if strings.Contains(r.log.String(), "hunter2") {
		t.Error("the log holds the secret")
	}
}

// TestPortTaken checks that mic exits with the flag's name when a port is in use.
func TestPortTaken(t *testing.T) {
	other, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(unreachable), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(other.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, kubeconfig, "--prometheus-port="+port)
	r.fails("--prometheus-port", "address already in use")
}
