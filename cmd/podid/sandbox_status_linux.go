// The command `podid sandbox status`.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/podid-io/podid/internal/sandbox"
)

func newSandboxStatusCommand(open *sandboxOpener) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what runs; exits with 1 when there is no sandbox, or something in it does not run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, _, err := open.open(cmd)
			if err != nil {
				return err
			}
			status, err := s.Status(cmd.Context())
			if err != nil {
				return err
			}
			if err := printStatus(cmd.OutOrStdout(), status, output); err != nil {
				return err
			}
			if status.Phase != string(sandbox.Up) {
				return fmt.Errorf("sandbox %q is %s; see `podid sandbox logs`", status.Name, status.Phase)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml or wide")
	return cmd
}

func printStatus(out io.Writer, s sandbox.Status, format string) error {
	switch format {
	case "json":
		b, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return fmt.Errorf("print status: %w", err)
		}
		_, err = fmt.Fprintln(out, string(b))
		return err
	case "yaml":
		b, err := yaml.Marshal(s)
		if err != nil {
			return fmt.Errorf("print status: %w", err)
		}
		_, err = out.Write(b)
		return err
	case "", "wide":
		return printStatusTable(out, s, format == "wide")
	default:
		return fmt.Errorf("output format %q: use json, yaml or wide", format)
	}
}

func printStatusTable(out io.Writer, s sandbox.Status, wide bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) } // Flush returns errors
	line("sandbox %q is %s, %s, data plane %s", s.Name, s.Phase, s.Kubernetes, s.Dataplane)
	if wide {
		line("KUBECONFIG %s, network namespace %s", s.Kubeconfig, s.Namespace)
		line("emulated Azure: ARM https://%s, Entra ID https://%s, control http://%s", s.Azure.ARM, s.Azure.Entra, s.Azure.Control)
	}
	header := "\nCOMPONENT\tSTATE\tMEMORY"
	if wide {
		header += "\tPID\tADDRESS\tLOG"
	}
	line("%s", header)
	for _, c := range s.Components {
		row := fmt.Sprintf("%s\t%s\t%d MiB", c.Name, c.State, c.MemoryMiB)
		if wide {
			row += fmt.Sprintf("\t%d\t%s\t%s", c.PID, c.Address, c.Log)
		}
		line("%s", row)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print status: %w", err)
	}
	return nil
}
