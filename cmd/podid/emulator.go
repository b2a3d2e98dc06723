// The command `podid emulator`: its flags, and what it prints.
package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newEmulatorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "emulator",
		Short: "Run an Azure on this machine: ARM, Entra ID and the instance metadata service",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("the emulator is not built yet") },
	}
}
