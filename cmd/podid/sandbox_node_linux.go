// The commands `podid sandbox node …`, and the hidden commands that run as a node's processes.

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/cni"
	"github.com/podid-io/podid/internal/sandbox/node"
)

func newSandboxNodeCommand(open *sandboxOpener) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Work on one node: run a command there, cut its power, start it again",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:     "exec NODE [-- COMMAND ARG...]",
			Short:   "Run a command, or a shell, on a node",
			Example: "  podid sandbox node exec node-0 -- nft list ruleset",
			Args:    cobra.MinimumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				s, _, err := open.open(cmd)
				if err != nil {
					return err
				}
				argv := args[1:]
				if len(argv) == 0 {
					argv = []string{"/bin/sh"}
				}
				return s.ExecNode(args[0], argv)
			},
		},
		&cobra.Command{
			Use:   "crash NODE",
			Short: "End everything on a node at once, as a power cut does",
			Args:  cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				s, _, err := open.open(cmd)
				if err != nil {
					return err
				}
				return s.CrashNode(args[0])
			},
		},
		newSandboxNodeBootCommand(open),
	)
	return cmd
}

// newSandboxNodeBootCommand returns the command that starts a crashed node again.
func newSandboxNodeBootCommand(open *sandboxOpener) *cobra.Command {
	var capture, bin string
	cmd := &cobra.Command{
		Use:   "start NODE",
		Short: "Start a crashed node again, with its disk as it was",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := bootGuard(capture, bin)
			if err != nil {
				return err
			}
			s, report, err := open.open(cmd)
			if err != nil {
				return err
			}
			step := report.Start("start " + args[0])
			if err := s.StartNode(cmd.Context(), args[0], before...); err != nil {
				step.Fail()
				return err
			}
			step.Done("ready")
			return nil
		},
	}
	cmd.Flags().StringVar(&capture, "boot-guard", "", "run nmi --boot-guard with this --capture before the kubelet: wire, prefer or require (default: no boot guard)")
	cmd.Flags().StringVar(&bin, "bin", "", "folder with the program nmi (default podid's own)")
	return cmd
}

// bootGuard returns the program that closes the way to the metadata service after a boot, or none
// without a way of capture.
func bootGuard(capture, bin string) ([]sandbox.BootProgram, error) {
	if capture == "" {
		return nil, nil
	}
	if bin == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find podid itself: %w", err)
		}
		bin = filepath.Dir(self)
	}
	file := filepath.Join(bin, "nmi")
	if _, err := os.Stat(file); err != nil {
		return nil, fmt.Errorf("find nmi: %w; build it with `make build`", err)
	}
	return []sandbox.BootProgram{{File: file, Args: []string{"--boot-guard", "--capture=" + capture}}}, nil
}

// newNodeStartCommand returns the short-lived starter of a node's pid 1, which only the sandbox
// calls.
func newNodeStartCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "node-start SPEC",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find podid itself: %w", err)
			}
			pid, err := node.Launch(self, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), pid)
			return err
		},
	}
}

// newNodeInitCommand returns a node's pid 1, which only node-start calls.
func newNodeInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "node-init SPEC",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(cmd *cobra.Command, args []string) error { return node.Init(cmd.Context(), args[0]) },
	}
}

// newCNICommand returns the network plugin that the container runtime of a node calls.
func newCNICommand() *cobra.Command {
	return &cobra.Command{
		Use:    "cni",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cni.Run(os.Getenv("CNI_COMMAND"), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
