// The command `podid emulator`: its flags and its output.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/podid-io/podid/internal/emulator"
	"github.com/podid-io/podid/internal/emulator/world"
)

const emulatorLong = `Run an Azure on this machine: Azure Resource Manager (VMs, scale sets and their identities), Entra ID
(token endpoints with real, verifiable tokens) and the instance metadata service.

It listens on loopback addresses, certified by a CA of its own, and stays until it is interrupted. The directory keeps
the keys and the world (world.yaml, made on the first run: edit it at will), and holds files for clients: ca.crt,
azure.json, azurestackcloud.json (for AZURE_ENVIRONMENT_FILEPATH) and endpoints.json.

Rate limits are Azure's; --no-limits switches them off. See docs/emulator.md for the world's format, faults and the
control API.`

const emulatorExample = `  podid emulator
  podid emulator --dir ./azure --world world.yaml --update-duration 40s
  curl -H Metadata:true 'http://127.0.0.1:8445/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net'`

// emulatorOptions are the flags of `podid emulator`.
type emulatorOptions struct {
	config         emulator.Config
	worldFile      string
	output         string
	noLimits       bool
	updateDuration time.Duration
	verbose        bool
}

func newEmulatorCommand() *cobra.Command {
	o := &emulatorOptions{}
	cmd := &cobra.Command{
		Use:     "emulator",
		Short:   "Run an Azure on this machine: ARM, Entra ID and the instance metadata service",
		Long:    emulatorLong,
		Example: emulatorExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(cmd); err != nil {
				return err
			}
			return o.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.config.Dir, "dir", "", "directory for keys, world and client files (default the user's cache directory)")
	flags.StringVar(&o.worldFile, "world", "", "YAML file with the world to start with (default DIR/world.yaml)")
	flags.StringVar(&o.config.ARMAddress, "arm-address", "127.0.0.1:8443", "`host:port` of Azure Resource Manager (https)")
	flags.StringVar(&o.config.EntraAddress, "entra-address", "127.0.0.1:8444", "`host:port` of Entra ID (https)")
	flags.StringVar(&o.config.IMDSAddress, "imds-address", "127.0.0.1:8445", "`host:port` of the instance metadata service (http)")
	flags.StringVar(&o.config.ControlAddress, "control-address", "127.0.0.1:8446", "`host:port` of the control API (http, no password)")
	flags.StringVar(&o.config.ARMURL, "arm-url", "", "URL of ARM as clients are told (default from --hosts or the address)")
	flags.StringVar(&o.config.EntraURL, "entra-url", "", "URL of Entra ID as clients are told, also the tokens' issuer")
	flags.StringSliceVar(&o.config.Hosts, "hosts", nil, "more names and IP addresses for the server certificate; clients are told the first")
	flags.BoolVar(&o.config.AllowNonLoopback, "allow-non-loopback", false, "allow listening where other machines can reach it")
	flags.BoolVar(&o.noLimits, "no-limits", false, "switch Azure's rate limits off")
	flags.DurationVar(&o.updateDuration, "update-duration", 0, "how long writes to VMs and scale sets take (default from the world: 2s)")
	flags.StringVarP(&o.output, "output", "o", "text", "how to print the endpoints: text or json")
	flags.BoolVar(&o.verbose, "verbose", false, "log every request")
	return cmd
}

// complete sets what depends on the machine and on other flags, and validates the options.
func (o *emulatorOptions) complete(cmd *cobra.Command) error {
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("--output %q: expected text or json", o.output)
	}
	if o.updateDuration < 0 {
		return fmt.Errorf("--update-duration %s: cannot be negative", o.updateDuration)
	}
	if o.config.Dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("no cache directory: %w; use --dir", err)
		}
		o.config.Dir = filepath.Join(cache, "podid", "emulator")
	}
	if o.worldFile != "" {
		doc, err := world.ReadFile(o.worldFile)
		if err != nil {
			return err
		}
		o.config.World = &doc
	}
	o.config.Adjust = func(doc *world.Document) {
		if o.noLimits {
			doc.Settings.Limits.Enabled = false
		}
		if cmd.Flags().Changed("update-duration") {
			doc.Settings.ARM.UpdateDuration = world.Duration(o.updateDuration)
		}
	}
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	o.config.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	return nil
}

// run starts the emulator, prints its endpoints, and runs it until the context ends.
func (o *emulatorOptions) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	e, err := emulator.Start(ctx, o.config)
	if err != nil {
		return err
	}
	end := context.WithoutCancel(ctx)
	if err := o.announce(cmd.OutOrStdout(), e.Endpoints()); err != nil {
		_ = e.Close(end)
		return fmt.Errorf("print endpoints: %w", err)
	}
	select {
	case <-ctx.Done():
		return e.Close(end)
	case err := <-e.Failed():
		_ = e.Close(end)
		return err
	}
}

// announce prints the endpoints. Its last line means that they answer.
func (o *emulatorOptions) announce(w io.Writer, e emulator.Endpoints) error {
	if o.output == "json" {
		return json.NewEncoder(w).Encode(e)
	}
	_, err := fmt.Fprintf(w, `ARM       %s
Entra ID  %s
IMDS      %s
control   %s
files     %s
ready
`, e.ARM, e.Entra, e.IMDS, e.Control, e.Dir)
	return err
}
