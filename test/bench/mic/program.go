// MIC as a process.

package mic

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/podid-io/podid/test/bench/stage"
)

// program is a running MIC.
type program struct {
	*stage.Program
	probe string // URL for health
}

// mic starts MIC with its default flags, except for the addresses of the API server and Azure.
// offset moves its ports, because two instances in one network namespace cannot share the default
// ones.
func (c *cluster) mic(b *bench, name string, offset int) (*program, error) {
	args := []string{"--kubeconfig=" + c.micKubeconfig, "--cloudconfig=" + c.AzureFile("azure.json")}
	probe := 8080 + offset
	if offset > 0 {
		args = append(args, "--http-probe-port="+strconv.Itoa(probe), "--prometheus-port="+strconv.Itoa(8888+offset))
	}
	if b.options.Profile != "" && offset == 0 {
		args = append(args, "--enableProfile")
	}
	p, err := c.Start(stage.Launch{
		Name: name, Path: filepath.Join(b.options.Bin, "mic"), Args: append(args, b.options.micArgs...),
		Env: []string{"AZURE_ENVIRONMENT_FILEPATH=" + c.AzureFile("azurestackcloud.json"), "SSL_CERT_FILE=" + c.AzureFile("ca.crt")},
	})
	if err != nil {
		return nil, err
	}
	return &program{p, fmt.Sprintf("http://127.0.0.1:%d", probe)}, nil
}

// leads returns when MIC leads and its dependencies respond.
func (p *program) leads(ctx context.Context) error {
	if err := p.active(ctx); err != nil {
		return err
	}
	return p.ready(ctx)
}

func (p *program) active(ctx context.Context) error {
	return p.Until(ctx, p.probe+"/healthz", "Active")
}
func (p *program) ready(ctx context.Context) error { return p.Until(ctx, p.probe+"/readyz", "ok") }
