// The command `podid sandbox`: a whole cluster with an emulated Azure on one machine.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/node"
	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

func newSandboxCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run a Kubernetes cluster with an emulated Azure on this machine",
	}
	cmd.PersistentFlags().StringVar(&name, "name", sandbox.DefaultName, "which sandbox; several can run side by side")
	cmd.AddCommand(
		newSandboxUpCommand(&name),
		newSandboxDownCommand(&name),
		newSandboxPrepareCommand(),
		newNodeStartCommand(),
		newNodeInitCommand(),
	)
	return cmd
}

func newSandboxUpCommand(name *string) *cobra.Command {
	o := sandbox.Options{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the sandbox, or find that it runs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := sandbox.New(*name, progress.New(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			return s.Up(cmd.Context(), o)
		},
	}
	cmd.Flags().IntVar(&o.Nodes, "nodes", 2, "how many nodes")
	cmd.Flags().DurationVar(&o.ARMUpdate, "arm-update", 2*time.Second, "how long the emulated Azure takes to change a scale set's identities")
	cmd.Flags().StringSliceVar(&o.Images, "image", nil, "image archive that the nodes import; may be repeated")
	return cmd
}

func newSandboxDownCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the sandbox and everything that belongs to it, also after a crash",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report := progress.New(cmd.ErrOrStderr())
			s, err := sandbox.New(*name, report)
			if err != nil {
				return err
			}
			step := report.Start("take sandbox down")
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

func newSandboxPrepareCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "prepare",
		Short: "Build or download the programs that a sandbox and the API-server tests need",
		Args:  cobra.NoArgs,
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

// newNodeStartCommand is the short-lived starter of a node's pid 1; only `sandbox up` calls it.
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

// newNodeInitCommand is a node's pid 1; only node-start calls it.
func newNodeInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "node-init SPEC",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(cmd *cobra.Command, args []string) error { return node.Init(cmd.Context(), args[0]) },
	}
}
