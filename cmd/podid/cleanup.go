// The command `podid cleanup`.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/uninstall"
)

// cleanupOptions are the flags of `podid cleanup`.
type cleanupOptions struct {
	cluster     clusterOptions
	names       uninstall.Names
	cloudConfig string
	output      string
	all         bool
	dryRun      bool
	force       bool
	yes         bool
}

const cleanupLong = `Finish what an uninstall of podid, or of AAD Pod Identity, cut off:

  - assigned identities (AzureAssignedIdentity) that are being deleted, or whose pod
    is gone, are let go of and deleted; so are namespaces and custom resource
    definitions that wait for them
  - identities that MIC attached to VMs and scale sets, and that no pod there may use,
    are detached. This needs a cloud config (--cloudconfig, or the environment as for
    mic). What MIC did not attach is never touched
  - what MIC recorded of that, its Lease and the type upgrade's ConfigMap are deleted
    where MIC is not installed any more

It refuses to work while a MIC leads. It can be interrupted and called again at any time.

Exit codes: 0 all is clean; 1 something failed, or was refused; 2 something is left
over that needs you, such as a cloud config.`

const cleanupExample = `  # what is left over?
  podid cleanup --dry-run

  # clean up, with the VMs and scale sets
  podid cleanup --cloudconfig azure.json

  # remove everything of podid, although pods still use it
  podid cleanup --all --cloudconfig azure.json --yes`

func newCleanupCommand() *cobra.Command {
	o := &cleanupOptions{}
	cmd := &cobra.Command{
		Use:     "cleanup",
		Short:   "Finish what an uninstall cut off: stuck objects, identities left on VMs and scale sets",
		Long:    cleanupLong,
		Example: cleanupExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	cmd.AddCommand(newNodeCleanupCommand())
	flags := cmd.Flags()
	o.cluster.bindFlags(cmd)
	flags.StringVarP(&o.names.Namespace, "namespace", "n", "", "look at assigned identities and records of this namespace only (default: all)")
	flags.StringVar(&o.cloudConfig, "cloudconfig", "", "cloud config `file` (azure.json) to reach VMs and scale sets with; see docs/cloud-config.md")
	flags.StringVar(&o.names.Lease, "leader-election-name", "aad-pod-identity-mic", "name of MIC's Lease")
	flags.StringVar(&o.names.ConfigMap, "config-map-name", "aad-pod-identity-config", "name of the ConfigMap that records the type upgrade")
	flags.BoolVar(&o.all, "all", false, "also what living pods use, and the records of a MIC that is still installed")
	flags.BoolVar(&o.dryRun, "dry-run", false, "only show what would be done")
	flags.BoolVar(&o.force, "force", false, "even while a MIC leads")
	flags.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	flags.StringVarP(&o.output, "output", "o", "", "how --dry-run shows the plan: wide, json or yaml (default: a table)")
	complete(cmd, "namespace", o.cluster.completeNamespaces)
	complete(cmd, "output", func(*cobra.Command) []string { return []string{"wide", "json", "yaml"} })
	return cmd
}

// leftOverError reports that a cleanup did all it could and something remains.
type leftOverError struct{}

// Error refers to the output.
func (leftOverError) Error() string { return "cleanup is incomplete; the reasons are above" }

// ExitCode implements exitCoder.
func (leftOverError) ExitCode() int { return 2 }

func (o *cleanupOptions) run(cmd *cobra.Command) error {
	if err := o.validate(); err != nil {
		return err
	}
	ctrllog.SetLogger(logr.Discard())
	ctx := cmd.Context()
	kube, err := o.cluster.client()
	if err != nil {
		return err
	}
	guard := o.guard(kube, cmd.ErrOrStderr())
	cloud, err := cloudOf(o.cloudConfig, os.Getenv)
	if err != nil {
		return err
	}
	state, err := uninstall.Read(ctx, kube, o.names)
	if err != nil {
		return err
	}
	plan := uninstall.For(state, uninstall.Options{All: o.all, Azure: cloud != nil})
	if o.dryRun {
		if err := guard(ctx); err != nil {
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "note:", err)
		}
		return printPlan(cmd.OutOrStdout(), cmd.ErrOrStderr(), plan, o.output)
	}
	if err := guard(ctx); err != nil {
		return err
	}
	return o.carryOut(cmd, plan, &uninstall.Cleaner{Client: kube, Cloud: cloud, Guard: guard, Wait: wait(cmd.ErrOrStderr())})
}

// guard returns a check that fails while a MIC leads.
func (o *cleanupOptions) guard(kube client.Reader, stderr io.Writer) func(context.Context) error {
	if o.force {
		return func(context.Context) error { return nil }
	}
	leaders := &uninstall.Leaders{
		Reader: kube, Lease: o.names.Lease, Now: time.Now, Wait: pause,
		Waiting: func(lock *uninstall.LeaderError, duration time.Duration) {
			_, _ = fmt.Fprintf(stderr, "waiting up to %v to see whether mic %s still renews %s %s/%s (--force skips this)\n",
				duration, lock.Holder, lock.Kind, lock.Namespace, lock.Name)
		},
	}
	return leaders.Check
}

func (o *cleanupOptions) validate() error {
	switch o.output {
	case "", "wide", "json", "yaml":
	default:
		return fmt.Errorf("--output %q: use wide, json or yaml", o.output)
	}
	if o.output != "" && !o.dryRun {
		return errors.New("--output is for --dry-run")
	}
	return nil
}

// carryOut asks for confirmation, carries the plan out, and reports what remains.
func (o *cleanupOptions) carryOut(cmd *cobra.Command, plan uninstall.Plan, cleaner *uninstall.Cleaner) error {
	stderr := cmd.ErrOrStderr()
	if plan.Empty() {
		report(stderr, plan)
		return leftOver(plan)
	}
	if !o.yes {
		if err := printPlan(stderr, stderr, plan, ""); err != nil {
			return err
		}
		if err := confirm(cmd.InOrStdin(), stderr); err != nil {
			return err
		}
	}
	cleaner.Done = func(row uninstall.Row) { _, _ = fmt.Fprintln(stderr, doneLine(row)) }
	err := cleaner.Run(cmd.Context(), plan)
	if cmd.Context().Err() != nil {
		return errors.New("interrupted: run it again to continue")
	}
	report(stderr, plan)
	if err != nil {
		return err
	}
	return leftOver(plan)
}

// leftOver returns an error if part of the plan could not be done.
func leftOver(plan uninstall.Plan) error {
	for _, row := range plan.Rows() {
		if row.Action == "skip" {
			return leftOverError{}
		}
	}
	return nil
}

// confirm asks the user for confirmation. No answer counts as no.
func confirm(in io.Reader, out io.Writer) error {
	if file, ok := in.(*os.File); !ok || !term.IsTerminal(int(file.Fd())) {
		return errors.New("no confirmation: use --yes to proceed, or --dry-run to preview")
	}
	_, _ = fmt.Fprint(out, "Do this? [y/N] ")
	answer, _ := bufio.NewReader(in).ReadString('\n')
	if a := ascii.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("not confirmed: nothing was changed")
	}
	return nil
}

// wait waits for Azure and reports it.
func wait(w io.Writer) func(context.Context, time.Duration) error {
	return func(ctx context.Context, d time.Duration) error {
		_, _ = fmt.Fprintf(w, "Azure is throttling, or another update is in progress: continuing in %v\n", d)
		return pause(ctx, d)
	}
}

// pause waits until the time is over or the context ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
