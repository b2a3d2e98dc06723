// The part of `podid cleanup node` that works on the node itself.

package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/hook/program"
)

// check fails for options that no NMI can have.
func (o *nodeCleanupOptions) check() error {
	_, err := o.redirect()
	return err
}

func (o *nodeCleanupOptions) redirect() (redirect.Config, error) {
	agent, err := netip.ParseAddr(o.address)
	if err != nil {
		return redirect.Config{}, fmt.Errorf("--agent-address=%q is not an IP address", o.address)
	}
	c := redirect.Config{
		MetadataIP: netip.MustParseAddr(redirect.DefaultMetadataIP), MetadataPort: redirect.DefaultMetadataPort, AgentIP: agent, Table: o.table,
	}
	return c, c.Validate()
}

// cleanLocal cleans this machine.
func (o *nodeCleanupOptions) cleanLocal(cmd *cobra.Command) error {
	c, err := o.redirect()
	if err != nil {
		return err
	}
	found, err := redirect.Clean(cmd.Context(), c, o.wait, o.force)
	if err != nil {
		return fmt.Errorf("clean this node: %w", err)
	}
	if err := program.Remove(o.pins); err != nil {
		return fmt.Errorf("remove what captures inside pods: %w", err)
	}
	if !found {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "there is no redirect on this node")
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), "the redirect is gone: pods of this node reach the real metadata service")
	return err
}
