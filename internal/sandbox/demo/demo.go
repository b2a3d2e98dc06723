// Package demo runs the demonstration: podid, installed from its chart on a sandbox, gives one pod
// a token and refuses another one, and every step is shown with its time.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/image"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

// The images that the demonstration builds. Nodes import them; nothing pulls them.
const (
	repository = "docker.io/podid"
	tag        = "dev"
)

// installDeadline and storyDeadline bound the two waits on the cluster, which take about 10 s each.
const (
	installDeadline = 3 * time.Minute
	storyDeadline   = 2 * time.Minute
)

// Options are the user's choices.
type Options struct {
	Up sandbox.Options
	// Capture is NMI's --capture. Empty means prefer.
	Capture string
	// Keep leaves the sandbox up.
	Keep bool
	// Bin is the folder with the programs mic and nmi, or empty for podid's own.
	Bin string
}

// Demo is one run.
type Demo struct {
	sandbox *sandbox.Sandbox
	report  *progress.Reporter
	out     io.Writer
	options Options
}

// New prepares a run, which writes its timeline to out and its progress to the reporter.
func New(s *sandbox.Sandbox, report *progress.Reporter, out io.Writer, o Options) *Demo {
	return &Demo{sandbox: s, report: report, out: out, options: o}
}

// Run runs the whole demonstration and removes the sandbox in the end, whatever happens, unless the
// options keep it.
func (d *Demo) Run(ctx context.Context) error {
	began := time.Now()
	if err := d.choose(); err != nil {
		return err
	}
	if err := programs.Ready(ctx, os.Getenv, d.report); err != nil {
		return err
	}
	images, err := Images(ctx, d.report, d.options.Bin)
	if err != nil {
		return err
	}
	helm, err := programs.Helm(ctx, os.Getenv, d.report)
	if err != nil {
		return err
	}
	if _, err := d.sandbox.Down(); err != nil { // remove what an earlier demonstration kept
		return err
	}
	up := d.options.Up
	up.Images = images
	if err := d.sandbox.Up(ctx, up); err != nil {
		return err
	}
	story, err := d.show(ctx, helm)
	if !d.options.Keep {
		err = errors.Join(err, d.down())
	}
	if err != nil {
		return err
	}
	if err := story.print(d.out); err != nil {
		return err
	}
	d.report.Say("\nAll of it took %s.", progress.Seconds(time.Since(began)))
	if d.options.Keep {
		name := d.sandbox.Layout().Name
		d.report.Say("The sandbox stays: `podid sandbox shell --name %s` to look around, `podid sandbox down --name %s` to remove it", name, name)
	}
	return story.verdict()
}

// choose checks the choice of data plane and capture, and fills in the default.
func (d *Demo) choose() error {
	plane, err := network.ParseDataplane(d.options.Up.Dataplane)
	if err != nil {
		return err
	}
	d.options.Capture, err = CaptureFor(plane, d.options.Capture)
	return err
}

// show runs the demonstration on a sandbox that is up.
func (d *Demo) show(ctx context.Context, helm string) (*story, error) {
	if err := d.install(ctx, helm); err != nil {
		return nil, err
	}
	return d.play(ctx)
}

// Images builds the product's and the demo's images into the cache and returns their archives. An
// empty bin means podid's own programs.
func Images(ctx context.Context, report *progress.Reporter, bin string) ([]string, error) {
	cache, err := programs.Cache(os.Getenv)
	if err != nil {
		return nil, err
	}
	if bin == "" {
		if bin, err = programs.Bin(); err != nil {
			return nil, err
		}
	}
	step := report.Start("container images")
	archives, err := buildImages(ctx, filepath.Join(cache, "images"), bin, step)
	if err != nil {
		step.Fail()
		return nil, err
	}
	step.Done("mic, nmi, demo")
	return archives, nil
}

func buildImages(ctx context.Context, dir, bin string, step *progress.Step) ([]string, error) {
	program := filepath.Join(dir, "demo")
	if err := programs.Build(ctx, "./test/demo", program, step); err != nil {
		return nil, err
	}
	files := map[string]string{"mic": filepath.Join(bin, "mic"), "nmi": filepath.Join(bin, "nmi"), "demo": program}
	var archives []string
	for _, name := range []string{"mic", "nmi", "demo"} {
		step.Far("%s", name)
		if _, err := os.Stat(files[name]); err != nil {
			return nil, fmt.Errorf("find %s: %w; build it with `make build`", name, err)
		}
		archive := filepath.Join(dir, name+".tar")
		spec := image.Spec{Ref: ref(name), Files: []image.File{{From: files[name], To: "/" + name}}}
		if name == "nmi" {
			spec.Files = append(spec.Files, image.File{From: filepath.Join(bin, "nmi-holder"), To: "/nmi-holder"})
		}
		if err := image.Write(spec, archive); err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

func ref(name string) string { return repository + "/" + name + ":" + tag }

// install installs podid from its chart and waits until it is ready.
func (d *Demo) install(ctx context.Context, helm string) error {
	step := d.report.Start("install podid from its Helm chart")
	if err := Install(ctx, d.sandbox, Installation{Helm: helm, Capture: d.options.Capture}); err != nil {
		step.Fail()
		return err
	}
	step.Done("MIC and NMI are ready")
	return nil
}

// Installation is how podid is installed on a sandbox.
type Installation struct {
	// Helm is the program.
	Helm string
	// Capture is the chart's nmi.capture.
	Capture string
	// Values are additional ones, in the form of `helm --set`.
	Values []string
	// NoWait means not to wait until podid is ready.
	NoWait bool
}

// Install installs or upgrades podid on a sandbox.
func Install(ctx context.Context, s *sandbox.Sandbox, i Installation) error {
	source, err := programs.Source()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, installDeadline)
	defer cancel()
	args := []string{
		"upgrade", "--install", "podid", filepath.Join(source, "charts/podid"),
		"--namespace", "podid", "--create-namespace", "--timeout", installDeadline.String(),
		"--force-conflicts", // kubectl, or a story, may have changed what the chart sets
	}
	if !i.NoWait {
		args = append(args, "--wait")
	}
	fixed := []string{
		"nmi.capture=" + i.Capture, "image.repository=" + repository, "image.imagePullPolicy=Never", "mic.tag=" + tag, "nmi.tag=" + tag,
		"mic.customCloud.enabled=true", "mic.customCloud.configPath=/etc/kubernetes/akscustom.json",
		"mic.customCloud.caBundle=/etc/kubernetes/azure-ca.crt",
		// NMI finds and trusts Entra ID by the same files of the node.
		"nmi.extraArgs[0]=--cloud=AzureStackCloud",
		"nmi.extraEnv[0].name=AZURE_ENVIRONMENT_FILEPATH", "nmi.extraEnv[0].value=/etc/azure/akscustom.json",
		"nmi.extraEnv[1].name=SSL_CERT_FILE", "nmi.extraEnv[1].value=/etc/azure/azure-ca.crt",
		"nmi.extraVolumes[0].name=cloud", "nmi.extraVolumes[0].hostPath.path=/etc/kubernetes/akscustom.json",
		"nmi.extraVolumes[1].name=ca", "nmi.extraVolumes[1].hostPath.path=/etc/kubernetes/azure-ca.crt",
		"nmi.extraVolumeMounts[0].name=cloud", "nmi.extraVolumeMounts[0].mountPath=/etc/azure/akscustom.json", "nmi.extraVolumeMounts[0].readOnly=true",
		"nmi.extraVolumeMounts[1].name=ca", "nmi.extraVolumeMounts[1].mountPath=/etc/azure/azure-ca.crt", "nmi.extraVolumeMounts[1].readOnly=true",
	}
	for _, v := range append(fixed, i.Values...) {
		args = append(args, "--set", v)
	}
	cmd := exec.CommandContext(ctx, i.Helm, args...)
	if err := run(s, cmd, ""); err != nil {
		return fmt.Errorf("install the chart: %w", err)
	}
	return nil
}

// Apply runs `kubectl apply` on a sandbox.
func Apply(ctx context.Context, s *sandbox.Sandbox, objects string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.Layout().Dir(), "bin/kubectl"), "apply", "-f", "-")
	if err := run(s, cmd, objects); err != nil {
		return fmt.Errorf("apply the demo's objects: %w", err)
	}
	return nil
}

// run runs a program inside the sandbox. The error contains the program's output.
func run(s *sandbox.Sandbox, cmd *exec.Cmd, stdin string) error {
	cmd = s.Command(cmd)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	if err := s.RunInside(cmd); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

func (d *Demo) down() error {
	step := d.report.Start("take the sandbox down")
	if _, err := d.sandbox.Down(); err != nil {
		step.Fail()
		return err
	}
	step.Done("nothing is left")
	return nil
}
