// The command `podid sandbox demo`, which demonstrates the product from end to end on this machine.

package main

import (
	"github.com/spf13/cobra"

	"github.com/podid-io/podid/internal/sandbox/demo"
)

func newSandboxDemoCommand(open *sandboxOpener) *cobra.Command {
	o := demo.Options{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job: a pod on a real cluster gets a token, another one is refused",
		Long: "Starts a sandbox, installs podid from its Helm chart, and applies an identity, a binding and two pods. Prints\n" +
			"what happened and when, and removes the sandbox. Interrupting it at any point leaves nothing behind.\n" +
			"The sandbox is called demo unless --name says otherwise.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			if !cmd.Flags().Changed("name") {
				open.name = "demo" // so that a sandbox in use is left alone
			}
			s, report, err := open.open(cmd)
			if err != nil {
				return err
			}
			return orInterruption(cmd.Context(), demo.New(s, report, cmd.OutOrStdout(), o).Run(cmd.Context()))
		},
	}
	bindUpFlags(cmd, &o.Up)
	cmd.Flags().StringVar(&o.Capture, "capture", "", "how NMI gets requests of pods: wire, prefer or require; by default prefer (see docs/interception.md)")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave the sandbox up")
	cmd.Flags().StringVar(&o.Bin, "bin", "", "folder with the programs mic and nmi (default podid's own)")
	return cmd
}
