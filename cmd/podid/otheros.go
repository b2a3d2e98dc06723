//go:build !linux

// The commands that need Linux, on other systems: they say so.

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

func newNodeCleanupCommand() *cobra.Command {
	return linuxOnly("node", "Remove what NMI left on a node (on Linux)", "run it on the node")
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
