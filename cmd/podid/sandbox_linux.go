// The command `podid sandbox`: a whole cluster with an emulated Azure on one machine.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

func newSandboxCommand() *cobra.Command {
	open := &sandboxOpener{}
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run a Kubernetes cluster with an emulated Azure on this machine",
		Long: "A real control plane and real nodes, in network namespaces without a way out, and an emulated Azure\n" +
			"whose scale set the nodes belong to. Nothing of the machine's own network is touched. Needs root.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&open.name, "name", sandbox.DefaultName, "which sandbox; several can run side by side")
	cmd.AddCommand(
		newSandboxDemoCommand(open),
		newSandboxUpCommand(open),
		newSandboxDownCommand(open),
		newSandboxStatusCommand(open),
		newSandboxLogsCommand(open),
		newSandboxShellCommand(open),
		newSandboxLoadImageCommand(open),
		newSandboxNodeCommand(open),
		newSandboxPrepareCommand(),
		newNodeStartCommand(),
		newNodeInitCommand(),
		newCNICommand(),
	)
	return cmd
}

// sandboxOpener opens the sandbox that the flags name.
type sandboxOpener struct{ name string }

func (o *sandboxOpener) open(cmd *cobra.Command) (*sandbox.Sandbox, *progress.Reporter, error) {
	report := progress.New(cmd.ErrOrStderr())
	s, err := sandbox.New(o.name, report)
	return s, report, err
}

// needRoot fails early, with the remedy, without root.
func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("a sandbox is made of network namespaces and mounts: run this as root, for example with sudo")
	}
	return nil
}

func newSandboxUpCommand(open *sandboxOpener) *cobra.Command {
	o := sandbox.Options{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the sandbox, or find that it runs",
		Long: "Starts the sandbox, or finds that it runs already. The first time, it downloads Kubernetes, or builds it from\n" +
			"source (see podid sandbox prepare --help). When it is interrupted, it leaves nothing behind.",
		Example: "  podid sandbox up\n  podid sandbox shell -- kubectl get nodes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, report, err := open.open(cmd)
			if err != nil {
				return err
			}
			began := time.Now()
			if err := s.Up(cmd.Context(), o); err != nil {
				return orInterruption(cmd.Context(), err)
			}
			report.Say("\nThe sandbox is up after %s. What now:", progress.Seconds(time.Since(began)))
			report.Say("  podid sandbox shell -- kubectl get pods -A\n  podid sandbox status\n  podid sandbox down")
			return nil
		},
	}
	bindUpFlags(cmd, &o)
	cmd.Flags().StringSliceVar(&o.Images, "image", nil, "image archive that the nodes import; may be repeated")
	return cmd
}

// interruption is the error of a command that a signal ended. It has the exit code that shells
// expect and hides the error of the interrupted step.
type interruption struct{ cause error }

func (i interruption) Error() string { return i.cause.Error() + "; everything was cleaned up" }
func (i interruption) ExitCode() int { return 130 }

// orInterruption returns an interruption if the context's end caused the error and everything was
// cleaned up. Otherwise it returns the error.
func orInterruption(ctx context.Context, err error) error {
	var left *sandbox.CleanupError
	if err != nil && ctx.Err() != nil && !errors.As(err, &left) {
		return interruption{context.Cause(ctx)}
	}
	return err
}

func bindUpFlags(cmd *cobra.Command, o *sandbox.Options) {
	cmd.Flags().IntVar(&o.Nodes, "nodes", 2, "how many nodes")
	cmd.Flags().StringVar(&o.Dataplane, "dataplane", "", "how nodes carry packets of pods: bridge (the default, as kubenet), routed (as Azure CNI), ebpf (routed, and past netfilter), or cilium=DIR (real Cilium, whose programs are in that folder)")
	cmd.Flags().DurationVar(&o.Timeout, "timeout", sandbox.DefaultTimeout, "how long the control plane, and then the nodes, may take to be ready")
	cmd.Flags().DurationVar(&o.ARMUpdate, "arm-update", 2*time.Second, "how long the emulated Azure takes to change a scale set's identities")
}

func newSandboxDownCommand(open *sandboxOpener) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the sandbox and everything that belongs to it, also after a crash",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			s, report, err := open.open(cmd)
			if err != nil {
				return err
			}
			step := report.Start("take the sandbox down")
			found, err := s.Down()
			if err != nil {
				step.Fail()
				return err
			}
			if !found {
				step.Done("there was none")
				return nil
			}
			step.Done("")
			return nil
		},
	}
}

func newSandboxLogsCommand(open *sandboxOpener) *cobra.Command {
	var lines int
	var follow bool
	cmd := &cobra.Command{
		Use:     "logs [COMPONENT]",
		Short:   "Show a component's log, or the end of every log",
		Example: "  podid sandbox logs\n  podid sandbox logs kubelet-node-0 -f",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, _, err := open.open(cmd)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return s.Log(cmd.Context(), args[0], lines, follow, cmd.OutOrStdout())
			}
			if follow {
				return errors.New("which log to follow? `podid sandbox logs` lists them")
			}
			return showAllLogs(cmd.Context(), cmd, s, lines)
		},
	}
	cmd.Flags().IntVar(&lines, "tail", -1, "how many lines; -1 for all of one log, or five of each")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is added")
	return cmd
}

func showAllLogs(ctx context.Context, cmd *cobra.Command, s *sandbox.Sandbox, lines int) error {
	names, err := s.LogNames()
	if err != nil {
		return err
	}
	if lines < 0 {
		lines = 5
	}
	for _, name := range names {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "==> %s <==\n", name); err != nil {
			return err
		}
		if err := s.Log(ctx, name, lines, false, cmd.OutOrStdout()); err != nil {
			return err
		}
	}
	return nil
}

func newSandboxShellCommand(open *sandboxOpener) *cobra.Command {
	return &cobra.Command{
		Use:     "shell [-- COMMAND ARG...]",
		Aliases: []string{"exec"},
		Short:   "Open a shell, or run a command, inside the sandbox's network, with kubectl ready to use",
		Example: "  podid sandbox shell\n  podid sandbox shell -- kubectl get pods -A",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, report, err := open.open(cmd)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{shell()}
				report.Say("inside of sandbox %q: kubectl works, exit leaves", open.name)
			}
			return s.Exec(args)
		},
	}
}

// shell returns the user's shell, or /bin/sh.
func shell() string {
	if sh := os.Getenv("SHELL"); sh != "" {
		return sh
	}
	return "/bin/sh"
}

func newSandboxLoadImageCommand(open *sandboxOpener) *cobra.Command {
	return &cobra.Command{
		Use:   "load-image ARCHIVE...",
		Short: "Import image archives (as `docker save` writes them) on all nodes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, report, err := open.open(cmd)
			if err != nil {
				return err
			}
			step := report.Start(fmt.Sprintf("load %d image(s) on all nodes", len(args)))
			if err := s.LoadImages(cmd.Context(), args); err != nil {
				step.Fail()
				return err
			}
			step.Done("")
			return nil
		},
	}
}

func newSandboxPrepareCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "prepare",
		Short: "Download or build the programs that a sandbox and the API-server tests need",
		Long: "Finds each program in KUBEBUILDER_ASSETS, in the cache (XDG_CACHE_HOME or ~/.cache, folder podid) or in PATH.\n" +
			"Kubernetes is downloaded as an official release if it is missing, or built from source; PODID_KUBERNETES says\n" +
			"which: download, source or auto (the default: download, or build if that is not possible). The download honors\n" +
			"HTTPS_PROXY, and PODID_KUBERNETES_MIRROR replaces https://dl.k8s.io. What else is missing is unpacked from\n" +
			"Debian's packages. Nothing is installed. It prints a folder that serves as KUBEBUILDER_ASSETS.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := programs.Prepare(cmd.Context(), os.Getenv, progress.New(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), set.Assets)
			return err
		},
	}
}
