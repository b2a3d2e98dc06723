// Command podid is the command line tool of the project. It federates identities with Azure, cleans
// up after MIC, and runs an emulated Azure and a cluster on one machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/podid-io/podid/internal/build"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// exitCoder is an error with an exit code. Every other error means 1, as with kubectl.
type exitCoder interface{ ExitCode() int }

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand() //nolint:contextcheck // cobra hands the context to the commands: ExecuteContext
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintln(stderr, "error:", err)
	var coder exitCoder
	if errors.As(err, &coder) {
		return coder.ExitCode()
	}
	return 1
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "podid",
		Short: "Azure identities for pods: federating, cleaning up, and an Azure and a cluster on one machine",
		Long: "podid gives Kubernetes pods an Azure identity without a secret in the pod.\n" +
			"This is its command line tool.",
		Version:       build.Describe().String(),
		SilenceErrors: true, // run prints them, once
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: displayName(os.Args[0])},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.AddCommand(newCleanupCommand(), newEmulatorCommand(), newIdentityCommand(), newSandboxCommand())
	pointToHelp(root)
	return root
}

// displayName returns what users type: kubectl runs a program of the name kubectl-podid as its own
// command.
func displayName(program string) string {
	name := strings.TrimSuffix(filepath.Base(program), ".exe")
	if name == "kubectl-podid" {
		return "kubectl podid"
	}
	return "podid"
}

// pointToHelp makes errors about arguments refer to the help text, as errors about flags do.
func pointToHelp(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())
			}
			return nil
		}
	}
	for _, child := range cmd.Commands() {
		pointToHelp(child)
	}
}
