// The sandbox that is measured, and its clients.

package pods

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/demo"
	"github.com/podid-io/podid/internal/sandbox/image"
	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/test/bench/rows"
)

const (
	// armUpdate is how long the emulated Azure takes to change a scale set's identities.
	armUpdate = 2 * time.Second
	podImage  = "docker.io/podid/bench:dev"
	// downTime is far more than removing a sandbox takes.
	downTime = time.Minute
)

// bench is one run.
type bench struct {
	rows.Bench
	options options
	sandbox *sandbox.Sandbox
	helm    string
	images  []string

	client  kubernetes.Interface
	objects dynamic.Interface
	azure   *http.Client
	seen    *seen

	// answer is the length of a token reply, in bytes.
	answer int
}

// prepare builds what a run needs but does not measure.
func prepare(ctx context.Context, o options, w io.Writer) (*bench, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the benchmarks make network namespaces: run them as root, for example with sudo")
	}
	b := &bench{Bench: rows.New(w), options: o, seen: newSeen()}
	report := b.Progress
	var err error
	b.sandbox, err = sandbox.New(o.name, report)
	if err != nil {
		return nil, err
	}
	if b.images, err = demo.Images(ctx, report, o.Bin); err != nil {
		return nil, err
	}
	cache, err := programs.Cache(os.Getenv)
	if err != nil {
		return nil, err
	}
	step := report.Start("the benchmarks' own pod")
	program, archive := filepath.Join(cache, "images", "bench"), filepath.Join(cache, "images", "bench.tar")
	err = programs.Build(ctx, "./test/bench/pod", program, step)
	if err == nil {
		err = image.Write(image.Spec{Ref: podImage, Files: []image.File{{From: program, To: "/bench"}}}, archive)
	}
	if err != nil {
		step.Fail()
		return nil, err
	}
	step.Done("")
	b.images = append(b.images, archive)
	b.helm, err = programs.Helm(ctx, os.Getenv, report)
	return b, err
}

// up starts the sandbox with one node. On few cores, a second one would only add noise.
func (b *bench) up(ctx context.Context) error {
	if err := b.podid(ctx, "down"); err != nil { // left by an earlier run with --keep
		return err
	}
	args := []string{"up", "--nodes=1", "--arm-update=" + armUpdate.String()}
	for _, archive := range b.images {
		args = append(args, "--image="+archive)
	}
	return b.podid(ctx, args...)
}

// down removes the sandbox. It must not be interrupted, so it ignores the context and a terminal's
// Ctrl-C.
func (b *bench) down() error {
	ctx, cancel := context.WithTimeout(context.Background(), downTime)
	defer cancel()
	return b.podid(ctx, "down")
}

// podid runs the product's own command for sandboxes, which also provides the nodes and the
// emulator.
func (b *bench) podid(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(b.options.Bin, "podid"), append([]string{"sandbox", "--name=" + b.options.name}, args...)...)
	cmd.Stderr = os.Stderr
	// Only this program interrupts it, not the terminal, so that it removes what it has created before
	// it ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = downTime
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("podid sandbox %s: %w", args[0], err)
	}
	return nil
}

// connect creates the clients.
func (b *bench) connect() error {
	cfg, err := b.sandbox.Client()
	if err != nil {
		return err
	}
	cfg.QPS, cfg.Burst = -1, 0 // the benchmark limits itself
	if b.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return fmt.Errorf("talk to the sandbox: %w", err)
	}
	if b.objects, err = dynamic.NewForConfig(rest.CopyConfig(cfg)); err != nil {
		return fmt.Errorf("talk to the sandbox: %w", err)
	}
	ns, err := b.sandbox.Switch()
	if err != nil {
		return err
	}
	b.azure = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: ns.Dial}}
	return nil
}

// controlAzure changes the emulated Azure through its control API.
func (b *bench) controlAzure(ctx context.Context, method, path string, what any) error {
	body, err := json.Marshal(what)
	if err != nil {
		return fmt.Errorf("control the emulated Azure: %w", err)
	}
	status, err := b.sandbox.Status(ctx)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+status.Azure.Control+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("control the emulated Azure: %w", err)
	}
	answer, err := b.azure.Do(req)
	if err != nil {
		return fmt.Errorf("control the emulated Azure: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("control the emulated Azure: %s %s: %s: %.200s: %w", method, path, answer.Status, text, err)
	}
	return nil
}

// azureRequest is an entry of the emulated Azure's log.
type azureRequest struct {
	Time    time.Time         `json:"time"`
	Path    string            `json:"path"`
	Status  int               `json:"status"`
	Details map[string]string `json:"details"`
}

// azureLog returns the requests to one surface of the emulated Azure.
func (b *bench) azureLog(ctx context.Context, surface, method, path string) ([]azureRequest, error) {
	var list []azureRequest
	query := url.Values{"surface": {surface}, "method": {method}, "path": {path}}
	err := b.sandbox.AskAzure(ctx, "/v1/requests?"+query.Encode(), &list)
	return list, err
}
