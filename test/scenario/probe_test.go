// The image of the program that runs as a pod. Azure's SDKs have their own test: test/conformance.
package scenario_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/podid-io/podid/internal/sandbox/image"
	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/clients"
)

const probeImage = "docker.io/podid/client-probe:test"

// buildProbe builds the probe's image and returns its archive.
func buildProbe(ctx context.Context, report *progress.Reporter) (string, error) {
	cache, err := programs.Cache(os.Getenv)
	if err != nil {
		return "", err
	}
	source, err := programs.Source()
	if err != nil {
		return "", err
	}
	step := report.Start("image of the probe")
	kit := clients.Kit{Source: filepath.Join(source, "test/clients"), Cache: filepath.Join(cache, "clients")}
	program, err := kit.Go(ctx, "probe")
	archive := filepath.Join(kit.Cache, "probe.tar")
	if err == nil {
		err = image.Write(image.Spec{Ref: probeImage, Files: []image.File{{From: program, To: "/client"}}}, archive)
	}
	if err != nil {
		step.Fail()
		return "", fmt.Errorf("build the probe: %w", err)
	}
	step.Done("")
	return archive, nil
}
