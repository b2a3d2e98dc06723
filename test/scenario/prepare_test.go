// Preparation: images, the sandbox, and podid from its chart.
package scenario_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/demo"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

// grace is how long MIC leaves an identity on the scale set after its last pod: long enough to be
// observed, short enough to wait for.
const grace = 2 * time.Second

// values returns values of the chart in addition to those of every sandbox.
func values(more ...string) []string {
	return append([]string{"mic.identityDetachGracePeriod=" + grace.String(), "mic.replicas=1"}, more...)
}

// prepare brings the sandbox up and installs podid. If it is interrupted, the caller must call
// Down.
func prepare(ctx context.Context, s *sandbox.Sandbox, report *progress.Reporter) error {
	bin, err := binaries()
	if err != nil {
		return err
	}
	plane, capture, err := choice()
	if err != nil {
		return err
	}
	archives, err := demo.Images(ctx, report, bin)
	if err != nil {
		return err
	}
	probe, err := buildProbe(ctx, report)
	if err != nil {
		return err
	}
	name, err := helm(ctx, report)
	if err != nil {
		return err
	}
	up := exec.CommandContext(ctx, filepath.Join(bin, "podid"), "sandbox", "up", "--name="+s.Layout().Name, "--arm-update=2s",
		"--dataplane="+string(plane), "--image="+strings.Join(append(archives, probe), ","))
	up.Stderr = progressFile()
	up.Cancel = func() error { return up.Process.Signal(syscall.SIGTERM) }
	up.WaitDelay = time.Minute
	if err := up.Run(); err != nil {
		return fmt.Errorf("podid sandbox up: %w", err)
	}
	step := report.Start("install podid from its Helm chart")
	if err := install(ctx, s, name, capture); err != nil {
		step.Fail()
		return err
	}
	step.Done("")
	return nil
}

// choice returns the data plane and the way of capture that the environment names.
func choice() (plane network.Dataplane, capture string, err error) {
	plane, err = network.ParseDataplane(os.Getenv(envDataplane))
	if err != nil {
		return "", "", err
	}
	capture, err = demo.CaptureFor(plane, os.Getenv(envCapture))
	return plane, capture, err
}

// install first puts identities of other owners on the scale set, and then installs podid.
func install(ctx context.Context, s *sandbox.Sandbox, helm, capture string) error {
	azure, err := newAzure(s)
	if err != nil {
		return err
	}
	if err := azure.furnish(ctx); err != nil {
		return err
	}
	return demo.Install(ctx, s, demo.Installation{Helm: helm, Capture: capture, Values: values()})
}

// furnish creates the identities that are on the nodes before podid, and lifts the limit on writes
// to the scale set, since the stories make the writes of half an hour within minutes.
func (a *azure) furnish(ctx context.Context) error {
	doc, err := a.control.World(ctx, false)
	if err != nil {
		return err
	}
	set := doc.ScaleSets[0]
	system := systemIdentity()
	set.SystemAssigned = &system
	for _, name := range foreign() {
		id, err := a.identity(ctx, name)
		if err != nil {
			return err
		}
		if !slices.Contains(set.Identities, id.ResourceID) { // present in a sandbox that was kept
			set.Identities = append(set.Identities, id.ResourceID)
		}
	}
	stranger := strangerIdentity()
	if err := a.control.PutIdentity(ctx, stranger); err != nil {
		return err
	}
	if !slices.Contains(set.Identities, stranger.ResourceID) {
		set.Identities = append(set.Identities, stranger.ResourceID)
	}
	if err := a.control.PutScaleSet(ctx, set); err != nil {
		return err
	}
	return a.control.SetSettings(ctx, map[string]any{"limits": map[string]any{"scaleSetWrites": world.Bucket{}}})
}

// The identities that others assigned to the nodes: one that no pod uses, one that a pod uses too,
// one for managed mode, and one that is the kubelet's in the story of a hostile tenant.
const (
	foreignAlone   = "foreign-alone"
	foreignShared  = "foreign-shared"
	foreignManaged = "foreign-managed"
	foreignKubelet = "foreign-kubelet"
)

// systemIdentity returns the nodes' system-assigned identity.
func systemIdentity() world.SystemIdentity {
	return world.SystemIdentity{ClientID: world.GUID("system/client"), PrincipalID: world.GUID("system/principal")}
}

// strangerIdentity returns an identity on the nodes on whose resource group MIC has no role.
func strangerIdentity() world.Identity {
	id := unknownIdentity("stranger")
	id.ResourceID = strings.Replace(id.ResourceID, "/resourceGroups/"+sandbox.ResourceGroup+"/", "/resourceGroups/strangers/", 1)
	return id
}

func foreign() []string { return []string{foreignAlone, foreignShared, foreignManaged, foreignKubelet} }

// binaries returns the folder with mic, nmi and podid: the checkout's bin, or $PODID_BIN.
func binaries() (string, error) {
	dir := os.Getenv("PODID_BIN")
	if dir == "" {
		source, err := programs.Source()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(source, "bin")
	}
	if _, err := os.Stat(filepath.Join(dir, "podid")); err != nil {
		return "", fmt.Errorf("%w: build it with `make build`, or run `make test-sandbox`", err)
	}
	return dir, nil
}

// helm returns the program that make has built, or builds one.
func helm(ctx context.Context, report *progress.Reporter) (string, error) {
	if file := os.Getenv("PODID_HELM"); file != "" {
		return file, nil
	}
	return programs.Helm(ctx, os.Getenv, report)
}
