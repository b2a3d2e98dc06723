// The control plane and the emulated Azure: one pid 1 in the switch's namespace and its children.

package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/podid-io/podid/internal/sandbox/cilium"
	"github.com/podid-io/podid/internal/sandbox/controlplane"
	"github.com/podid-io/podid/internal/sandbox/node"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

// controlName is the component that holds the control plane.
const controlName = "control"

// control starts the control plane and the emulated Azure at once and waits until they answer. A
// program that exits because the API server is not ready yet is restarted by its pid 1.
func (b *build) control(ctx context.Context, p *progress.Step) (string, error) {
	services, err := b.azureService()
	if err != nil {
		return "", err
	}
	config := controlplane.Config{
		API: b.plan.API.Addr(), PKI: b.layout.PKI(), Data: filepath.Join(b.layout.Dir(), "data"),
	}
	for _, c := range config.Components() {
		services = append(services, node.Service{
			Name: c.Name, Path: b.set.Path(c.Name), Args: c.Args, Log: filepath.Join(b.layout.Logs(), c.Name+".log"),
		})
	}
	if dir, ok := b.plane.Cilium(); ok {
		services = append(services, node.Service{
			Name: cilium.Operator, Path: filepath.Join(dir, cilium.Operator), Args: cilium.OperatorArgs(b.layout.Kubeconfig()),
			Log: filepath.Join(b.layout.Logs(), cilium.Operator+".log"),
		})
	}
	dir := b.layout.Node(controlName)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("start the control plane: %w", err)
	}
	spec := node.Spec{
		Hostname: controlName, Dir: dir, Plain: true, Env: b.env(), Services: services,
		Log: filepath.Join(b.layout.Logs(), "init-"+controlName+".log"),
	}
	if err := b.launch(controlName, b.plan.Switch, spec); err != nil {
		return "", err
	}
	ctx, cancel := within(ctx, b.options.Timeout)
	defer cancel()
	p.Far("waiting for the emulated Azure")
	if err := b.waitAzure(ctx); err != nil {
		return "", fmt.Errorf("wait for the emulated Azure: %w", err)
	}
	p.Far("waiting for the API server")
	if err := controlplane.WaitAPI(ctx, b.client, b.ended); err != nil {
		return "", err
	}
	return "Kubernetes " + b.set.Kubernetes, nil
}

// env returns the environment of the control plane's programs.
func (b *build) env() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + b.layout.Dir(), "LD_LIBRARY_PATH=" + b.set.Libraries}
}

// ended returns an error if a pid 1 has ended; waiting any longer is then pointless.
func (b *build) ended() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.state.Components {
		if !c.ID.Alive() {
			return fmt.Errorf("%s has ended; the last lines of its log:\n%s", c.Name, tail(c.Log, 8))
		}
	}
	return nil
}
