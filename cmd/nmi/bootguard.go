// nmi --boot-guard: no pod reaches the metadata service between a boot and the agent's start.

package main

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/redirect"
)

// guardBoot is what nmi --boot-guard does instead of serving.
func guardBoot(ctx context.Context, o *options, log logr.Logger) error {
	config, err := o.redirect.config(o.ports.nmi)
	if err != nil {
		return err
	}
	guarded, err := redirect.Guard(ctx, config)
	if err != nil {
		return fmt.Errorf("put the rules in place before the agent runs: %w", err)
	}
	log = log.WithValues("table", config.Table, "address", config.AgentIP.String())
	if guarded {
		log.Info("put the rules in place: pods are refused until an agent serves")
	} else {
		log.Info("left the rules to the agent that serves")
	}
	return nil
}
