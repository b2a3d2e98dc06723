//go:build !linux

// What needs Linux, on other systems: it says so.

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func newSandboxCommand() *cobra.Command {
	return linuxOnly("sandbox", "Run a Kubernetes cluster with an emulated Azure (on Linux)",
		"a sandbox is made of network namespaces: run it on Linux, for example in a virtual machine")
}

// check leaves it to the pods, which run on Linux, to look at the options.
func (*nodeCleanupOptions) check() error { return nil }

func (*nodeCleanupOptions) cleanLocal(*cobra.Command) error {
	return fmt.Errorf("--local does not work on %s: run it on the node, or name the node", runtime.GOOS)
}

// linuxOnly returns a command that accepts all arguments and explains why it does nothing.
func linuxOnly(name, short, why string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("%s does not work on %s: %s", cmd.CommandPath(), runtime.GOOS, why)
		},
	}
}
