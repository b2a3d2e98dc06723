// nmi --boot-guard keeps pods from the metadata service between a boot and the agent's start.

package main

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/redirect"
)

// guardBoot adds the rules of the redirect, unless an agent serves.
func guardBoot(ctx context.Context, o *options, log logr.Logger) error {
	config, err := o.privileged.Redirect(o.ports.nmi)
	if err != nil {
		return err
	}
	guarded, err := redirect.Guard(ctx, config)
	if err != nil {
		return fmt.Errorf("add the rules before the agent runs: %w", err)
	}
	log = log.WithValues("table", config.Table, "address", config.AgentIP.String())
	if guarded {
		log.Info("put the rules in place: pods are refused until an agent serves")
	} else {
		log.Info("left the rules to the agent that serves")
	}
	return nil
}
